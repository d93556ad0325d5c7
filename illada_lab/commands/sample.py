"""`illada-lab sample`: let a model write."""

import sys
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

USED = ("checkpoint", "dtype", "prompt", "is_chat", "n_samples", "sampler", "seed", "trace", "trainer.accelerator")


def translate(overrides: Sequence[str]) -> list[str]:
    """The overrides; raises ValueError for those without effect."""
    from illada_lab.commands.effect import refuse_without_effect

    return refuse_without_effect("sample", overrides, USED)


def run(config: DictConfig, is_json: bool = False) -> int:
    """Print responses to a prompt; a fine-tuned model is asked through its chat format, unless `is_chat` says otherwise."""
    from illada_lab.commands.writing import INTERRUPTED, as_json, asks_in_chat, build_sampler, load, save_trace, write
    from illada_lab.evaluation.generation import texts_of
    from illada_lab.evaluation.health import health, panel
    from illada_lab.samplers import Infill

    loaded = load(config)
    refuse_causal(config, loaded)
    sampler = build_sampler(config, loaded)
    if isinstance(sampler, Infill):
        raise ValueError("sampler = infill; fills a given text; illada-lab infill text='... ___ ...'")
    ids = prompt_ids(config, loaded)
    written = write(loaded, sampler, ids, n_different(config, sampler), config.seed, is_quiet=is_json)
    if written.sampled is not None:
        written.texts = texts_of(written.sampled, sampler, loaded.tokenizer)
    is_asked, rows = asks_in_chat(config, loaded), written.rows
    found = health(rows, written.seconds, loaded.predictor.tokens, may_fill=not is_asked) if rows else []
    if is_json:
        print(as_json(config, written, found, prompt=config.prompt, is_chat=is_asked))
    else:
        for text in written.texts:
            print(f"{config.prompt} |" if config.prompt else "|", text)
        passes = INTERRUPTED if written.passes is None else f"{written.passes} passes"
        print(f"({passes}, {written.seconds:.1f} s)")
        if found:
            print(panel(found))
    save_trace(config, loaded, ids, written)
    return 130 if written.sampled is None else 0


def refuse_causal(config: DictConfig, loaded: Any) -> None:
    """Raise ValueError for an autoregressive model, which no sampler of this command can ask."""
    if loaded.predictor.spec.is_causal:
        raise ValueError(
            f"checkpoint = {config.checkpoint}; an autoregressive model, which fills in no masks; "
            "illada-lab evaluate, which lets it answer greedily, or a mask predictor"
        )


def prompt_ids(config: DictConfig, loaded: Any) -> list[int]:
    """Token ids of the prompt, in the form the model was trained on.

    Raises:
        ValueError: a fine-tuned model without a question, an unknown word, a prompt that spells the mask token.
    """
    from illada_lab.commands.writing import asks_in_chat
    from illada_lab.data.chat import ChatTemplate
    from illada_lab.tokens import has_bos_of

    if asks_in_chat(config, loaded):
        if config.prompt is None:
            raise ValueError(
                "prompt = null; a fine-tuned model answers questions; prompt='what did ada write ?', or is_chat=false"
            )
        return ChatTemplate(loaded.tokenizer).prompt([{"role": "user", "content": config.prompt}])
    ids = loaded.tokenizer.encode_prompt(config.prompt) if config.prompt else []
    return loaded.tokenizer.tokens.opened(ids, has_bos_of(loaded.config["data"]))


def n_different(config: DictConfig, sampler: Any) -> int:
    """How many samples differ from each other: without randomness one."""
    if config.n_samples > 1 and sampler.temperature == 0 and not sampler.is_random:
        print(
            f"n_samples = {config.n_samples}; has no effect at temperature 0: all would be alike; sampler.temperature=1",
            file=sys.stderr,
        )
        return 1
    return config.n_samples
