"""`illada-lab config`: the composed configuration, and the size of its model."""

from omegaconf import DictConfig, OmegaConf


def run(config: DictConfig) -> int:
    """Print the configuration as YAML and, last, the exact number of parameters."""
    print(OmegaConf.to_yaml(config, resolve=False), end="")
    spec = model_spec(config)
    print(f"parameters: {spec.n_parameters:,} (non-embedding {spec.n_non_embedding_parameters:,})")
    return 0


def model_spec(config: DictConfig):
    """Sizes of the configured model, built on the meta device: no memory, whatever the scale."""
    import torch

    from illada_lab.config import build
    from illada_lab.tokens import ILLADA

    sizes = {}
    if config.model.vocab_size is None:
        # A world's vocabulary is known without data; others are as large as the tokenizer is told to become.
        from illada_lab.tokens import OWN_SPECIAL_TEXT

        if "worlds" in str(config.data.source._target_):
            sizes["vocab_size"] = len(build(config.data.source).words) + len(OWN_SPECIAL_TEXT)
        else:
            sizes["vocab_size"] = config.tokenizer.get("vocab_size", 256 + len(OWN_SPECIAL_TEXT))
    with torch.device("meta"):
        # Which special tokens does not matter for the size.
        return build(config.model, tokens=ILLADA, **sizes).spec
