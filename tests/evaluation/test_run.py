"""`illada-lab evaluate tasks=...`: results item by item, going on, the manifest, settings without effect."""

import io
import json
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from illada_lab.cli import main
from illada_lab.commands.evaluate import _folder, translate
from illada_lab.config import ConfigError, build, compose_and_check
from illada_lab.data.build_tokenizer import byte_tokenizer
from illada_lab.evaluation import Greedy
from illada_lab.evaluation import run as runs
from illada_lab.evaluation.benchmarks import Gsm8k
from illada_lab.evaluation.folder import fingerprint
from illada_lab.evaluation.generation import generate, steps_told
from illada_lab.evaluation.harness_task import HarnessTask, rows_of, told_of
from illada_lab.evaluation.intervals import bootstrap, share_interval, wilson
from illada_lab.samplers import FixedLength, Infill, Threshold, VariableLength
from illada_lab.training.checkpoint import load_run
from illada_lab.training.run import train
from tests.processes import together
from tests.samplers import test_own_rule as own_rule
from tests.small import small_predictor

QUESTIONS = [
    {"question": f"What is {n} and {n + 1}?", "answer": f"It is {2 * n + 1}.\n#### {2 * n + 1}"} for n in range(7)
]
SHORT = [
    "evaluation.n_shots=0", "evaluation.sampler.max_length=8", "evaluation.sampler.block_length=4", "evaluation.batch_size=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A diffusion model and a twin that write bytes and have learnt next to nothing."""
    folder = tmp_path_factory.mktemp("models")
    text = folder / "text.txt"
    text.write_text("\n\n".join(f"{i} and {i} is {2 * i} ." for i in range(400)))
    common = [
        "scale=smoke", "data=text", f"data.path={text}", "tokenizer=byte", "trainer.precision=32-true",
        "trainer.accelerator=cpu", "scale.n_steps=3",
    ]  # fmt: skip
    train(compose_and_check([*common, f"run_dir={folder}/base"]))
    train(compose_and_check([*common, "experiment=autoregressive", f"run_dir={folder}/twin"]))
    return folder


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(q) + "\n" for q in QUESTIONS))
    return path


def evaluate(folder, file, out, *more, model="base"):
    words = ["tasks=gsm8k", f"data.path={file}", f"checkpoint={folder}/{model}", f"evaluation.out={out}", *SHORT, *more]
    return main(["evaluate", *words])


def test_every_item_is_written_and_the_result_says_how_it_came_about(models, file, tmp_path, capsys):
    out = tmp_path / "out"
    assert evaluate(models, file, out) == 0
    assert "gsm8k" in capsys.readouterr().out
    items = [json.loads(line) for line in (out / "items.jsonl").read_text().splitlines()]
    assert sorted(item["key"] for item in items) == [f"test/{n}" for n in range(1, 8)]
    assert all(item["gold"] and item["nfe"] > 0 and isinstance(item["is_correct"], bool) for item in items)
    results = json.loads((out / "results.json").read_text())
    told = results["manifest"]
    for key in (
        "scale",
        "seed",
        "commit",
        "versions",
        "dtype",
        "config",
        "evaluation",
        "checkpoint",
        "command",
        "machine",
    ):
        assert key in told, key
    assert told["device"] == "cpu"
    assert (told["n_items"], told["steps_per_block"], told["block_length"], told["max_length"]) == (7, 4, 4, 8)
    assert told["temperature"] == 0 and told["n_shots"] == 0 and told["config"]["scale"]["name"] == "smoke"
    (row,) = results["rows"]
    assert row["n"] == 7 and row["ci_low"] <= row["value"] <= row["ci_high"]


def test_every_job_of_a_sweep_has_a_folder_of_its_own(models, file, tmp_path):
    out, more = tmp_path / "out", ("evaluation.n_items=1", "seed=0,1", "--multirun")
    assert evaluate(models, file, out, *more) == 0
    assert {path.parent.name for path in out.glob("*/results.json")} == {"seed-0", "seed-1"}
    assert evaluate(models, file, out, *more) == 0, "and finds it again"


@pytest.mark.parametrize(
    ("name", "out", "folder"),
    [
        ("pretrain-toy", None, "home/evaluation/gsm8k"),
        ("pretrain-toy/evaluation-gsm8k", None, "home/evaluation/gsm8k"),
        ("pretrain-toy/evaluation-gsm8k_seed-1", None, "home/evaluation/gsm8k/seed-1"),
        ("pretrain-toy/evaluation-gsm8k", "out", "out/evaluation-gsm8k"),
        ("pretrain-toy/seed-1", "out", "out/seed-1"),
    ],
)
def test_the_folder_of_a_job(name, out, folder):
    benchmark = SimpleNamespace(name="gsm8k", out=out)
    assert _folder(OmegaConf.create({"name": name}), benchmark, Path("home")) == Path(folder)


def test_two_runs_with_one_seed_give_one_file(models, file, tmp_path):
    more = ("evaluation.sampler.temperature=1.0", "seed=3")
    for name in ("a", "b"):
        assert evaluate(models, file, tmp_path / name, *more) == 0
    assert (tmp_path / "a" / "items.jsonl").read_bytes() == (tmp_path / "b" / "items.jsonl").read_bytes()
    assert evaluate(models, file, tmp_path / "c", more[0], "seed=4") == 0
    assert (tmp_path / "a" / "items.jsonl").read_bytes() != (tmp_path / "c" / "items.jsonl").read_bytes()


@pytest.mark.parametrize("n_kept", [0, 1, 3, 7])
def test_a_broken_off_run_goes_on(models, file, tmp_path, monkeypatch, n_kept):
    """Killed in the middle of writing: what is whole is kept, the rest is asked again, the file comes out the same."""
    out = tmp_path / "out"
    more = "evaluation.sampler.temperature=1.0"
    assert evaluate(models, file, out, more) == 0
    whole = (out / "items.jsonl").read_text()
    health = {row["name"]: row["value"] for row in json.loads((out / "results.json").read_text())["health"]}
    lines = whole.splitlines(keepends=True)
    (out / "items.jsonl").write_text("".join(lines[:n_kept]) + ("" if n_kept == 7 else lines[n_kept][:20]))
    asked = []
    generate = runs.generate
    monkeypatch.setattr(runs, "generate", lambda *a, **k: asked.extend(a[2]) or generate(*a, **k))
    assert evaluate(models, file, out, more) == 0
    assert (out / "items.jsonl").read_text() == whole
    assert len(asked) == 7 - n_kept // 2 * 2 - (n_kept == 7)
    results = json.loads((out / "results.json").read_text())
    assert results["manifest"]["n_items_of_this_call"] == len(asked)
    # The panel tells of all answers; how fast they were is known where one call has written them.
    panel = {row["name"]: row["value"] for row in results["health"]}
    assert panel["passes per answer"] == health["passes per answer"] and ("tokens per second" in panel) is (
        len(asked) == 7
    )


def test_a_folder_is_for_one_run(models, file, tmp_path, capsys):
    out = tmp_path / "out"
    assert evaluate(models, file, out) == 0
    capsys.readouterr()
    assert evaluate(models, file, out, "evaluation.sampler.steps_per_block=2") == 2
    assert "another folder" in capsys.readouterr().err
    assert evaluate(models, file, out, "seed=1") == 2


def test_a_run_goes_on_with_other_numbers_at_a_time(models, file, tmp_path, monkeypatch):
    """A smaller batch where memory was too small, fewer programs where the machine was busy; the last ones are told."""
    out, told_of = tmp_path / "out", runs.told_of
    for n in (3, 2):
        monkeypatch.setattr(runs, "told_of", lambda *a, n=n: {**told_of(*a), "n_workers": n})
        assert evaluate(models, file, out, f"evaluation.batch_size={n}") == 0
        told = json.loads((out / "results.json").read_text())["manifest"]
        assert (told["n_workers"], told["batch_size"]) == (n, n)
    assert not {"n_workers", "batch_size"} & set(json.loads((out / "settings.json").read_text()))


def test_another_model_or_file_is_another_run(models, file, tmp_path, capsys):
    """Trained anew into the same folder, or a file that has changed under its name: what stands there is not mixed with."""
    out = tmp_path / "out"
    assert evaluate(models, file, out) == 0
    settings = json.loads((out / "settings.json").read_text())
    assert (
        settings["shots"] == [] and list(settings["sha256"]) == [str(file)] and len(settings["model"]["weights"]) == 16
    )
    file.write_text(file.read_text().replace("What", "Then what"))
    assert evaluate(models, file, out) == 2
    assert "holds a run with sha256 = " in capsys.readouterr().err
    run = load_run(models / "base")
    before = fingerprint(run.predictor)
    assert (
        before == fingerprint(load_run(models / "base").predictor) != fingerprint(load_run(models / "twin").predictor)
    )
    with torch.no_grad():
        run.predictor.norm.weight[0] += 1e-6
    assert fingerprint(run.predictor) != before
    # The same values in another precision answer otherwise.
    assert fingerprint(run.predictor.double()) != fingerprint(run.predictor.float())


@pytest.mark.parametrize("layout", ["illada", "llada"])
def test_published_folders_are_evaluated(models, file, tmp_path, layout, monkeypatch):
    """A model written in a published layout answers as the run it was made of, and its results stand beside its weights.

    One from the hub has a folder in runs/: where its files lie is a cache.
    """
    plain = tmp_path / "plain"
    words = [
        "scale=smoke",
        "data=text",
        f"data.path={models}/text.txt",
        "tokenizer=byte",
        "scale.n_steps=3",
        "model.has_qk_norm=false",
    ]
    train(compose_and_check([*words, "trainer.precision=32-true", "trainer.accelerator=cpu", f"run_dir={plain}"]))
    assert main(["export", f"checkpoint={plain}", f"out={tmp_path}/published", f"layout={layout}"]) == 0
    words = ["tasks=gsm8k", f"data.path={file}", *SHORT]
    assert main(["evaluate", *words, f"checkpoint={plain}"]) == 0
    assert main(["evaluate", *words, f"checkpoint={tmp_path}/published"]) == 0
    own, other = (folder / "evaluation" / "gsm8k" for folder in (plain, tmp_path / "published"))
    assert (own / "items.jsonl").read_text() == (other / "items.jsonl").read_text()
    told = json.loads((other / "results.json").read_text())["manifest"]
    assert told["model"]["checkpoint"] == f"{tmp_path}/published" and told["scale"] == "published"
    (tmp_path / "published").rename(tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    before = {path for path in (tmp_path / "cache").rglob("*")}
    assert main(["evaluate", *words, "checkpoint=owner/name@v2"]) == 0
    hub = tmp_path / "runs" / "owner--name@v2" / "evaluation" / "gsm8k"
    assert (hub / "items.jsonl").read_text() == (own / "items.jsonl").read_text()
    assert {path for path in (tmp_path / "cache").rglob("*")} == before


@pytest.mark.parametrize(("model", "smallest"), [("base", 4), ("twin", 6)])
def test_answers_with_less_room_than_configured_are_told(models, file, tmp_path, capsys, model, smallest):
    """A question that leaves 6 tokens of the context, of 8 that an answer may have; without it there is nothing to tell."""
    assert evaluate(models, file, tmp_path / "room", model=model) == 0
    told = json.loads((tmp_path / "room" / "results.json").read_text())["manifest"]
    assert "n_short_of_room" not in told and "less room" not in capsys.readouterr().out
    limit = load_run(models / model).predictor.spec.max_length
    question = "x" * (limit - 6 - len("Question: \nAnswer:"))
    file.write_text("".join(json.dumps(q) + "\n" for q in (*QUESTIONS[:2], {"question": question, "answer": "#### 1"})))
    for _ in range(2):  # a run that has nothing left to ask tells the same
        assert evaluate(models, file, tmp_path / "out", model=model) == 0
        told = json.loads((tmp_path / "out" / "results.json").read_text())["manifest"]
        assert (told["n_short_of_room"], told["smallest_budget"], told["max_length"]) == (1, smallest, 8)
        last = capsys.readouterr().out.splitlines()[-1]
        said = f"max_length = 8; the model's context had less room for 1 of 3 answers, {smallest} tokens at the least"
        assert last == f"{said}; a model with more context"


def test_a_remasking_rule_of_ones_own_is_told_by_its_path_and_settings(models, file, tmp_path, capsys):
    rule, out = {"_target_": "tests.samplers.test_own_rule.Backwards", "size": 2.0}, tmp_path / "out"
    word = "evaluation.sampler.remasking={_target_: tests.samplers.test_own_rule.Backwards, size: %s}"
    for _ in range(2):  # the folder is known again
        assert evaluate(models, file, out, word % 2.0) == 0
    told = json.loads((out / "results.json").read_text())["manifest"]
    assert told["sampler"]["remasking"] == rule == told["evaluation"]["sampler"]["remasking"]
    assert evaluate(models, file, out, word % 3.0) == 2
    assert "holds a run with sampler = " in capsys.readouterr().err


def test_settings_of_parts_are_plain_data():
    backwards = partial(own_rule.backwards, size=2.0)
    one, other = (
        runs._plain(FixedLength(response_length=4, remasking=rule, transfer=transfer))
        for rule, transfer in ((backwards, None), ("margin", Threshold(threshold=0.5)))
    )
    path = "tests.samplers.test_own_rule.backwards"
    assert one["remasking"] == {"_target_": path, "_partial_": True, "size": 2.0}
    assert (other["remasking"], other["transfer"]) == ("margin", {"_target_": "Threshold", "threshold": 0.5})
    half = runs._plain(FixedLength(response_length=4, transfer=own_rule.Half()))
    assert half["transfer"] == {"_target_": "tests.samplers.test_own_rule.Half"}


def test_the_twin_answers_greedily(models, file, tmp_path, capsys):
    out = tmp_path / "out"
    words = [
        f"checkpoint={models}/twin",
        f"evaluation.out={out}",
        "evaluation.n_shots=0",
        "evaluation.sampler.max_length=64",
    ]
    # Blocks of 32 are what the task's file says, for mask predictors: no error. What is set on top of it is one.
    assert main(["evaluate", "tasks=gsm8k", f"data.path={file}", *words]) == 0
    told = json.loads((out / "results.json").read_text())["manifest"]
    assert told["sampler"]["_target_"].endswith("Greedy") and told["block_length"] is None and told["max_length"] == 64
    # Needed for so small a budget.
    assert evaluate(models, file, tmp_path / "small", model="twin") == 0
    idle = {
        "evaluation.sampler.temperature=1.0": "evaluation.sampler.temperature = 1.0",
        "evaluation.sampler.block_length=4": "evaluation.sampler.block_length = 4",
        "evaluation.sampler.remasking=random": "evaluation.sampler.remasking = random",
    }  # fmt: skip
    for word, told in idle.items():
        assert main(["evaluate", "tasks=gsm8k", f"data.path={file}", *words, word]) == 2
        assert f"{told}; has no effect on an autoregressive model" in capsys.readouterr().err
    mmlu = ["evaluation.n_samples=4", "evaluation.scoring=monte_carlo"]
    assert main(["evaluate", "tasks=hellaswag", words[0], *mmlu]) == 2
    assert "evaluation.scoring = monte_carlo; has no effect on an autoregressive model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["evaluation.n_shots=2"], "train.jsonl; there is no such file"),
        (["evaluation.is_chat=true"], ""),
        (["evaluation.sampler.block_length=5", "evaluation.sampler.max_length=4"], "max_length = 4"),
        (["data.path=nowhere.jsonl"], "nowhere.jsonl; there is no such file"),
        (["sampler.temperature=1"], "sampler.temperature = 1; has no effect on evaluate tasks=gsm8k; did you mean evaluation.sampler."),
        (["scale=toy"], "scale = toy; has no effect on evaluate tasks=gsm8k"),
        (["evaluation.run_code=true"], "there is no such key"),
        (["evaluation.sampler.max_length=4000", "evaluation.sampler.block_length=4000"], "longer than the model's context"),
    ],
)  # fmt: skip
def test_bad_input_is_named(models, file, tmp_path, more, message, capsys):
    assert evaluate(models, file, tmp_path / "out", *more) == (2 if message else 0)
    assert message in capsys.readouterr().err


def test_tasks_are_files_of_the_configuration():
    assert translate(["tasks=gsm8k", "data.path=a"]) == ["evaluation=gsm8k", "evaluation.path=a"]
    assert translate(["checkpoint=a", "scale=smoke"]) == ["checkpoint=a", "scale=smoke"]
    assert translate(["tasks=gsm8k,bbh", "checkpoint=a"]) == ["evaluation=gsm8k,bbh", "checkpoint=a"]
    with pytest.raises(ValueError, match=r"tasks = gsm8; there is no such task here; did you mean gsm8k"):
        translate(["tasks=gsm8"])
    with pytest.raises(ValueError, match="trainer.max_steps = 3; has no effect on evaluate;"):
        translate(["trainer.max_steps=3"])


@pytest.mark.parametrize(
    ("task", "max_length", "block_length", "n_shots", "is_chat"),
    [
        ("bbh", 1024, 32, 3, False),
        ("gsm8k", 1024, 32, 8, False),
        ("humaneval", 512, 512, 0, False),
        ("mbpp", 1024, 32, 3, False),
        ("mbpp_instruct", 2048, 16, 0, True),
        ("gsm8k_instruct", 2048, 32, 0, True),
        ("humaneval_instruct", 2048, 32, 0, True),
    ],
)
def test_settings_are_those_of_the_paper(task, max_length, block_length, n_shots, is_chat):
    told = compose_and_check(translate([f"tasks={task}", "data.path=a"])).evaluation
    assert (told.sampler.max_length, told.sampler.block_length) == (max_length, block_length)
    assert (told.get("n_shots", 0), told.is_chat, told.sampler.temperature) == (n_shots, is_chat, 0.0)
    assert told.sampler.steps_per_block is None and told.name == task
    assert told.get("thinking_power") == {
        "gsm8k_instruct": 3.0, "mbpp_instruct": 3.0, "humaneval_instruct": 1.0
    }.get(task)  # fmt: skip


@pytest.mark.parametrize(
    ("task", "length", "block_length", "n_shots"), [("gsm8k_llada", 1024, None, 8), ("gsm8k_llada_instruct", 512, 8, 0)]
)
def test_settings_of_the_other_way_are_lladas(task, length, block_length, n_shots):
    told = compose_and_check(translate([f"tasks={task}", "data.path=a"])).evaluation
    assert (told.sampler.response_length, told.sampler.block_length, told.get("n_shots", 0)) == (
        length,
        block_length,
        n_shots,
    )
    assert told.name == task and told.sampler.n_steps is None and told.sampler.guidance_scale == 0.0


@pytest.mark.parametrize(("model", "target"), [("base", "FixedLength"), ("twin", "Greedy")])
def test_answers_of_a_fixed_length(models, file, tmp_path, model, target):
    """In LLaDA's way; the twin takes the same budget. All that was asked of the sampler is in the result."""
    words = [
        "tasks=gsm8k_llada", f"data.path={file}", f"checkpoint={models}/{model}", f"evaluation.out={tmp_path}/out", "evaluation.n_shots=0",
        "evaluation.sampler.response_length=8",
    ]  # fmt: skip
    own = ["evaluation.sampler.block_length=4", "evaluation.sampler.n_steps=4", "evaluation.sampler.guidance_scale=0.5"]
    assert main(["evaluate", *words, *(own if model == "base" else [])]) == 0
    told = json.loads((tmp_path / "out" / "results.json").read_text())["manifest"]
    assert told["sampler"]["_target_"].endswith(f".{target}") and told["max_length"] == 8
    records = [json.loads(line) for line in (tmp_path / "out" / "items.jsonl").read_text().splitlines()]
    assert len(records) == len(QUESTIONS)
    if model == "base":
        assert (told["block_length"], told["steps_per_block"], told["sampler"]["guidance_scale"]) == (4, 2, 0.5)
        assert {record["nfe"] for record in records} == {8}  # guidance passes twice


def test_what_an_answer_of_fixed_length_has_no_room_for(models, file, tmp_path, capsys):
    words = ["tasks=gsm8k_llada", f"data.path={file}", f"checkpoint={models}/base", f"evaluation.out={tmp_path}/out"]
    assert main(["evaluate", *words, "evaluation.n_shots=0"]) == 2
    assert "with the 1024 that are written at once longer than the model's context of 256" in capsys.readouterr().err


def test_the_push_towards_the_end_of_thinking_has_the_tokenizers_ids(file):
    sampler = VariableLength(max_length=8, block_length=4)
    benchmark = Gsm8k(path=str(file), is_chat=True, thinking_power=3.0, sampler=sampler)
    pushed = runs.sampler_of(benchmark, small_predictor(), byte_tokenizer()).end_of_thinking
    assert byte_tokenizer().decode(pushed.sequence) == "</think>" and (pushed.amount, pushed.power) == (100.0, 3.0)
    twin = runs.sampler_of(benchmark, small_predictor(is_causal=True), byte_tokenizer())
    assert runs.told_of(benchmark, twin, small_predictor(is_causal=True))["thinking_power"] is None
    with pytest.raises(ValueError, match="thinking_power = -1.0"):
        Gsm8k(path="a", thinking_power=-1.0, sampler=sampler)


def test_what_the_configuration_refuses():
    with pytest.raises(ConfigError, match="evaluation.path = ...; must be given"):
        compose_and_check(["evaluation=gsm8k"])
    with pytest.raises(ConfigError, match="evaluation.n_shots = -1"):
        compose_and_check(["evaluation=gsm8k", "evaluation.path=a", "evaluation.n_shots=-1"])


def test_answers_do_not_depend_on_the_batch(models, file, tmp_path):
    """At a temperature, too: every item draws from its own key."""
    said = []
    for size in (1, 3, 7):
        folder = tmp_path / str(size)
        more = ("evaluation.sampler.temperature=1.0", f"evaluation.batch_size={size}")
        assert evaluate(models, file, folder, *more) == 0
        records = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
        said.append({record["key"]: record["text"] for record in records})
    assert said[0] == said[1] == said[2] and len(set(said[0].values())) > 1
    # So a run that was broken off goes on in batches of another size, and the file comes out the same.
    file_of_ones = tmp_path / "1" / "items.jsonl"
    whole = file_of_ones.read_text()
    file_of_ones.write_text("".join(whole.splitlines(keepends=True)[:4]))
    assert evaluate(models, file, tmp_path / "1", *more[:1], "evaluation.batch_size=3") == 0
    assert file_of_ones.read_text() == whole


def test_intervals_of_shares_have_a_width():
    assert share_interval([False] * 5) == wilson(0, 5) and share_interval([False] * 5)[1] > 0.3
    assert share_interval([True, False] * 9, seed=1) == bootstrap([True, False] * 9, seed=1)


def test_steps_are_told_as_they_were():
    sampler = VariableLength(max_length=16, block_length=8)
    assert steps_told(sampler) == 8 and steps_told(replace(sampler, steps_per_block=2)) == 2
    assert steps_told(replace(sampler, transfer=Threshold(threshold=0.9))) is None
    fixed = FixedLength(response_length=32, block_length=8)
    assert steps_told(fixed) == 8 and steps_told(replace(fixed, n_steps=8)) == 2
    assert steps_told(replace(fixed, n_steps=None, transfer=Threshold(threshold=0.9))) is None
    whole = FixedLength(response_length=32)
    assert steps_told(whole) == 32 and steps_told(replace(whole, n_steps=4)) == 4
    assert steps_told(Greedy(max_length=8)) is None and steps_told(Infill(n_steps=3)) is None


def test_a_batch_has_a_prompt():
    with pytest.raises(ValueError, match="batch_size = 0; prompts answered together; 1 or more"):
        generate(small_predictor(), byte_tokenizer(), [[0, 9]], FixedLength(response_length=2), batch_size=0)


def test_bootstrap_intervals():
    low, high = bootstrap([True] * 80 + [False] * 20)
    assert (low, high) == (pytest.approx(0.72, abs=0.02), pytest.approx(0.88, abs=0.02))
    assert bootstrap([True, False] * 9, seed=1) == bootstrap([True, False] * 9, seed=1)
    assert bootstrap([True] * 3) == (1.0, 1.0)
    with pytest.raises(ValueError, match=r"is_correct = \[\]"):
        bootstrap([])


HARNESS = ["mmlu", "cmmlu", "arc_challenge", "hellaswag", "piqa", "math", "math_instruct", "mmlu_instruct", "mmlu_redux_instruct",
           "mmlu_pro_instruct"]  # fmt: skip


@pytest.mark.parametrize("task", HARNESS)
def test_tasks_of_lm_eval_have_the_papers_settings(task):
    told = compose_and_check(translate([f"tasks={task}"])).evaluation
    lengths = {
        "math": (1024, 32), "math_instruct": (4096, 32), "mmlu_instruct": (4, 4), "mmlu_redux_instruct": (3, 3),
        "mmlu_pro_instruct": (4096, 32),
    }  # fmt: skip
    if told.scoring is None:
        assert (told.max_length, told.block_length) == lengths[task]
        is_long = task in ("math_instruct", "mmlu_pro_instruct")
        assert told.get("thinking_power") == (3.0 if is_long else None)
    elif task in ("mmlu", "cmmlu"):
        assert (told.scoring, told.n_samples, told.has_eos, told.n_shots) == ("monte_carlo", 1, True, 5)
    else:
        assert (told.scoring, told.has_eos, told.n_shots) == ("confidence", True, 0)
    assert told.is_chat is task.endswith("_instruct")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scoring": "guess"}, "scoring = 'guess'; not a rule"),
        (
            {"scoring": "confidence", "has_eos": True, "n_samples": 4},
            "n_samples = 4; has no effect with scoring = confidence",
        ),
        ({"scoring": "monte_carlo"}, "n_samples = null; a score with scoring = monte_carlo depends on it"),
        ({"max_length": 4, "block_length": 4, "has_eos": True}, "has_eos = True; has no effect"),
        (
            {"scoring": "monte_carlo", "n_samples": 1},
            "has_eos = null; a score with scoring = monte_carlo depends on it",
        ),
        (
            {"scoring": "confidence", "has_eos": True, "thinking_power": 3.0},
            "thinking_power = 3.0; has no effect with scoring = confidence",
        ),
        ({"max_length": 4, "block_length": 4, "thinking_power": -1.0}, "thinking_power = -1.0; cannot be negative"),
        ({"max_length": 4, "block_length": 4, "n_items": 0}, "n_items = 0; too few; 1 or more"),
        ({"max_length": 4, "block_length": 32}, "max_length = 4; less than one block of 32; 32 or more"),
        ({"max_length": 4, "block_length": 0}, "block_length = 0; too few; 1 or more"),
    ],
)
def test_settings_of_lm_eval_tasks_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        HarnessTask(name="a", task="a", **changes)


def test_rows_of_lm_eval_results():
    found = {
        "results": {"a": {"alias": "a", "acc,none": 0.5, "acc_stderr,none": 0.1, "word_perplexity,none": 40.0}},
        "n-samples": {"a": {"original": 9, "effective": 4}},
    }
    acc, perplexity = rows_of(found)
    assert (acc["metric"], acc["value"], acc["n"]) == ("acc", 0.5, 4)
    assert (acc["ci_low"], acc["ci_high"]) == (pytest.approx(0.304), pytest.approx(0.696))
    assert perplexity["ci_low"] is None and perplexity["unit"] == ""


def test_what_the_context_takes_away_is_told():
    assert runs.room_told([]) == {} and runs.room_told([8, 5]) == {"n_short_of_room": 2, "smallest_budget": 5}
    assert runs.room_told([], 3) == {"n_prompts_cut": 3}
    assert runs.room_told([8], 1) == {"n_short_of_room": 1, "smallest_budget": 8, "n_prompts_cut": 1}


def test_numbers_of_texts_whose_length_is_told_say_so():
    results = {name: {"bits_per_byte,none": 1.5} for name in ("whole", "choice")}
    kinds = {"whole": {"output_type": "loglikelihood_rolling"}, "choice": {"output_type": "multiple_choice"}}
    found = {"results": results, "configs": kinds, "n-samples": {}}
    usual, told = "lm-eval's standard error, times 1.96", "; given the length, which EOS tells"
    assert [row["note"] for row in rows_of(found, tells_length=True)] == [usual + told, usual]
    assert [row["note"] for row in rows_of(found)] == [usual] * 2


@pytest.mark.parametrize("metric", ["bits_per_byte", "brier_score", "word_perplexity", "likelihood_diff", "mcc"])
def test_numbers_that_happen_to_be_small_are_no_shares(metric):
    values = {f"{metric},none": 0.82, f"{metric}_stderr,none": 0.2}
    (row,) = rows_of({"results": {"a": values}, "n-samples": {}})
    assert row["unit"] == "" and row["ci_high"] == pytest.approx(1.212)


@pytest.mark.parametrize("metric", ["acc_norm", "exact_match", "pass@1", "pass_at_1", "f1", "prompt_level_strict_acc"])
def test_metrics_that_count_are_shares(metric):
    values = {f"{metric},none": 0.9, f"{metric}_stderr,none": 0.2}
    (row,) = rows_of({"results": {"a": values}, "n-samples": {}})
    assert "unit" not in row and row["ci_high"] == 1.0


DEFAULTS = {"n_samples": 128, "has_eos": True, "max_length": 256, "block_length": 32, "guidance_scale": 0.0}


@pytest.mark.parametrize(
    ("task", "is_twin", "expected"),
    [
        ("hellaswag", False, ("confidence", None, True, None, None, None)),
        ("mmlu", False, ("monte_carlo", 1, True, None, None, None)),
        ("math", False, (None, None, None, 1024, 32, None)),
        ("math_instruct", False, (None, None, None, 4096, 32, 3.0)),
        ("mmlu", True, ("chain_rule", None, None, None, None, None)),
        ("math", True, (None, None, None, 1024, None, None)),
        ("math_instruct", True, (None, None, None, 4096, None, None)),
    ],
)
def test_a_result_names_no_settings_that_played_no_part(task, is_twin, expected):
    settings = asdict(build(compose_and_check(translate([f"tasks={task}"])).evaluation))
    model = {**DEFAULTS, "scoring": "chain_rule" if is_twin else "confidence"}
    told = told_of(settings, model, is_twin=is_twin)
    keys = ("scoring", "n_samples", "has_eos", "max_length", "block_length", "thinking_power")
    assert tuple(told[key] for key in keys) == expected and told["guidance_scale"] == 0.0


def asked_together(arguments: list[str]) -> tuple[int, str]:
    """A process of `evaluate`: its status, and what it printed."""
    told = io.StringIO()
    with redirect_stdout(told):
        status = main(["evaluate", *arguments])
    return status, told.getvalue()


@pytest.mark.parametrize("task", ["gsm8k", "toy"])
def test_processes_share_the_questions_and_come_to_the_same_result(models, toy_run, file, tmp_path, task):
    """Two of torchrun's: answers, rows and panel are those of one process; the first writes and tells."""
    words = [f"checkpoint={toy_run}", "scale=smoke", "trainer.accelerator=cpu", "evaluation.n_questions=70"]
    if task == "gsm8k":
        words = [
            "tasks=gsm8k",
            f"data.path={file}",
            f"checkpoint={models}/base",
            *SHORT,
            "evaluation.sampler.temperature=1.0",
        ]
    results = []
    for n in (1, 2):
        if task == "gsm8k":
            found = together(n, asked_together, [*words, f"evaluation.out={tmp_path / str(n)}"])
            items, written = (tmp_path / str(n) / name for name in ("items.jsonl", "results.json"))
        else:
            found = together(n, asked_together, words)
            (items,) = toy_run.glob("evaluation/*/items.jsonl")
            written = toy_run / "evaluation.json"
        assert [status for status, _ in found] == [0] * n
        assert "written: " in found[0][1] and [told for _, told in found[1:]] == [""] * (n - 1)
        told = json.loads(written.read_text())
        assert told["manifest"]["n_processes"] == n
        panel = [row for row in told["health"] if row["name"] != "tokens per second"]
        results.append((items.read_text(), told["rows"], panel))
        assert [path.name for path in items.parent.glob("items*")] == ["items.jsonl"]
        items.unlink()
    assert results[0] == results[1] and results[0][0].count("\n") >= 7


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory):
    """A run on a world that has learnt next to nothing."""
    folder = tmp_path_factory.mktemp("toy") / "run"
    words = [
        "scale=smoke",
        "trainer.precision=32-true",
        "trainer.accelerator=cpu",
        "scale.n_steps=3",
        f"run_dir={folder}",
    ]
    train(compose_and_check(words))
    return folder
