"""Size of the configured model, before there is any data."""

import torch
from omegaconf import DictConfig

from illada_lab.config import build
from illada_lab.models import ModelSpec
from illada_lab.tokens import ILLADA


def model_spec(config: DictConfig) -> ModelSpec:
    """Sizes of the configured model, built on the meta device: no memory, whatever the scale.

    Raises:
        ValueError: the vocabulary is that of a tokenizer which cannot be read here.
    """
    sizes = {}
    if config.model.vocab_size is None:
        sizes["vocab_size"] = _vocab_size(config)
    with torch.device("meta"):
        # Which special tokens does not matter for the size.
        return build(config.model, tokens=ILLADA, **sizes).spec


def _vocab_size(config: DictConfig) -> int:
    """Tokens of the tokenizer that a run would have: known without data, told, or read where it lies."""
    # A world's texts are drawn here, and few: what a run would do, exactly.
    is_world = "worlds" in str(config.data.source._target_)
    if not is_world and (told := config.tokenizer.get("vocab_size")) is not None:
        return int(told)
    try:
        return build(config.tokenizer)(build(config.data.source)).vocab_size
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model.vocab_size = null; that of the tokenizer is not known ({error}); model.vocab_size=<tokens>"
        ) from error
