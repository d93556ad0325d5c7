"""`illada-lab evaluate` on the world's questions."""

import json
import sys
from pathlib import Path

import pytest

from illada_lab.cli import main
from illada_lab.evaluation import sandbox


@pytest.mark.parametrize("model", ["base", "instruct"])
def test_results_say_how_they_came_about(models, model, capsys):
    assert main(["evaluate", models[model], "scale=smoke", "evaluation.n_questions=3"]) == 0
    path = Path(models[model].partition("=")[2]) / "evaluation.json"
    assert f"written: {path}" in capsys.readouterr().out
    found = json.loads(path.read_text())
    told = found["manifest"]
    for key in ("scale", "seed", "commit", "config", "versions", "temperature", "dtype", "n_items", "block_length"):
        assert key in told, key
    assert ("steps" if model == "base" else "steps_per_block") in told
    assert told["dtype"] == "float32" and told["scale"] == "smoke" and told["n_items"] == len(found["items"])
    assert all(row["ci_low"] <= row["value"] <= row["ci_high"] and row["n"] for row in found["rows"])


@pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is the Linux kernel's")
def test_missing_protections_are_told_before_programs_run_and_in_the_result(models, monkeypatch, capsys):
    monkeypatch.setattr(sandbox, "missing_protections", lambda: ("walls", "a roof"))
    words = ["evaluate", models["instruct"], "scale=smoke", "evaluation.n_questions=1", "evaluation.run_code=true"]
    assert main(words) == 0
    assert "MISSING on this kernel: walls; a roof\n" in capsys.readouterr().err
    told = json.loads((Path(models["instruct"].partition("=")[2]) / "evaluation.json").read_text())["manifest"]
    assert told["missing_protections"] == ["walls", "a roof"]


def test_items_are_written_as_they_come_and_a_rerun_asks_nothing(models, monkeypatch):
    words = ["evaluate", models["base"], "scale=smoke", "evaluation.n_questions=2", "seed=5"]
    home = Path(models["base"].partition("=")[2])
    before = set(home.glob("evaluation/toy-*"))
    assert main(words) == 0
    (folder,) = set(home.glob("evaluation/toy-*")) - before
    items, first = (folder / "items.jsonl").read_bytes(), json.loads((home / "evaluation.json").read_text())
    assert [json.loads(line) for line in items.splitlines()] == first["items"]
    monkeypatch.setattr("illada_lab.evaluation.examiner.generate", None)
    monkeypatch.setattr("illada_lab.evaluation.examiner.choose", None)
    assert main(words) == 0
    again = json.loads((home / "evaluation.json").read_text())
    assert (folder / "items.jsonl").read_bytes() == items and again["rows"] == first["rows"]
    # Other settings have a folder of their own.
    monkeypatch.undo()
    assert main([*words[:-1], "seed=6"]) == 0
    assert len(set(home.glob("evaluation/toy-*")) - before) == 2


@pytest.mark.parametrize(
    ("model", "words", "message"),
    [
        ("base", ["evaluation.run_code=true"], "evaluation.run_code = true; has no effect: base models"),
        ("instruct", ["evaluation.n_mc_samples=99"], "evaluation.n_mc_samples = 99; has no effect on this model"),
        ("base", ["sampler.temperature=1"], "sampler.temperature = 1; has no effect on toy; evaluation.*, checkpoint and seed"),
        ("base", ["tasks=gsm8"], "tasks = gsm8; there is no such task here; did you mean gsm8k"),
        ("base", ["evaluation.n_questions=few"], "evaluation.n_questions = 'few'"),
    ],
)  # fmt: skip
def test_settings_without_effect_are_errors(models, model, words, message, capsys):
    assert main(["evaluate", models[model], "scale=smoke", *words]) == 2
    assert message in capsys.readouterr().err
