"""What an objective returns, and the cross-entropy it is made of."""

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from illada_lab.data.batch import Batch
from illada_lab.diffusion.randomness import RowRandom
from illada_lab.diffusion.schedule import LinearSchedule, Schedule
from illada_lab.diffusion.times import Times, UniformTimes
from illada_lab.models.protocol import HiddenPredictor
from illada_lab.shapes import Segments, Tokens


@dataclass
class Loss:
    """One evaluation of an objective.

    Attributes:
        value: what is minimised; for the bounds nats per token.
        n_predicted: positions that were predicted.
        n_tokens: positions that could have been.
        n_averaged: what `value` is a mean over, as the weight of a batch among others; None: its tokens.
    """

    value: Float[Tensor, ""]
    n_predicted: int
    n_tokens: int
    n_averaged: int | None = None

    @property
    def weight(self) -> int:
        """Weight of this batch in a mean over several."""
        return self.n_tokens if self.n_averaged is None else self.n_averaged


@runtime_checkable
class Objective(Protocol):
    """A training objective: rows of clean tokens in, one loss out.

    Attributes:
        needs_causal: whether the network has to look backwards only; otherwise it must not.
        is_response_only: whether only responses are learnt from; only they are validated on then.

    One that has the attribute `meaning` says what its loss is, in a few words, which a run tells at its beginning.
    """

    needs_causal: ClassVar[bool]
    is_response_only: bool

    def __call__(self, predictor: HiddenPredictor, batch: Batch, random: RowRandom) -> Loss:
        """The loss of one batch."""
        ...


def bound_told(schedule: Schedule, times: Times) -> str:
    """What the weighted cross-entropy of masked tokens is: a bound where every t is uniform and none of it is left out."""
    left_out = schedule.min_probability if type(schedule) is LinearSchedule else 0.0
    if left_out:
        return f"a bound on -log p without its share of t below {left_out:g}"
    if type(times).__module__ != UniformTimes.__module__:
        return f"a bound on -log p if {type(times).__name__} draws every t uniformly"
    return "a bound on -log p"


def cross_entropy_at(
    predictor: HiddenPredictor,
    x: Tokens,
    targets: Tokens,
    is_wanted: Bool[Tensor, "B L"],
    segment_ids: Segments | None = None,
) -> Float[Tensor, " M"]:
    """-log p(target | x) in nats at the wanted positions, row by row; float32.

    The head runs at the wanted positions only, and the predictor never holds all logits of a large vocabulary (see `head_loss`).

    Args:
        predictor: gives the hidden states and the head.
        x: input tokens.
        targets: the token to predict at each position.
        is_wanted: where to predict.
        segment_ids: positions see their own segment only; None: all.
    """
    # Looked up before the pass: afterwards a GPU would be waited for, with nothing to do behind it.
    where = is_wanted.flatten().nonzero()[:, 0]
    h = predictor.hidden(x, segment_ids=segment_ids).flatten(0, 1)[where]
    return predictor.token_losses(h, targets.flatten()[where])


def spread(values: Float[Tensor, " M"], is_wanted: Bool[Tensor, "B L"]) -> Float[Tensor, "B L"]:
    """Values of the wanted positions at their places, 0 elsewhere; the inverse of `rows[is_wanted]`."""
    return torch.zeros(is_wanted.shape, dtype=values.dtype, device=values.device).masked_scatter(is_wanted, values)
