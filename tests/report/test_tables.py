import pytest

from illada_lab.report.figures import binned, loss_limits, time_figure
from illada_lab.report.tables import (
    bound_line,
    bound_warnings,
    duration,
    interval,
    print_rows,
    quantity,
    row_view,
    verdict,
)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.973, None, "97.3 %"), (1, None, "100.0 %"), (None, None, "–"), (1.2345, "nats/token", "1.234 nats/token")],
)
def test_quantity(value, unit, text):
    assert quantity(value, unit) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (7.25, "7.2 s"),
        (59.99, "60.0 s"),
        (551.6, "9 min 12 s"),
        (3599.6, "1 h 0 min"),
        (7300, "2 h 1 min"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_a_bound_stands_beside_what_is_known_of_it():
    row = {"nelbo_per_token": 0.5, "stderr": 0.01, "bits_per_byte": 1.25}
    assert bound_line("text", row) == "text     0.5000 +- 0.0196 nats/token (95 %), 0.721 bits/token, 1.250 bits/byte"
    row = {"nelbo_per_token": 0.5, "stderr": 0.01, "usual_low": 0.41, "usual_high": 0.49, "n_recorded": 5}
    assert bound_line("story", row, 0.4) == (
        "story    0.5000 +- 0.0196 nats/token (95 %), 0.721 bits/token; true entropy 0.4000, +25.0%; "
        "higher than usual (0.410 to 0.490 by 5 recorded runs)"
    )


def test_a_bound_that_says_that_something_is_wrong_is_told():
    known = {"uniform": 5.0, "no_context": 4.0}

    def told(*bounds: float) -> list[str]:
        rows = [{"step": n, "nelbo_per_token": bound, "stderr": 0.1} for n, bound in enumerate(bounds)]
        return [line.partition(":")[0] for line in bound_warnings(rows, known)]

    assert told() == told(3.0) == told(3.0, 3.2, 2.9) == []
    assert told(4.5) == ["! 4.500 nats/token is more than token frequencies without context have (4.000)"]
    assert told(3.5, 3.0, 3.4) == ["! held-out text had 3.000 nats/token at step 1 and has 3.400 now"]
    assert [line[:7] for line in told(3.0, 5.5)] == ["! 5.500", "! held-"]


def test_interval():
    assert interval(0.1, 0.25) == "10.0 to 25.0 %"
    assert interval(0.1, None) == "–"


@pytest.mark.parametrize(
    ("value", "ci_high", "target", "wanted"),
    [
        (0.96, 0.99, 0.95, "reached"),
        (0.95, 0.99, 0.95, "reached"),
        (0.94, 0.97, 0.95, "open"),
        (0.9, 0.93, 0.95, "missed"),
        (0.9, None, 0.95, "missed"),
        (None, None, 0.95, ""),
        (0.9, 0.95, None, ""),
    ],
)
def test_verdict(value, ci_high, target, wanted):
    assert verdict({"value": value, "ci_high": ci_high, "target": target}) == wanted


def test_marks_stand_on_a_scale_of_shares_only():
    row = {"task": "a", "metric": "m", "value": 0.5, "ci_low": -0.01, "ci_high": 1.2, "chance": None}
    assert row_view(row)["marks"] == {"value": 50.0, "ci_low": 0.0, "ci_high": 100.0, "chance": None, "target": None}
    assert row_view({**row, "unit": "nats"})["marks"] is None


def test_rows_are_printed_with_what_they_have(capsys):
    print_rows(
        [
            {
                "task": "[bold]x",
                "metric": "exact match",
                "value": 0.5,
                "ci_low": 0.4,
                "ci_high": 0.6,
                "n": 10,
                "chance": 0.1,
                "target": 0.95,
            },
            {"task": "y", "metric": "bound", "value": 1.5, "unit": "nats"},
        ]
    )
    printed = capsys.readouterr().out
    for wanted in ("[bold]x", "50.0 %", "40.0 to 60.0 %", "≥ 95.0 %", "1.5 nats"):
        assert wanted in printed


def test_binned_keeps_the_mean_and_at_most_n_points():
    points = [(step, float(step % 7)) for step in range(1000)]
    found, size = binned(points, 240)
    assert len(found) == 200 and size == 5
    assert sum(y for _, y in found) / len(found) == pytest.approx(sum(y for _, y in points) / 1000)
    assert binned(points[:3], 240) == ([(0.0, 0.0), (1.0, 1.0), (2.0, 2.0)], 1)
    assert binned([], 240) == ([], 1)


def test_limits_hold_bounds_and_entropies():
    low, high = loss_limits(
        {
            "train_curve": [{"loss": 5.0}],
            "validation_curve": [{"nelbo_per_token": 6.0}],
            "entropy_per_token": {"story": 0.4, "none": 0.0},
        }
    )
    assert low < 0.4 and high > 6.0
    assert loss_limits({}) == pytest.approx((0.62, 1.6))


def test_kinds_of_bins_are_told_apart():
    bins = [
        {"t_low": 0.0, "t_high": 0.5, "loss": 1, "kind": "a$b"},
        {"t_low": 0.0, "t_high": 0.5, "loss": 2.0, "ci_low": 1, "ci_high": 3, "kind": "c"},
    ]
    svg = time_figure(bins, "bins")
    assert "a$b" in svg and "var(--series-1)" in svg and "var(--series-2)" in svg
    assert 'aria-label="bins"' in svg and "#0101" not in svg
