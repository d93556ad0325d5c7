"""`illada-lab evaluate` on the world's questions."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

from illada_lab.cli import main
from illada_lab.commands.evaluate import translate
from illada_lab.config import compose_and_check
from illada_lab.evaluation import sandbox
from illada_lab.training.checkpoint import predictor_state, read_checkpoint, shards
from illada_lab.training.run import train
from tests.samplers import test_own_rule as own


@pytest.fixture(scope="session")
def twin(models, tmp_path_factory):
    """Folder of an autoregressive run."""
    folder = tmp_path_factory.mktemp("twin")
    train(compose_and_check(["scale=smoke", "experiment=autoregressive", "trainer.precision=32-true",
                             "trainer.accelerator=cpu", "scale.n_steps=4", f"run_dir={folder}"]))  # fmt: skip
    return f"checkpoint={folder}"


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
    before = set(home.glob("evaluation/world-*"))
    assert main(words) == 0
    (folder,) = set(home.glob("evaluation/world-*")) - before
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
    assert len(set(home.glob("evaluation/world-*")) - before) == 2


def test_every_evaluation_is_kept(models, tmp_path):
    """Seeds of one sweep, and another checkpoint of the same run; evaluation.json is the newest of them."""
    home = tmp_path / "run"
    shutil.copytree(models["base"].partition("=")[2], home, ignore=shutil.ignore_patterns("evaluation*"))
    words = ["evaluate", "scale=smoke", "evaluation.n_questions=1"]

    def kept():
        found = [json.loads(path.read_text()) for path in home.glob("evaluation/world-*/results.json")]
        return {(told["model"]["checkpoint"], told["seed"]): told for told in (f["manifest"] for f in found)}

    last, early = home / "checkpoints" / "last.ckpt", home / "checkpoints" / "before_decay.ckpt"
    assert main([*words, f"checkpoint={home}", "seed=0,1", "--multirun"]) == 0
    assert set(kept()) == {(str(last), 0), (str(last), 1)}
    assert json.loads((home / "evaluation.json").read_text())["manifest"] == kept()[str(last), 1]
    shutil.copy(last, early)
    assert main([*words, f"checkpoint={early}"]) == 0
    assert len(kept()) == 3 and json.loads((home / "evaluation.json").read_text())["manifest"] == kept()[str(early), 0]
    payload = read_checkpoint(early)
    torch.save({**payload, "global_step": payload["global_step"] + 1}, early)
    assert main([*words, f"checkpoint={early}"]) == 0
    assert len(list(home.glob("evaluation/world-*/results.json"))) == 4


def sharded(model: str, home: Path, **source) -> Path:
    """A run's checkpoint as the folder that a sharded run writes; `source` replaces what it says of its data."""
    payload = read_checkpoint(model.partition("=")[2])
    folder = home / "checkpoints" / "last.ckpt"
    tensors = {f"{shards.WEIGHTS}predictor.{name}": value for name, value in predictor_state(payload).items()}
    shards.write(folder, tensors, None, False)
    about = {key: payload[key] for key in payload if key not in ("state_dict", "optimizer_states")}
    if source:
        about["illada_lab"]["config"]["data"]["source"] = source
    torch.save({**about, "optimiser_groups": []}, folder / shards.ABOUT)
    return folder


def test_results_of_a_sharded_run_stand_beside_its_checkpoint(models, tmp_path):
    """Not in it: it is a folder, and the next checkpoint takes its place."""
    folder = sharded(models["base"], tmp_path / "run")
    before = set(folder.rglob("*"))
    words = ["evaluate", "scale=smoke", "evaluation.n_questions=1"]
    assert main([*words, f"checkpoint={tmp_path}/run"]) == 0
    assert main([*words, f"checkpoint={folder}", "seed=1"]) == 0
    assert set(folder.rglob("*")) == before and (tmp_path / "run" / "evaluation.json").is_file()
    assert len(list((tmp_path / "run" / "evaluation").glob("world-*/results.json"))) == 2


def test_a_sharded_run_is_no_published_layout(models, tmp_path, capsys):
    folder = sharded(models["base"], tmp_path / "run", path="text.txt")
    assert main(["evaluate", f"checkpoint={folder}", "scale=smoke"]) == 2
    assert "trained on text, which has no questions" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "words", "message"),
    [
        ("base", ["evaluation.run_code=true"], "evaluation.run_code = true; has no effect: base models"),
        ("instruct", ["evaluation.n_mc_samples=99"], "evaluation.n_mc_samples = 99; has no effect on this model"),
        ("base", ["sampler.temperature=1"], "sampler.temperature = 1; has no effect on evaluate; did you mean evaluation.sampler."),
        ("base", ["sampler.n_steps=1"], "sampler.n_steps = 1; has no effect on evaluate; evaluation.*, checkpoint"),
        ("base", ["evaluation.sampler.block_length=4"], "evaluation.sampler.block_length = 4; has no effect on a base model"),
        ("base", ["evaluation.sampler.remasking=rondom"], "evaluation.sampler.remasking = 'rondom'; not a rule; random"),
        ("twin", ["evaluation.sampler.temperature=1.0"], "evaluation.sampler.temperature = 1.0; has no effect on an autoregressive"),
        ("twin", ["evaluation.sampler.max_length=16"], "evaluation.sampler.max_length = 16; has no effect on an autoregressive"),
        ("base", ["init_from=foo"], "init_from = foo; has no effect on evaluate; evaluation.*, checkpoint, dtype and seed, scale"),
        ("base", ["evaluatoin.n_questions=5"], "did you mean evaluation"),
        ("base", ["evaluation.n_questions=0"], "evaluation.n_questions = 0; out of range; 1 or more"),
        ("base", ["tasks=gsm8"], "tasks = gsm8; there is no such task here; did you mean gsm8k"),
        ("base", ["evaluation.n_questions=few"], "evaluation.n_questions = 'few'"),
    ],
)  # fmt: skip
def test_settings_without_effect_are_errors(models, twin, model, words, message, capsys):
    assert main(["evaluate", {**models, "twin": twin}[model], "scale=smoke", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "word", "place"),
    [
        ("toy", "sampler.remasking=random", "evaluation.sampler.remasking"),
        ("gsm8k", "sampler.remasking=random", "evaluation.sampler.remasking"),
        ("gsm8k", "sampler.top_p=0.9", "+evaluation.sampler.top_p"),
        ("math", "sampler.block_length=8", "evaluation.block_length"),
    ],
)
def test_the_key_that_a_message_names_is_one(task, word, place):
    with pytest.raises(ValueError, match=rf"did you mean {re.escape(place)}\?"):
        translate([f"tasks={task}", word])
    given = ["evaluation.path=a"] if task == "gsm8k" else []
    more = ["evaluation.sampler.temperature=1.0"] if "top_p" in word else []
    compose_and_check([f"evaluation={task}", *given, *more, f"{place}={word.partition('=')[2]}"])


@pytest.mark.parametrize("model", ["base", "instruct"])
def test_the_worlds_questions_are_answered_as_evaluation_sampler_says(models, model, tmp_path, capsys):
    """With a rule of one's own, which the result tells by its path and settings."""
    home = tmp_path / "run"
    shutil.copytree(models[model].partition("=")[2], home, ignore=shutil.ignore_patterns("evaluation*"))
    rule = {"_target_": f"{own.HERE}.Backwards", "size": 2.0}
    words = ["evaluate", f"checkpoint={home}", "scale=smoke", "evaluation.n_questions=1", "seed=1"]
    word = f"evaluation.sampler.remasking={{_target_: {rule['_target_']}, size: 2.0}}"
    assert main([*words, word, "evaluation.sampler.temperature=0.5"]) == 0, capsys.readouterr().err
    found = json.loads((home / "evaluation.json").read_text())
    told = found["manifest"]
    assert told["evaluation"]["sampler"]["remasking"] == rule and told["temperature"] == 0.5
    traces = [item["trace"] for item in found["items"] if item["trace"]]
    assert traces
    for trace in traces:  # of the first block, the last position first
        positions = [record["position"] for record in trace if record["position"] < 8]
        assert positions == sorted(positions, reverse=True)


def test_the_twin_of_a_world_is_asked_as_before(twin):
    assert main(["evaluate", twin, "scale=smoke", "evaluation.n_questions=1"]) == 0


@pytest.mark.parametrize(
    "source",
    [
        {"_target_": "mykit.Mine", "world_seed": 3},
        {"_target_": "mykit.Mine", "world_seed": 3, "n_people": 8},
        {"_target_": f"{own.HERE}.Backwards", "world_seed": 3, "n_people": 8},
    ],
)
def test_a_source_of_ones_own_has_no_questions_whatever_its_settings_are_called(models, tmp_path, source, capsys):
    folder = sharded(models["base"], tmp_path / "run", **source)
    assert main(["evaluate", f"checkpoint={folder}", "scale=smoke"]) == 2
    told = capsys.readouterr().err
    why = f"trained on {source['_target_']}, an own source; it has no questions; tasks=text evaluation.path=held_out.jsonl, tasks=gsm8k"
    assert why in told and len(told.strip().splitlines()) == 1
