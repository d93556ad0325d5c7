"""Recorded runs of a recipe: which they are, where another run is expected, and that it is told."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from illada_lab.config import compose, to_plain
from illada_lab.experiments.reproduce import _stage_results
from illada_lab.student_t import place, prediction_interval
from illada_lab.training import assemble
from illada_lab.training.recipe import recipe
from illada_lab.training.reference import FOLDER, Reference, find_reference, recent, record
from tests.training.test_run import SMALL, run


def plain(*overrides: str) -> dict:
    return to_plain(compose(list(overrides)))


def test_the_next_value_lies_within_19_times_in_20():
    random = np.random.default_rng(0)
    for n in (2, 3, 6):
        draws = random.normal(size=(4000, n + 1))
        inside = [low <= row[n] <= high for row in draws for low, high in [prediction_interval(row[:n].tolist())]]
        assert np.mean(inside) == pytest.approx(0.95, abs=0.012)  # 3.5 standard errors


def test_a_place_is_a_word():
    assert [place(value, 1, 2) for value in (1, 1.5, 2, 0.9, 2.1)] == ["usual"] * 3 + [
        "lower than usual",
        "higher than usual",
    ]


def test_the_mean_is_over_the_last_steps():
    records = [{"step": step, "loss": float(step)} for step in range(10, 201, 10)]
    assert recent(records, 100) == pytest.approx(np.mean([60, 70, 80, 90, 100]))
    assert recent(records, 5) is None


def runs(gaps: list[float], entropies: list[float]) -> list[dict]:
    return [
        {
            "train": [{"step": step, "loss": 1.0 + gap} for step in range(10, 101, 10)],
            "validation": [{"step": 100, "kind": "all", "nelbo_per_token": e + gap, "entropy_per_token": e}],
        }
        for gap, e in zip(gaps, entropies, strict=True)
    ]


def test_gaps_are_compared_where_the_entropy_is_known():
    reference = Reference(runs([0.1, 0.1, 0.1], [0.3, 0.5, 0.9]))
    usual = reference.bound("all", 100, entropy=0.7)
    assert usual is not None and (usual.low, usual.high, usual.n) == (pytest.approx(0.8), pytest.approx(0.8), 3)
    unknown = reference.bound("all", 100)
    assert unknown is not None and unknown.high - unknown.low > 1
    assert reference.bound("all", 90) is None and reference.bound("story", 100) is None
    loss = reference.loss(100)
    assert loss is not None and loss.low == pytest.approx(1.1) and reference.loss(20) is None
    assert Reference(runs([0.1], [0.3])).bound("all", 100) is None  # one run has no spread


def test_the_recorded_runs_are_those_of_todays_recipe():
    """A recipe that changes has its curves recorded anew: `python -m illada_lab.training.reference`."""
    pretrain = recipe(plain("scale=toy"))
    for overrides in ([], ["seed=7"], ["trainer.precision=bf16-mixed", "data.micro_batch_size=4"]):
        found = find_reference(plain("scale=toy", *overrides), None)
        assert found is not None and len(found.runs) >= 3
    tuned = find_reference(plain("scale=toy", "experiment=sft"), pretrain)
    assert tuned is not None and {row["kind"] for row in tuned.runs[0]["validation"]} >= {"fact", "sum", "word_sum"}


@pytest.mark.parametrize(
    "overrides",
    [
        ["scale=toy", "model.n_layers=3"],
        ["scale=toy", "scale.n_steps=2000"],
        ["scale=toy", "optim=adamw"],
        ["scale=toy", "lora=linear"],
        ["scale=toy", "experiment=sft"],  # from nothing
    ],
)
def test_another_recipe_has_other_curves(overrides):
    assert find_reference(plain(*overrides), None) is None


def test_fine_tuning_from_another_model_has_other_curves():
    other = recipe(plain("scale=toy", "model.n_layers=3"))
    assert find_reference(plain("scale=toy", "experiment=sft"), other) is None
    assert find_reference(plain("scale=toy"), other) is None


def test_every_recorded_run_says_where_it_comes_from():
    for path in FOLDER.glob("*.json"):
        recorded = json.loads(path.read_text())
        assert len({run["seed"] for run in recorded["runs"]}) == len(recorded["runs"]) >= 3
        assert all(run["commit"] and run["processor"] and run["precision"] and run["train"] for run in recorded["runs"])


def results(folder: Path, seed: int) -> dict:
    """What the main job would write of one stage."""
    done = run(folder / str(seed), f"seed={seed}", "scale.n_steps=60", "trainer.log_every=5")
    return {
        "manifest": {"scale": "smoke", "seed": seed, "commit": "c", "date": "d", "precision": "p", "machine": {"processor": "x"}},
        "config": {"pretrain": done.config},
        "stages": [_stage_results("pretrain", done)],
    }  # fmt: skip


def test_a_run_is_told_beside_recorded_ones(tmp_path, monkeypatch, capsys):
    assert [path.name for path in record([results(tmp_path, seed) for seed in (0, 1, 2)], tmp_path / "recorded")] == [
        "smoke_pretrain.json"
    ]
    assert "no run of this recipe is recorded" in capsys.readouterr().err
    monkeypatch.setattr(assemble, "find_reference", partial(find_reference, folder=tmp_path / "recorded"))
    done = run(tmp_path / "a", "seed=3", "scale.n_steps=60")
    said = capsys.readouterr().err
    assert "usual: where 95 % of other seeds of this recipe are expected, from 3 recorded runs" in said
    assert "frequencies without context" in said and "(usual" in said.splitlines()[-1]
    last = done.history["validation"][-1]
    for row in last["kinds"].values():
        assert row["n_recorded"] == 3 and row["usual_low"] < row["usual_high"]
        assert abs(row["nelbo_per_token"] - (row["usual_low"] + row["usual_high"]) / 2) < 0.5
    # Another rate of learning is another recipe.
    run(tmp_path / "b", "seed=3", "scale.n_steps=60", "optim.lr=0.0001")
    assert "no run of this recipe is recorded" in capsys.readouterr().err


def test_results_of_two_recipes_are_not_one_file(tmp_path):
    one, other = (
        {
            "manifest": {"scale": "smoke", "seed": 0},
            "config": {"pretrain": to_plain(compose([*SMALL, *more]))},
            "stages": [{"name": "pretrain"}],
        }
        for more in ([], ["model.n_layers=3"])
    )
    with pytest.raises(ValueError, match="of another recipe than the first"):
        record([one, other], tmp_path)
