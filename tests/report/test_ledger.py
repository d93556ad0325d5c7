"""The ledger is written from result files alone, and the table of a notebook from claims and effects."""

import json

import pytest

from illada_lab.experiments.claims import Claim
from illada_lab.report.ledger import ledger, read_all, write_ledger
from illada_lab.report.plots import COLOURS, lines, looks, paper_and_run, pick
from illada_lab.report.tables import effect_text

CLAIM = Claim(
    id="order",
    sentence="A | B",
    source="LLaDA",
    paper="70.0 against 21.3",
    metric="share",
    unit="points",
    smallest=0.02,
)


def result(scale: str = "toy", verdict: str = "replicated") -> dict:
    judged = {
        "effects": [0.1, 0.2, 0.3],
        "effect": 0.2,
        "ci_low": 0.15,
        "ci_high": 0.25,
        "verdict": verdict,
        "reason": "why",
    }
    return {
        "study": "sampling",
        "scale": scale,
        "config": {"n": 1},
        "claims": [{**vars(CLAIM), **judged}],
        "manifest": {
            "command": "illada-lab replicate study=sampling", "seeds": [0, 1, 2], "seconds": 90.0, "commit": "abc",
            "date": "2026-11-25 20:00:00", "machine": {"threads": 1, "processor": "A"}, "versions": {"torch": "2.13.0"},
        },
    }  # fmt: skip


def test_a_row_says_all_of_it():
    page = ledger([result()])
    row = next(line for line in page.splitlines() if line.startswith("| `sampling`"))
    assert row == (
        "| `sampling` | A \\| B | LLaDA | 70.0 against 21.3 | share | +20.0 (+15.0 to +25.0) points | **replicated** (why) |"
    )
    assert "1 claims: 1 replicated." in page and "seeds 0, 1, 2; 1 min 30 s" in page


def test_seeds_at_once_share_the_time():
    told = result()
    told["seeds"] = [{"seed": n, "seconds": 60.0, "n_processes": 3} for n in range(3)]
    assert "seeds 0, 1, 2; 1 min 0 s, 3 seeds at once" in ledger([told])


def test_scales_stand_apart():
    page = ledger([result("toy"), result("mini", "inconclusive")])
    assert page.index("## Scale `mini`") < page.index("**inconclusive**") < page.index("## Scale `toy`")


def test_a_second_measurement_stands_beside_the_first(tmp_path):
    """In a column of its own, from the folder `again`; it changes no verdict."""
    other = result("toy", "inconclusive")
    other["claims"][0]["effect"] = 0.1
    mini = result("mini")
    page = ledger([result(), mini], {"again": [other], "again_2": [result()], "again_3": []})
    toy_row, mini_row = (
        next(line for line in page.partition(f"## Scale `{scale}`")[2].splitlines() if line.startswith("| `sampling`"))
        for scale in ("toy", "mini")
    )
    second, third = "**inconclusive**: +10.0 (+15.0 to +25.0) points", "**replicated**: +20.0 (+15.0 to +25.0) points"
    assert toy_row.endswith(f"| **replicated** (why) | {second} | {third} |")
    assert mini_row.endswith("| **replicated** (why) |")
    assert "1 replicated. Again: 0 of 1 with the same verdict. Again 2: 1 of 1 with the same verdict." in page
    assert (
        page.count("Again:\n\n- `sampling`") == page.count("Again 2:\n\n- `sampling`") == 1
        and "*Again*: the same settings" in page
    )
    for folder, content in (("toy", result()), ("again/toy", other), ("again_2/toy", result()), ("mini", mini)):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "sampling.json").write_text(json.dumps(content))
    again = {"again": [other], "again_2": [result()]}
    assert write_ledger(tmp_path).read_text() == ledger([mini, result()], again)
    assert write_ledger(tmp_path / "again_2") == tmp_path / "README.md"
    assert not (tmp_path / "again_2" / "README.md").exists()
    other["config"] = {"n": 2}
    for none in (None, {}, {"again": [other]}):
        assert "Again" not in ledger([result()], none)


def test_only_results_of_studies_are_read(tmp_path):
    for scale, name, content in (("toy", "sampling", result()), ("toy", "seed0", {"schema": 1})):
        (tmp_path / scale).mkdir(exist_ok=True)
        (tmp_path / scale / f"{name}.json").write_text(json.dumps(content))
    assert [found["study"] for found in read_all(tmp_path)] == ["sampling"]
    assert write_ledger(tmp_path).read_text() == ledger(read_all(tmp_path))


def test_units():
    plain = {"effect": 1.2345, "ci_low": 1.0, "ci_high": 1.5, "unit": "nats"}
    assert effect_text(plain) == "+1.23 (+1 to +1.5) nats"
    assert effect_text({"effect": -0.5, "unit": "points"}) == "-50.0 points"


def test_a_toy_number_never_stands_in_the_papers_column(tmp_path):
    path = tmp_path / "sampling.json"
    (before,) = paper_and_run([CLAIM], {"order": 0.1}, "toy", path)
    path.write_text(json.dumps(result()))
    (after,) = paper_and_run([CLAIM], {"order": 0.1}, "toy", path)
    assert before["paper reports (8B)"] == after["paper reports (8B)"] == "70.0 against 21.3"
    assert after["this run (scale toy, one seed)"] == "+10.0 points"
    assert before["ledger (all seeds)"] == "not run at this scale"
    assert after["ledger (all seeds)"] == "replicated: +20.0 (+15.0 to +25.0) points"


def test_lines_draws_one_line_per_name():
    from matplotlib.figure import Figure

    rows = [{"x": x, "y": x * k, "who": name} for name, k in (("b", 1), ("a", 2)) for x in (1, 2)]
    axes = Figure().add_subplot()
    lines(axes, rows, "x", "y", "who")
    assert [line.get_label() for line in axes.get_lines()] == ["b", "a"]
    assert axes.get_lines()[1].get_ydata().tolist() == [2, 4] and axes.get_xlabel() == "x"
    assert pick(rows, who="a", x=2) == [rows[3]]


def test_a_model_looks_the_same_in_every_figure():
    twin = "autoregressive twin"
    assert looks([twin, "diffusion"])[twin] == looks(["quota", twin])[twin]
    assert looks(["LLaDA", "iLLaDA"])["LLaDA"] == looks(["LLaDA's recipe", twin])["LLaDA's recipe"]
    assert looks(["random", "low_confidence"])["random"] == looks(["entropy", "random", "left_to_right"])["random"]
    drawn = looks(["quota", twin, "diffusion", "quota", "threshold"])
    assert len({look["color"] for look in drawn.values()}) == len({look["marker"] for look in drawn.values()}) == 4
    with pytest.raises(ValueError, match="8 series"):
        looks([str(number) for number in range(len(COLOURS) + 1)])
