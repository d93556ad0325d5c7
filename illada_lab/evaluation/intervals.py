"""Intervals for measured shares."""

import math


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
