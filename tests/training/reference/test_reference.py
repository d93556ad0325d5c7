"""Recorded runs of a recipe: which they are, where another run is expected, and that it is told."""

import copy
import io
import json
from functools import partial
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from unittest.mock import Mock

import lightning.pytorch as pl
import numpy as np
import pytest
from rich.console import Console

from illada_lab.cli import main
from illada_lab.config import compose, to_plain
from illada_lab.report.runs import stage_results
from illada_lab.student_t import place, prediction_interval
from illada_lab.training import assemble
from illada_lab.training.callbacks import History, progress
from illada_lab.training.module import DiffusionModule
from illada_lab.training.recipe import recipe
from illada_lab.training.reference import FOLDER, Reference, find_reference, recent, reference_for, usual
from illada_lab.training.reference.recording import record
from tests.training.small_runs import SMALL, run


def plain(*overrides: str) -> dict:
    return to_plain(compose(list(overrides)))


def test_the_next_value_lies_within_19_times_in_20():
    random = np.random.default_rng(0)
    for n in (2, 3, 6):
        draws = random.normal(size=(4000, n + 1))
        inside = [low <= row[n] <= high for row in draws for low, high in [prediction_interval(row[:n].tolist())]]
        assert np.mean(inside) == pytest.approx(0.95, abs=0.012)  # 3.5 standard errors


def test_a_place_is_a_word():
    places = {1: "usual", 1.5: "usual", 2: "usual", 0.9: "lower than usual", 2.1: "higher than usual"}
    assert {value: place(value, 1, 2) for value in places} == places


def test_the_mean_is_over_the_last_steps():
    records = [{"step": step, "loss": float(step)} for step in range(10, 201, 10)]
    assert recent(records, 100) == pytest.approx(mean([60, 70, 80, 90, 100]))
    assert recent(records, 5) is None


def runs(gaps: list[float], entropies: list[float], stderr: float = 0.0) -> list[dict]:
    told = {"processor": "P", "precision": "32-true"}
    return [
        {
            **told,
            "seed": seed,
            "train": [{"step": step, "loss": 1.0 + gap} for step in range(10, 101, 10)],
            "validation": [
                {"step": 100, "kind": "all", "nelbo_per_token": e + gap, "stderr": stderr, "entropy_per_token": e}
            ],
        }
        for seed, (gap, e) in enumerate(zip(gaps, entropies, strict=True))
    ]


def test_gaps_are_compared_where_the_entropy_is_known():
    found = Reference(runs([0.1, 0.1, 0.1], [0.3, 0.5, 0.9]))
    usual = found.bound("all", 100, entropy=0.7)
    assert usual is not None and (usual.low, usual.high, usual.n) == (pytest.approx(0.8), pytest.approx(0.8), 3)
    unknown = found.bound("all", 100)
    assert unknown is not None and unknown.high - unknown.low > 1
    assert found.bound("all", 90) is None and found.bound("story", 100) is None
    loss = found.loss(100)
    assert loss is not None and loss.low == pytest.approx(1.1) and found.loss(20) is None
    assert Reference(runs([0.1], [0.3])).bound("all", 100) is None  # one run has no spread
    assert found.where == "P (32-true)"


@pytest.mark.parametrize(("stderr", "lowest"), [(0.0, 0.7), (0.02, 0.66)])
def test_nothing_far_below_the_entropy_is_usual(stderr, lowest):
    """However wide the seeds lie apart: what is below is the scatter of an estimate, or a mistake."""
    usual = Reference(runs([0.1, 0.5, 0.9], [0.5] * 3, stderr)).bound("all", 100, entropy=0.7)
    assert usual is not None and usual.low == pytest.approx(lowest) and usual.high > 2


@pytest.mark.parametrize("scale", ["mini", "toy"])
def test_the_recorded_runs_are_those_of_todays_recipe(scale):
    """A recipe that changes has its curves recorded anew: `python -m illada_lab.training.reference.recording`."""
    pretrain = recipe(plain(f"scale={scale}"))
    for overrides in (["seed=99"], ["seed=99", "trainer.precision=bf16-mixed", "data.micro_batch_size=4"]):
        found = find_reference(plain(f"scale={scale}", *overrides), None)
        assert found is not None and len(found.runs) >= 6
    tuned = find_reference(plain(f"scale={scale}", "experiment=sft"), pretrain)
    assert tuned is not None and {row["kind"] for row in tuned.runs[0]["validation"]} >= {"fact", "sum", "word_sum"}


def test_a_run_is_held_beside_other_seeds_only():
    seeds = [run["seed"] for run in find_reference(plain("scale=toy", "seed=99"), None).runs]  # type: ignore[union-attr]
    assert 0 in seeds
    others = find_reference(plain("scale=toy", "seed=0"), None)
    assert others is not None and [run["seed"] for run in others.runs] == [seed for seed in seeds if seed]


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.n_layers=3"],
        ["scale.n_steps=2000"],
        ["optim=adamw"],
        ["lora=linear"],
        ["init_from=org/model"],  # published, so nobody knows its recipe
        ["experiment=sft"],  # the same
        ["+data.max_extra_eos=7"],
        ["~data.source.mixture.sum"],
    ],
)
def test_another_recipe_has_other_curves(overrides):
    assert find_reference(plain("scale=toy", *overrides), None) is None


def test_fine_tuning_from_another_model_has_other_curves():
    other = recipe(plain("scale=toy", "model.n_layers=3"))
    assert find_reference(plain("scale=toy", "experiment=sft"), other) is None
    assert find_reference(plain("scale=toy"), other) is None


def test_every_recorded_run_says_where_it_comes_from():
    for path in FOLDER.glob("*.json"):
        recorded = json.loads(path.read_text())
        assert len({run["seed"] for run in recorded["runs"]}) == len(recorded["runs"]) >= 6
        assert all(run["commit"] and run["processor"] and run["precision"] and run["train"] for run in recorded["runs"])


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_a_run_that_is_left_out_is_usual_19_times_in_20(path):
    """What the range promises, tried on the runs themselves."""
    recorded, is_inside = json.loads(path.read_text())["runs"], []
    for one in recorded:
        others = Reference([other for other in recorded if other is not one])
        for row in one["validation"]:
            usual = others.bound(row["kind"], row["step"], row.get("entropy_per_token"))
            assert usual is not None
            is_inside.append(usual.low <= row["nelbo_per_token"] <= usual.high)
    # Bounds of a run go together, so that a hundred of them are no hundred trials.
    assert 0.9 <= mean(is_inside) <= 0.99


def results(folder: Path, seed: int) -> dict:
    """What the main job would write of its first stage."""
    done = run(folder / str(seed), f"seed={seed}")
    return {
        "manifest": {"scale": "smoke", "seed": seed, "commit": "c", "date": "d", "precision": "p", "machine": {"processor": "x"}},
        "config": {"pretrain": done.config},
        "stages": [stage_results("pretrain", done.history)],
    }  # fmt: skip


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> list[dict]:
    return [results(tmp_path_factory.mktemp("runs"), seed) for seed in (0, 1, 2)]


def test_a_run_is_told_beside_recorded_ones(measured, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "recorded"
    assert [path.name for path in record(measured, folder)] == ["smoke_pretrain.json"]
    run(tmp_path / "before", "seed=3")
    assert "no run of this recipe is recorded" in capsys.readouterr().err
    monkeypatch.setattr(assemble, "reference_for", partial(reference_for, folder=folder))
    monkeypatch.setattr(usual, "WINDOW", 10)
    done = run(tmp_path / "a", "seed=3")
    said = capsys.readouterr().err
    assert "usual: where 95 % of other seeds of this recipe are expected, from 3 recorded runs on x (p)" in said
    assert "token frequencies without context" in said and said.splitlines()[-1].count("(usual ") == 4
    for row in done.history["validation"][-1]["kinds"].values():
        assert row["n_recorded"] == 3 and row["usual_low"] < row["usual_high"]
        assert abs(row["nelbo_per_token"] - (row["usual_low"] + row["usual_high"]) / 2) < 0.5
    # Records of another spacing are means over other steps.
    run(tmp_path / "b", "seed=3", "trainer.log_every=20")
    assert capsys.readouterr().err.splitlines()[-1].count("(usual ") == 3
    # Another rate of learning is another recipe, and a run that goes on with it is of neither.
    run(tmp_path / "c", "seed=3", "optim.lr=0.0001", "scale.n_steps=10")
    run(tmp_path / "d", "seed=3", f"resume={tmp_path / 'c'}")
    assert capsys.readouterr().err.count("no run of this recipe is recorded") == 2


def test_fine_tuning_is_held_beside_others_where_its_start_had_come_to_its_end(measured, tmp_path, monkeypatch):
    config = compose(["scale=smoke", "experiment=sft", f"init_from={tmp_path / 'start'}"])
    start = recipe(plain("scale=smoke"))
    (tmp_path / "smoke_sft.json").write_text(
        json.dumps({"recipe": recipe(config), "start": start, "runs": [{"seed": 1}]})
    )
    steps = {"illada_lab": {"config": {"trainer": {"max_steps": 20}}}}
    for step, is_found in ((20, True), (10, False)):
        monkeypatch.setattr(usual, "read_about", lambda path, step=step: {**steps, "global_step": step})
        assert (reference_for(config, start, folder=tmp_path) is not None) is is_found


def test_what_cannot_be_recorded_leaves_what_was(measured, tmp_path):
    other = copy.deepcopy(measured[1])
    other["config"]["pretrain"]["model"]["n_layers"] = 3
    with pytest.raises(ValueError, match=r"seed 1, pretrain: model.n_layers = 3; scale=smoke has 2 today"):
        record([measured[0], other], tmp_path)
    for wrong in ([], [measured[0], measured[0]]):
        with pytest.raises(ValueError, match="one scale, every seed once"):
            record(wrong, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_terminal_shows_bar_and_validation_apart(monkeypatch):
    """One line would be longer than a terminal is wide, and push the bar out of it."""
    history = History(landmarks={"uniform": 5.4})
    row = {"nelbo_per_token": 0.45, "usual_low": 0.41, "usual_high": 0.48, "n_recorded": 5, "entropy_per_token": 0.4}
    history.validation = [{"step": 7, "kinds": {"story": row, "fact": row, "sum": row, "all": row}}]
    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda stderr: Console(file=screen, force_terminal=True, width=100))
    monkeypatch.setattr(
        progress.sys, "stderr", SimpleNamespace(isatty=lambda: True, write=lambda text: 0, flush=lambda: None)
    )
    live = progress.LiveProgress(history=history, title="toy")
    trainer = Mock(spec=pl.Trainer, is_global_zero=True, max_steps=9, global_step=6)
    module = Mock(spec=DiffusionModule)
    live.on_train_start(trainer, module)
    for step in (7, 8):
        live.after_step(trainer, module, {"loss": 0.6}, step)
    live.on_train_end(trainer, module)
    shown = screen.getvalue()
    assert " ".join(shown.split()).count("story 0.450 (usual 0.41 to 0.48, entropy 0.400)") == 1
    assert "8/9" in shown and "loss 0.600" in shown and "…" not in shown


def test_a_log_file_has_bounds_at_their_own_steps_only(tmp_path, capsys):
    run(tmp_path / "a", "trainer.validate_every=5")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pretrain-smoke ")]
    assert [line.split()[1] for line in lines if "story" in line] == ["5/20", "10/20", "15/20", "20/20"]


def test_the_command_says_what_is_usual_and_what_is_wrong(tmp_path, capsys):
    assert main(["train", *SMALL, f"run_dir={tmp_path / 'a'}"]) == 0
    out = capsys.readouterr().out
    assert "nats/token (95 %)" in out and "! " in out and "little has been learnt yet" in out
