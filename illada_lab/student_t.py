"""Student's t: what few seeds allow to say."""

import math
from collections.abc import Sequence
from functools import cache


@cache
def t_quantile(probability: float, freedom: int) -> float:
    """Value that Student's t stays below with this probability.

    Args:
        probability: 0.5 to below 1.
        freedom: degrees of freedom, 1 or more.

    Source: with t = sqrt(freedom) tan(angle) the density is a power of the cosine of the angle: Simpson's rule and bisection.
    """
    constant = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)

    def above_half(angle: float, n: int = 400) -> float:
        heights = [math.cos(i * angle / n) ** (freedom - 1) for i in range(n + 1)]
        return (
            constant
            * angle
            / (3 * n)
            * (heights[0] + heights[-1] + 4 * sum(heights[1:-1:2]) + 2 * sum(heights[2:-1:2]))
        )

    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if above_half(middle) < probability - 0.5 else (low, middle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1) of two or more values.

    Raises:
        ValueError: fewer than two values.
    """
    n = len(values)
    if n < 2:
        raise ValueError(f"values = {n}; one value has no spread; 2 or more")
    mean = sum(values) / n
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))


def prediction_interval(values: Sequence[float]) -> tuple[float, float]:
    """Interval in which one more value of the same kind lies with 95 %.

    Args:
        values: independent, normal, one per run.

    Raises:
        ValueError: fewer than two values.

    Source: the difference of a new value and the mean of n has variance s^2 (1 + 1/n). The range of n values would hold the next one with
        (n - 1) / (n + 1) only: half of the time with three.
    """
    mean, spread = mean_and_spread(values)
    n = len(values)
    half = t_quantile(0.975, n - 1) * spread * math.sqrt(1 + 1 / n)
    return mean - half, mean + half


def place(value: float | int, low: float | int, high: float | int) -> str:
    """A value beside the ends of such an interval, in a word."""
    return "usual" if low <= value <= high else "higher than usual" if value > high else "lower than usual"
