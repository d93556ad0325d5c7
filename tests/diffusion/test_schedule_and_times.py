import pytest
import torch

from illada_lab.diffusion import (
    AntitheticTimes,
    CosineSchedule,
    LinearSchedule,
    RowRandom,
    StratifiedTimes,
    UniformTimes,
)


@pytest.mark.parametrize("schedule", [LinearSchedule(), LinearSchedule(min_probability=1e-3), CosineSchedule()])
def test_time_inverts_the_masking_probability(schedule):
    t = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    torch.testing.assert_close(schedule.time(schedule.mask_probability(t)), t)


@pytest.mark.parametrize("schedule", [LinearSchedule(), CosineSchedule()])
def test_weight_is_the_derivative_over_the_probability(schedule):
    t = torch.linspace(0.05, 1, 20, dtype=torch.float64, requires_grad=True)
    p = schedule.mask_probability(t)
    (slope,) = torch.autograd.grad(p.sum(), t)
    torch.testing.assert_close(schedule.weight(t.detach()), (slope / p).detach())


def test_a_smallest_probability_weighs_as_in_llada():
    """1 / p for the p that tokens are masked with, which no longer is the derivative's share."""
    t = torch.linspace(0.01, 1, 9)
    torch.testing.assert_close(LinearSchedule(min_probability=0.1).weight(t), 1 / (0.9 * t + 0.1))


@pytest.mark.parametrize("times", [UniformTimes(), StratifiedTimes(), AntitheticTimes()])
def test_one_row_has_another_time_under_every_seed(times):
    t = torch.cat([times(RowRandom(seed, torch.arange(1)), 1) for seed in range(64)])
    # Of 64 uniform numbers the standard deviation is 0.289, give or take 0.02.
    assert len(t.unique()) > 60 and abs(t.std() - 12**-0.5) < 0.08


@pytest.mark.parametrize("times", [UniformTimes(), StratifiedTimes(), AntitheticTimes()])
def test_every_time_alone_is_uniform_above_zero(times):
    # 4096 rows of 3 segments; the mean of U(0, 1] over independent draws has a standard error of 0.0045 at most.
    t = torch.cat([times(RowRandom(seed, torch.arange(64)), 3) for seed in range(64)])
    assert t.min() > 0 and t.max() <= 1
    for segment in range(3):
        column = t[:, segment]
        assert abs(column.mean() - 0.5) < 0.02
        assert abs((column < 0.25).double().mean() - 0.25) < 0.03


def test_stratified_times_cover_evenly_for_any_power_of_two_of_rows():
    times = StratifiedTimes(group_size=64)
    for n in (8, 16, 64):
        t = times(RowRandom(3, torch.arange(n)), 1)[:, 0].sort().values
        torch.testing.assert_close(t.diff(), torch.full((n - 1,), 1 / n, dtype=torch.float64))


def test_antithetic_rows_mirror_each_other():
    t = AntitheticTimes()(RowRandom(0, torch.arange(10)), 1)[:, 0]
    torch.testing.assert_close(t[0::2] + t[1::2], torch.ones(5, dtype=torch.float64))


def test_draws_depend_on_the_sample_not_on_its_batch():
    whole = RowRandom(7, torch.arange(100, 108))
    parts = [RowRandom(7, torch.tensor([i])) for i in range(100, 108)]
    torch.testing.assert_close(whole.uniform(5), torch.cat([p.uniform(5) for p in parts]), rtol=0, atol=0)
    times = StratifiedTimes()
    torch.testing.assert_close(times(whole, 4), torch.cat([times(p, 4) for p in parts]), rtol=0, atol=0)
    assert not torch.equal(RowRandom(8, torch.arange(8)).uniform(5), RowRandom(7, torch.arange(8)).uniform(5))


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="power of two"):
        StratifiedTimes(group_size=48)
    with pytest.raises(ValueError, match="min_probability = 1.0"):
        LinearSchedule(min_probability=1.0)
    for seed in (-1, 2**60 + 1):
        with pytest.raises(ValueError, match=f"seed = {seed}; of the masks; 0 to {2**60}"):
            RowRandom(seed, torch.arange(2))
    assert RowRandom(2**60, torch.arange(2)).uniform(3, purpose=2).shape == (2, 3)


@pytest.mark.parametrize("times", [UniformTimes(), StratifiedTimes(), AntitheticTimes()])
def test_times_do_not_depend_on_how_wide_the_rows_are(times):
    """Masks are drawn from the same stream, a number for each column."""
    found = []
    for width in (8, 12):
        random = RowRandom(3, torch.arange(4))
        random.uniform(width)
        found.append(times(random, 2))
    assert torch.equal(*found)
