"""Intervals for measured shares."""

import math
from collections.abc import Sequence

import numpy as np


def wilson(n_correct: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share, Wilson's: inside [0, 1], and sensible at 0 and at n.

    Args:
        n_correct: successes.
        n: trials, 1 or more.
        z: quantile of the normal distribution.

    Source: Wilson (1927); the usual choice for accuracies near 1.
    """
    if n < 1 or not 0 <= n_correct <= n:
        raise ValueError(f"n_correct = {n_correct}, n = {n}; successes among trials; 0 <= n_correct <= n, n >= 1")
    p, scale = n_correct / n, 1 + z * z / n
    middle = (p + z * z / (2 * n)) / scale
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / scale
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap(is_correct: Sequence[bool], *, seed: int = 0, n_draws: int = 2000) -> tuple[float, float]:
    """95 % interval of a share, by drawing the items again and again with replacement.

    Args:
        is_correct: one for each item, 1 or more.
        seed: of the draws.
        n_draws: how often.

    Source: Efron 1979, percentile interval; it has no width where all items agree (Wilson's has).
    """
    if not len(is_correct):
        raise ValueError("is_correct = []; a share of nothing; at least one item")
    values = np.asarray(is_correct, dtype=float)
    random = np.random.Generator(np.random.PCG64(seed))
    means = [values[random.integers(len(values), size=len(values))].mean() for _ in range(n_draws)]
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def share_interval(is_correct: Sequence[bool], *, seed: int = 0) -> tuple[float, float]:
    """95 % interval of a share as every suite shows it: bootstrap, or Wilson's where all items agree and a bootstrap has no width."""
    n_correct, n = sum(is_correct), len(is_correct)
    return bootstrap(is_correct, seed=seed) if 0 < n_correct < n else wilson(n_correct, n)
