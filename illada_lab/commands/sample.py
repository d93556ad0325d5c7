"""`illada-lab sample`: let a model write."""

import sys

from omegaconf import DictConfig


def run(config: DictConfig) -> int:
    """Print responses to a prompt; a fine-tuned model is asked through its chat format."""
    import torch

    from illada_lab.config import build
    from illada_lab.data.chat import ChatTemplate
    from illada_lab.evaluation.generation import generate

    loaded = load(config)
    sampler = build(config.sampler)
    tokens = loaded.tokenizer.tokens
    if is_chat(loaded.config):
        if config.prompt is None:
            raise ValueError("prompt = null; a fine-tuned model answers questions; prompt='where does ada live ?'")
        prompt = ChatTemplate(loaded.tokenizer).prompt([{"role": "user", "content": config.prompt}])
    else:
        prompt = [tokens.opening(bool(loaded.config["data"].get("adds_bos")))]
        prompt += loaded.tokenizer.encode_known(config.prompt) if config.prompt else []
    n_samples = config.n_samples
    if n_samples > 1 and sampler.temperature == 0 and sampler.remasking != "random":
        print(
            f"n_samples = {n_samples}; has no effect at temperature 0: all would be alike; sampler.temperature=1",
            file=sys.stderr,
        )
        n_samples = 1
    generator = torch.Generator().manual_seed(config.seed)
    written, seconds = generate(loaded.predictor, loaded.tokenizer, [prompt] * n_samples, sampler, generator=generator)
    for one in written:
        print(f"{config.prompt} |" if config.prompt else "|", one.text)
    print(f"({sum(g.nfe for g in written)} passes, {seconds:.1f} s)")
    return 0


def load(config: DictConfig):
    """The model a command is asked to use."""
    from illada_lab.training.checkpoint import load_run

    if config.checkpoint is None:
        raise ValueError("checkpoint = null; which model?; checkpoint=runs/<name> of a run that has been trained")
    return load_run(config.checkpoint)


def is_chat(config: dict) -> bool:
    """Whether a run was trained on conversations."""
    source = config["data"]["source"]
    return source.get("stage") == "sft" or bool(source.get("messages_field"))
