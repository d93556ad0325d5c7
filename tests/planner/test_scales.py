"""The README's table of scales."""

import pytest

from illada_lab.planner.scales import BEGIN, END, count, scales
from illada_lab.report.summary import write_into

RESULT = {
    "manifest": {"scale": "toy", "machine": {"gpu": None, "processor": "some CPU", "threads": 2}},
    "parameters": {"total": 768_256},
    "config": {"pretrain": {"data": {"batch_size": 16, "length": 80}}},
    "stages": [{"seconds": 281.9, "tokens": 2_943_286}],
}


def test_a_measured_scale_is_not_planned_and_every_row_says_which_it_is():
    rows = scales([RESULT], planned={"toy": ("device=h100",), "smoke": ("device=h100",)}).splitlines()
    toy, smoke = (next(row for row in rows if f"`{name}`" in row) for name in ("toy", "smoke"))
    assert "**measured**, 1 run" in toy and "4 min 42 s" in toy and "768,256" in toy and "2.9M" in toy
    assert "planned" in smoke and "GiB" in smoke and "1 x H100 SXM" in smoke
    assert sum("`toy`" in row for row in rows) == 1


def test_a_measured_step_is_a_row_of_its_own():
    step = {
        "scale": "1b", "rounds": 12, "parameters": 1_103_464_448, "rows": 4, "length": 4096, "precision": "bf16-mixed",
        "machine": {"gpu": "some GPU", "processor": "some CPU"}, "recomputed": "ops", "peak_bytes": 3 * 2**30,
        "tokens_per_second": 39_862.6,
    }  # fmt: skip
    row = next(row for row in scales(planned={}, steps=[step]).splitlines() if "`1b`" in row)
    assert row == (
        "| `1b` | **12 steps measured** | 1,103,464,448 | 4 x 4,096 |  | 3.0 GiB | some GPU, bf16-mixed, layers recomputed in part "
        "| 39,863 tokens/s |"
    )


def test_a_plan_that_does_not_fit_is_no_row():
    with pytest.raises(ValueError, match="scale = smoke; does not fit"):
        scales(planned={"smoke": ("device=h100", "device.memory_gib=0.0001")})


def test_it_is_written_between_its_own_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"a\n{BEGIN}\nold\n{END}\nb\n")
    assert write_into(page, "new", BEGIN, END)
    assert page.read_text() == f"a\n{BEGIN}\nnew\n{END}\nb\n"


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (950, "950"), (999.7, "1k"), (2_943_286, "2.9M"), (9.94e6, "9.9M"), (9.96e6, "10M"), (83.9e9, "83.9B"),
        (99.96e9, "100B"), (164.4e6, "164M"), (999.4e9, "999B"), (999.9e9, "1T"), (12e12, "12T"), (2.5e15, "2500T"),
    ],
)  # fmt: skip
def test_numbers_of_tokens(n, text):
    assert count(n) == text
