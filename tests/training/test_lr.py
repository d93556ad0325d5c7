import pytest
import torch

from illada_lab.training.lr import ConstantCosine, ConstantLinear, Cosine


def optimizer(lr: float = 2.0):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def rates(schedule_class, n, **kwargs):
    opt = optimizer()
    schedule = schedule_class(opt, **kwargs)
    seen = []
    for _ in range(n):
        seen.append(opt.param_groups[0]["lr"])
        opt.step()
        schedule.step()
    return seen


def test_constant_then_cosine():
    seen = rates(ConstantCosine, 101, n_steps=100, n_warmup_steps=10, decay_start=0.5, min_ratio=0.025)
    assert seen[0] == pytest.approx(0.2) and seen[9] == seen[30] == seen[50] == 2.0
    assert seen[75] == pytest.approx(2 * (0.025 + 0.975 * 0.5))
    assert seen[100] == pytest.approx(2 * 0.025)
    assert all(a >= b for a, b in zip(seen[50:], seen[51:], strict=False))


def test_constant_then_linear_over_the_last_tenth():
    seen = rates(ConstantLinear, 101, n_steps=100, decay_start=0.9, min_ratio=0.1)
    assert seen[89] == 2.0 and seen[95] == pytest.approx(2 * 0.55) and seen[100] == pytest.approx(0.2)


def test_the_peak_is_what_is_reached():
    schedule = Cosine(optimizer(), n_steps=100, n_warmup_steps=10, peak_ratio=0.15)
    assert schedule.peak_rates == pytest.approx([0.3])
    assert max(rates(Cosine, 100, n_steps=100, n_warmup_steps=10, peak_ratio=0.15)) == schedule.peak_rates[0]


def test_cosine_decays_from_the_start():
    seen = rates(Cosine, 100, n_steps=100, n_warmup_steps=10)
    assert seen[9] == 2.0 and seen[11] < 2.0


def test_plateau_starts_the_decay_and_a_falling_loss_does_not():
    opt = optimizer()
    schedule = ConstantCosine(opt, n_steps=100, decay_start="plateau", patience=2, min_progress=0.01, n_decay_steps=20)
    for step in range(60):
        if step % 10 == 9:
            schedule.observe([5.0, 4.0, 3.0, 2.999, 2.998, 2.997][step // 10])
        opt.step()
        schedule.step()
        if step < 49:
            assert opt.param_groups[0]["lr"] == 2.0
    assert schedule.decay_from == 49
    assert opt.param_groups[0]["lr"] == pytest.approx(2 * schedule.factor(60))
    assert schedule.factor(69) == pytest.approx(0.025)


def test_no_decay_begins_within_the_warmup():
    seen = rates(Cosine, 100, n_steps=100, n_warmup_steps=10, min_ratio=0.0)
    assert seen[9] == seen[10] == 2.0 and seen[55] == pytest.approx(1.0)
    schedule = ConstantCosine(optimizer(), n_steps=100, n_warmup_steps=10, decay_start="plateau", patience=1)
    schedule.observe(3.0)
    schedule.observe(3.0)
    assert schedule.decay_from is None


def test_state_survives_and_is_plain(tmp_path):
    opt = optimizer()
    schedule = ConstantCosine(opt, n_steps=100, decay_start="plateau", patience=1)
    schedule.observe(3.0)
    schedule.observe(3.0)
    torch.save(schedule.state_dict(), tmp_path / "s.pt")
    other = ConstantCosine(optimizer(), n_steps=100, decay_start="plateau", patience=1)
    other.load_state_dict(torch.load(tmp_path / "s.pt", weights_only=True))
    assert other.decay_from == schedule.decay_from == 0 and other.best == 3.0


def test_only_the_position_is_taken_over():
    """Length, rates and start of the decay are those of the schedule that goes on, and the rate of its coming step is set."""
    first = ConstantCosine(optimizer(), n_steps=10, decay_start=0.5)
    for _ in range(10):
        first.optimizer.step()
        first.step()
    opt = optimizer()
    other = ConstantLinear(opt, n_steps=40, decay_start=0.5, min_ratio=0.0, peak_ratio=0.5)
    other.load_state_dict(first.state_dict())
    assert (other.n_steps, other.decay_from, opt.param_groups[0]["lr"]) == (40, 20, 1.0)
    seen = []
    for _ in range(30):
        opt.step()
        other.step()
        seen.append(opt.param_groups[0]["lr"])
    assert seen[9] == 1.0 and seen[19] == 0.5 and seen[29] == 0.0


def test_a_plateau_seen_before_counts_where_both_wait_for_one():
    waiting = ConstantCosine(optimizer(), n_steps=100, decay_start="plateau", patience=1)
    waiting.observe(3.0)
    waiting.observe(3.0)
    told = ConstantCosine(optimizer(), n_steps=100, decay_start=0.7)
    told.load_state_dict(waiting.state_dict())
    assert told.decay_from == 70
    anew = ConstantCosine(optimizer(), n_steps=100, decay_start="plateau")
    anew.load_state_dict(told.state_dict())
    assert anew.decay_from is None


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(n_steps=10, n_warmup_steps=10), "n_warmup_steps = 10.*0 to 9"),
        (dict(n_steps=10, decay_start=1.5), "decay_start = 1.5.*0 to 1, or plateau"),
        (dict(n_steps=10, min_ratio=-1.0), "min_ratio = -1.0"),
    ],
)
def test_bad_settings_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ConstantCosine(optimizer(), **kwargs)


@pytest.mark.parametrize(
    "setting", [{"n_decay_steps": 3}, {"patience": 2}, {"min_progress": 0.01}], ids=lambda s: next(iter(s))
)
def test_a_setting_without_effect_warns(setting):
    with pytest.warns(UserWarning, match=f"{next(iter(setting))} has no effect without decay_start=plateau"):
        ConstantCosine(optimizer(), n_steps=10, decay_start=0.5, **setting)
