"""Which predictions are revealed at a step: a fixed number, or as many as are sure enough."""

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from illada_lab.samplers.confidence import NATS, PROBABILITY


@runtime_checkable
class Transfer(Protocol):
    """Decides how many predictions are revealed; of every row at least one, so that each step comes nearer to the end."""

    needs: ClassVar[tuple[str, ...]]
    """Units (or names) of the confidence rules whose numbers it can read; empty: any, as an order."""

    def __call__(self, confidence: Float[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
        """What is revealed; `confidence` is -inf where nothing can be."""
        ...


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Everything at least this sure, and always the surest.

    Probabilities are float32, in which all above about 1 - 6e-8 are 1.0: a threshold of 1 reveals all of those at once, and not one token
    a step. Fast-dLLM's published code takes float64, where fewer are.

    Args:
        threshold: probability, above 0, at most 1.

    Raises:
        ValueError: a threshold out of range.

    Source: Fast-dLLM (arXiv 2505.22618), confidence-aware parallel decoding; default 0.9.
    """

    threshold: float = 0.9
    needs: ClassVar[tuple[str, ...]] = (PROBABILITY,)

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold = {self.threshold}; a probability; above 0, at most 1")

    def __call__(self, confidence: Tensor) -> Tensor:
        """See `Transfer`."""
        return (confidence >= self.threshold) | _surest(confidence)


@dataclass(frozen=True, kw_only=True)
class Factor:
    """The n surest, n as large as (n + 1) (1 - confidence of the n-th) < factor allows, and always the surest.

    Args:
        factor: above 0. At 1 the product of the marginals has the joint distribution's likeliest tokens, if the marginals are right.

    Raises:
        ValueError: a factor out of range.

    Source: Fast-dLLM, factor-based decoding and its Theorem 1; default 1.
    """

    factor: float = 1.0
    needs: ClassVar[tuple[str, ...]] = (PROBABILITY,)

    def __post_init__(self) -> None:
        if not self.factor > 0:
            raise ValueError(f"factor = {self.factor}; must be positive; 1.0 is the published one")

    def __call__(self, confidence: Tensor) -> Tensor:
        """See `Transfer`."""
        value, order = confidence.sort(dim=1, descending=True, stable=True)
        n = torch.arange(1, value.shape[1] + 1, device=value.device)
        # The left side grows with n, so those that hold stand in front.
        is_accepted = (n + 1) * (1 - value) < self.factor
        is_accepted[:, 0] = True
        return torch.zeros_like(is_accepted).scatter(1, order, is_accepted) & (confidence > -torch.inf)


@dataclass(frozen=True, kw_only=True)
class EntropyBound:
    """The predictions of lowest entropy, as long as the entropies of all but the last of them add up to no more than the bound.

    Args:
        bound: nats, 0 or more; 0 reveals one at a time but for what is certain.

    Raises:
        ValueError: a negative bound.

    Source: EB-sampling (arXiv 2505.24857); 0.1 in DiffusionGemma's published code.
    """

    bound: float = 0.1
    needs: ClassVar[tuple[str, ...]] = (NATS,)

    def __post_init__(self) -> None:
        if not self.bound >= 0:
            raise ValueError(f"bound = {self.bound}; nats; 0 or more")

    def __call__(self, confidence: Tensor) -> Tensor:
        """See `Transfer`; the confidence is minus the entropy."""
        value, order = (-confidence).sort(dim=1, stable=True)
        # In float64: where the sum meets what is not eligible (inf) the difference would be nan.
        before = torch.nn.functional.pad(value.double().cumsum(1)[:, :-1], (1, 0))
        is_accepted = before <= self.bound
        return torch.zeros_like(is_accepted).scatter(1, order, is_accepted) & (confidence > -torch.inf)


def transfer_counts(n_masked: Int[Tensor, " B"], n_steps: int) -> Int[Tensor, "B S"]:
    """Fixed quota: masks spread evenly over the steps, the remainder going to the first ones.

    Args:
        n_masked: masks of each row at the start of a block.
        n_steps: steps of the block.

    Source: LLaDA's published sampler.
    """
    base, rest = n_masked // n_steps, n_masked % n_steps
    is_early = torch.arange(n_steps, device=n_masked.device)[None, :] < rest[:, None]
    return base[:, None] + is_early.long()


def most_confident(confidence: Float[Tensor, "B L"], counts: Int[Tensor, " B"]) -> Bool[Tensor, "B L"]:
    """The `counts` most confident positions of each row.

    Of equal ones those that `torch.topk` takes from the whole row, as in the published code: deferred EOS all have confidence 0, so ties
    are common, and any other choice would part from it. Which those are depends on the row's width, padding included: as there, a row
    with such a tie may be another beside a longer prompt than alone.

    Args:
        confidence: -inf where nothing can be revealed.
        counts: how many per row, never more than are eligible.
    """
    is_chosen = torch.zeros_like(confidence, dtype=torch.bool)
    listed = counts.tolist()
    for n in sorted(set(listed) - {0}):
        rows = counts == n
        part = confidence[rows]
        is_chosen[rows] = torch.zeros_like(part, dtype=torch.bool).scatter(1, part.topk(n, dim=1).indices, True)
    return is_chosen & (confidence > -torch.inf)


def _surest(confidence: Tensor) -> Tensor:
    """The most confident position of each row that has one."""
    best = confidence.argmax(1, keepdim=True)
    return torch.zeros_like(confidence, dtype=torch.bool).scatter(1, best, True) & (confidence > -torch.inf)
