"""Activation checkpointing as a rehearsal needs it."""

from functools import partial
from typing import Literal

from torch.utils.checkpoint import checkpoint

from illada_lab.models import MaskPredictor

Recomputed = int | Literal["ops"] | None


def recompute(predictor: MaskPredictor, which: Recomputed) -> None:
    """Let layers compute their activations again in the backward pass.

    Args:
        predictor: its layers are changed.
        which: None: none; k: every k-th layer.

    Raises:
        ValueError: "ops", of which this version knows nothing.
    """
    if which == "ops":
        raise ValueError("trainer.activation_checkpointing = ops; cannot be planned yet; null, or 1 or more")
    for number, layer in enumerate(predictor.layers):
        if which is not None and number % which == 0:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
