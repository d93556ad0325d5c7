"""Masking schedules: from a time t to the probability that a token is masked, and its weight in the bound."""

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Schedule(Protocol):
    """How the masking probability rises with t, and what the bound pays for it.

    With alpha(t) the probability that a token is still clean, a masked token weighs -alpha'(t) / (1 - alpha(t)). The bound is the
    same for every schedule; its variance is not.
    """

    def mask_probability(self, t: Tensor) -> Tensor:
        """Probability that a token is masked at time t, any shape -> the same shape."""
        ...

    def weight(self, t: Tensor) -> Tensor:
        """Weight of a masked token's cross-entropy in the bound at time t, any shape -> the same shape."""
        ...

    def time(self, mask_probability: Tensor) -> Tensor:
        """Inverse of `mask_probability`."""
        ...


class LinearSchedule:
    """iLLaDA's schedule: the masking probability is t itself, the weight 1/t.

    Args:
        min_probability: smallest masking probability, eps in p = (1 - eps) t + eps, in [0, 1). With eps > 0 the weight is 1/p as
            published, which leaves out the bound's share below eps and weighs the rest by 1 / (1 - eps) too much. With masks drawn at
            t itself a row of L tokens has one at t < eps about once in 2 / (eps^2 L) draws (once in 1 / eps where eps L is large).

    Source: iLLaDA, objective; LLaDA's published code for eps = 1e-3. Our default is 0: t is drawn above 0 anyway, and the
        bound stays exact.
    """

    def __init__(self, *, min_probability: float = 0.0) -> None:
        if not 0 <= min_probability < 1:
            raise ValueError(
                f"min_probability = {min_probability}; a probability below 1; 0 or more, for example 0.001"
            )
        self.min_probability = min_probability

    def mask_probability(self, t: Tensor) -> Tensor:
        """(1 - eps) t + eps."""
        return (1 - self.min_probability) * t + self.min_probability

    def weight(self, t: Tensor) -> Tensor:
        """1 / p."""
        return 1 / self.mask_probability(t)

    def time(self, mask_probability: Tensor) -> Tensor:
        """(p - eps) / (1 - eps)."""
        return (mask_probability - self.min_probability) / (1 - self.min_probability)


class CosineSchedule:
    """Masking probability 1 - cos(pi t / 2): few masks for most of the time.

    Source: MaskGIT's schedule in the bound of MDLM and MD4 (weight -alpha'/(1 - alpha)); here to show that the bound does
        not depend on the schedule, only its variance does.
    """

    def mask_probability(self, t: Tensor) -> Tensor:
        """1 - cos(pi t / 2)."""
        return 1 - torch.cos(t * math.pi / 2)

    def weight(self, t: Tensor) -> Tensor:
        """(pi / 2) sin(pi t / 2) / (1 - cos(pi t / 2)) = (pi / 2) / tan(pi t / 4)."""
        return (math.pi / 2) / torch.tan(t * math.pi / 4)

    def time(self, mask_probability: Tensor) -> Tensor:
        """(2 / pi) arccos(1 - p)."""
        return torch.arccos(1 - mask_probability) * 2 / math.pi
