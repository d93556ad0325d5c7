"""The test behind the verdicts: its interval, and each of its rules."""

import math

import pytest
import torch

from illada_lab.experiments.acceleration import equal_quota
from illada_lab.experiments.claims import (
    INCONCLUSIVE,
    NOT_REPLICATED,
    REPLICATED,
    Claim,
    judge,
    t_interval,
    t_quantile,
)


def claim(**changes) -> Claim:
    known = dict(id="c", sentence="a is above b", source="us", paper="not reported", metric="a - b", unit="nats")
    return Claim(**{**known, **changes})


@pytest.mark.parametrize("level", [0.975, 0.9875])
@pytest.mark.parametrize("n", [1, 2, 5, 30])
def test_quantiles_leave_above_what_they_say(n, level):
    """Density of Student's t integrated from 0 to the quantile."""
    x = torch.linspace(0, t_quantile(level, n), 20_001, dtype=torch.float64)
    log_norm = math.lgamma((n + 1) / 2) - math.lgamma(n / 2) - 0.5 * math.log(n * math.pi)
    density = torch.exp(log_norm - (n + 1) / 2 * torch.log1p(x**2 / n))
    assert float(torch.trapezoid(density, x)) == pytest.approx(level - 0.5, abs=2e-6)


def test_quantiles_by_table():
    assert [round(t_quantile(0.975, n), 3) for n in (1, 2, 4, 30)] == [12.706, 4.303, 2.776, 2.042]


def test_two_looks_are_wrong_as_often_as_is_said():
    """Under no effect: three values, and two more where they leave the claim open. The first look does not know of the second."""
    drawn = torch.randn(4000, 5, generator=torch.Generator().manual_seed(0)).tolist()

    def is_decided(values, n_looks):
        low, high = t_interval(values, n_looks)
        return low > 0 or high < 0

    honest = sum(is_decided(v[:3], 1) or is_decided(v, 2) for v in drawn) / len(drawn)
    careless = sum(is_decided(v[:3], 1) or is_decided(v, 1) for v in drawn) / len(drawn)
    assert honest < 0.075 and honest + 0.01 < careless


def test_interval_by_hand():
    low, high = t_interval([1.0, 2.0, 3.0])
    assert (low + high) / 2 == pytest.approx(2.0)
    assert high - low == pytest.approx(2 * 4.30265 / math.sqrt(3), abs=1e-4)


def test_interval_covers_the_mean_as_often_as_it_says():
    drawn = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)).tolist()
    covered = sum(low <= 0 <= high for low, high in map(t_interval, drawn)) / len(drawn)
    assert covered == pytest.approx(0.95, abs=0.012)  # 3.5 standard errors


@pytest.mark.parametrize(
    ("effects", "rooms", "settings", "expected"),
    [
        ([0.3, 0.31, 0.32], (), {}, REPLICATED),
        ([0.3, 0.31], (), {}, INCONCLUSIVE),  # too few seeds
        ([-0.3, -0.31, -0.32], (), {}, NOT_REPLICATED),
        ([0.3, -0.3, 0.1], (), {}, INCONCLUSIVE),  # wide
        ([0.0, 0.0, 0.0], (), {}, NOT_REPLICATED),
        ([0.004, 0.005, 0.006], (), {"smallest": 0.02}, REPLICATED),  # real, and small
        ([0.0, 0.001, -0.001], (), {"smallest": 0.01}, NOT_REPLICATED),
        ([0.0, 0.001, -0.001], (0.0, 0.001, 0.0), {"smallest": 0.01}, INCONCLUSIVE),  # no room
        ([0.0, 0.0, 0.0], (0.0, 0.0, 0.0), {}, INCONCLUSIVE),  # no room
        ([-0.01, -0.011, -0.009], (), {"threshold": -0.02}, REPLICATED),  # loses less than allowed
        ([-0.05, -0.051, -0.049], (), {"threshold": -0.02}, NOT_REPLICATED),
        ([0.0, -0.001, 0.001], (0.0, 0.001, 0.002), {"threshold": -0.02}, INCONCLUSIVE),  # both at their limit
        ([0.0, -0.001, 0.001], (0.2, 0.1, 0.2), {"threshold": -0.02}, REPLICATED),
    ],
)
def test_rules(effects, rooms, settings, expected):
    assert judge(claim(**settings), effects, rooms).verdict == expected


@pytest.mark.parametrize(
    ("effects", "reason"),
    [
        ([-0.01, -0.011, -0.009], "the whole interval is above -2 points"),
        ([-0.05, -0.051, -0.049], "the whole interval is below 0"),
        ([0.01, 0.011, 0.009], "the whole interval is above -2 points"),
        ([-0.05, 0.04, 0.0], "the interval holds -2 points and 0"),
    ],
)
def test_reasons_are_in_the_unit_of_the_effect(effects, reason):
    assert judge(claim(unit="points", threshold=-0.02, smallest=0.0), effects).reason == reason
    in_nats = reason.replace("-2 points", "-0.02")
    assert judge(claim(unit="nats", threshold=-0.02, smallest=0.0), effects).reason == in_nats


def test_a_real_effect_too_small_to_matter_is_called_so():
    reason = judge(claim(unit="points", smallest=0.02), [0.004, 0.005, 0.006]).reason
    assert reason == "the whole interval is above 0, and below 2 points: real, and small"


def test_bad_input():
    with pytest.raises(ValueError, match=r"effects = \[\]; c has not been measured"):
        judge(claim(), [])
    with pytest.raises(ValueError, match="values = 1; one value has no spread"):
        t_interval([1.0])
    with pytest.raises(ValueError, match="smallest = -1.0; below what the claim needs; 0.0"):
        claim(smallest=-1.0)


def test_a_threshold_is_compared_with_the_quota_nearest_in_passes():
    rows = [{"sampler": f"quota {n}", "passes": 24 / n} for n in (1, 2, 4, 8)]
    for passes, nearest in ((6.1, "quota 4"), (9.5, "quota 2"), (3.2, "quota 8")):
        assert (
            equal_quota([*rows, {"sampler": "threshold 0.5", "passes": passes}], "threshold 0.5")["sampler"] == nearest
        )
