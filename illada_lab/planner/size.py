"""Size of the configured model, before there is any data."""

import torch
from omegaconf import DictConfig

from illada_lab.config import build
from illada_lab.models import ModelSpec
from illada_lab.tokens import ILLADA, OWN_SPECIAL_TEXT


def model_spec(config: DictConfig) -> ModelSpec:
    """Sizes of the configured model, built on the meta device: no memory, whatever the scale."""
    sizes = {}
    if config.model.vocab_size is None:
        # A world's vocabulary is known without data; others are as large as the tokenizer is told to become.
        if "worlds" in str(config.data.source._target_):
            sizes["vocab_size"] = len(build(config.data.source).words) + len(OWN_SPECIAL_TEXT)
        else:
            sizes["vocab_size"] = config.tokenizer.get("vocab_size", 256 + len(OWN_SPECIAL_TEXT))
    with torch.device("meta"):
        # Which special tokens does not matter for the size.
        return build(config.model, tokens=ILLADA, **sizes).spec
