"""How the time t (iLLaDA: the masking ratio) of each segment is drawn."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from illada_lab.diffusion.randomness import TIMES, RowRandom

# Fractional part of the golden ratio: adding its multiples mod 1 spreads any number of points evenly.
GOLDEN = 0.6180339887498949


@runtime_checkable
class Times(Protocol):
    """Draws one time in (0, 1] for each segment of each row; every single one is uniform."""

    def __call__(self, random: RowRandom, n_segments: int) -> Float[Tensor, "B n_segments"]:
        """Times of all rows and segments."""
        ...


class UniformTimes:
    """Independent t ~ U(0, 1].

    Source: iLLaDA, objective.
    """

    def __call__(self, random: RowRandom, n_segments: int) -> Float[Tensor, "B n_segments"]:
        """1 - u, because u may be 0 and t may not."""
        # Not from the stream of the masks: of those as many are drawn as the longest row of a batch has positions.
        return 1 - random.uniform(n_segments, TIMES)


class StratifiedTimes:
    """Evenly spread t: rows of a group share one uniform offset and stand at the points of a van der Corput sequence.

    Every t alone is uniform, so the bound stays unbiased; together they cover (0, 1] evenly, which takes most of the noise of t out
    of the gradient. Segments inside a row are golden-ratio steps apart.

    Args:
        group_size: rows that share an offset, a power of two. Any 2^k successive rows of a group are evenly spread, so it need
            not equal the batch size.

    Source: our choice, after the low-discrepancy sampler of variational diffusion models (Kingma et al. 2021) that MDLM uses; the
        van der Corput order makes it a function of the row's number alone, the same for every batch and world size.
    """

    def __init__(self, *, group_size: int = 64) -> None:
        if group_size < 1 or group_size & (group_size - 1):
            nearest = 2 ** max(0, round(max(group_size, 1)).bit_length() - 1)
            raise ValueError(f"group_size = {group_size}; must be a power of two; nearest: {nearest} or {2 * nearest}")
        self.group_size = group_size

    def __call__(self, random: RowRandom, n_segments: int) -> Float[Tensor, "B n_segments"]:
        """Offset of the group + place in the group + golden steps, mod 1, turned into (0, 1]."""
        place = torch.tensor([[_van_der_corput(int(i) % self.group_size)] for i in random.index], dtype=torch.float64)
        steps = torch.arange(n_segments, dtype=torch.float64, device=random.device) * GOLDEN
        return 1 - (random.group_uniform(self.group_size) + place.to(random.device) + steps) % 1


class AntitheticTimes:
    """Pairs of rows at t and 1 - t (segments inside a row stay independent).

    Source: our choice, the simplest variance reduction that keeps t uniform; MDLM's option of the same name stratifies.
    """

    def __call__(self, random: RowRandom, n_segments: int) -> Float[Tensor, "B n_segments"]:
        """Rows 2k and 2k + 1 of the data stream are a pair; its first segments are mirrored."""
        t = random.uniform(n_segments, TIMES)
        shared = random.group_uniform(2)
        is_second = torch.from_numpy(random.index % 2 == 1).to(random.device)[:, None]
        t[:, :1] = torch.where(is_second, (1 - shared) % 1, shared)
        return 1 - t


def _van_der_corput(i: int) -> float:
    """Binary digits of i mirrored behind the point: 0, 1/2, 1/4, 3/4, 1/8, ..."""
    value, unit = 0.0, 0.5
    while i:
        value, i, unit = value + unit * (i & 1), i >> 1, unit / 2
    return value
