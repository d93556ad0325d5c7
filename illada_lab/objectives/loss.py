"""What an objective returns, and the cross-entropy it is made of."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from illada_lab.data.batch import Batch
from illada_lab.diffusion.randomness import RowRandom
from illada_lab.models.protocol import HiddenPredictor
from illada_lab.shapes import Segments, Tokens

# Logits alive at once, in entries: 2^25 float32 entries are 128 MiB. Our choice: large enough that a chunk keeps a GPU busy,
# small beside the activations of any model whose vocabulary makes chunks necessary.
MAX_LOGITS = 2**25


@dataclass
class Loss:
    """One evaluation of an objective.

    Attributes:
        value: what is minimised; for the bounds nats per token.
        n_predicted: positions that were predicted.
        n_tokens: positions that could have been.
    """

    value: Float[Tensor, ""]
    n_predicted: int
    n_tokens: int


@runtime_checkable
class Objective(Protocol):
    """A training objective: rows of clean tokens in, one loss out."""

    def __call__(self, predictor: HiddenPredictor, batch: Batch, random: RowRandom) -> Loss:
        """The loss of one batch."""
        ...


def cross_entropy_at(
    predictor: HiddenPredictor,
    x: Tokens,
    targets: Tokens,
    is_wanted: Bool[Tensor, "B L"],
    segment_ids: Segments | None = None,
) -> Float[Tensor, " M"]:
    """-log p(target | x) in nats at the wanted positions, row by row, without ever holding all their logits.

    The head runs at the wanted positions only and in chunks whose logits are recomputed in the backward pass; reduction in float32.

    Args:
        predictor: gives the hidden states and the head.
        x: input tokens.
        targets: the token to predict at each position.
        is_wanted: where to predict.
        segment_ids: positions see their own segment only; None: all.
    """
    h = predictor.hidden(x, segment_ids=segment_ids)[is_wanted]
    wanted = targets[is_wanted]
    chunk = max(1, MAX_LOGITS // predictor.head_weight.shape[0])
    if len(wanted) <= chunk:
        return predictor.token_losses(h, wanted)
    parts = zip(h.split(chunk), wanted.split(chunk), strict=True)
    return torch.cat([checkpoint(predictor.token_losses, part, goal, use_reentrant=False) for part, goal in parts])


def spread(values: Float[Tensor, " M"], is_wanted: Bool[Tensor, "B L"]) -> Float[Tensor, "B L"]:
    """Values of the wanted positions at their places, 0 elsewhere; the inverse of `rows[is_wanted]`."""
    return torch.zeros(is_wanted.shape, dtype=values.dtype, device=values.device).masked_scatter(is_wanted, values)
