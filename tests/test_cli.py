"""The command line: exit statuses, one-line errors, help, sweeps."""

import importlib
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch.utilities import rank_zero_only

import illada_lab.commands.config
import illada_lab.commands.reproduce
import illada_lab.commands.sample
import illada_lab.commands.train
from illada_lab.cli import main
from illada_lab.config import compose_and_check, group_files, groups
from illada_lab.usage import COMMANDS, EXAMPLES


def program(*words: str, **options) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "illada_lab.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


@pytest.fixture
def runs(monkeypatch):
    """What `train` was called with; nothing is trained."""
    seen = []
    monkeypatch.setattr(illada_lab.commands.train, "measured", lambda config: seen.append(config) or [])
    return seen


def raising(error):
    def run(config):
        raise error

    return run


def test_help_lists_every_command_and_each_shows_two_examples(capsys):
    assert main([]) == 0 and main(["--help"]) == 0
    listed = capsys.readouterr().out
    for command in COMMANDS:
        assert command in listed
        assert main([command, "--help"]) == 0
        shown = capsys.readouterr().out
        assert len(EXAMPLES[command]) >= 2 and all(example in shown for example in EXAMPLES[command])


@pytest.fixture
def replicated(monkeypatch, tmp_path):
    """The plans and seeds that `replicate` was called with; nothing is measured."""
    seen = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "illada_lab.experiments.replicate.replicate_all",
        lambda plans, *, seeds, **how: seen.append(([(plan.name, plan.scale) for plan in plans], list(seeds))) or [],
    )
    return seen


@pytest.mark.parametrize("example", [line for lines in EXAMPLES.values() for line in lines])
def test_examples_of_the_help_are_right(example, replicated, monkeypatch):
    """They compose and check, and every word has an effect; nothing is run."""
    command, *words = shlex.split(example.partition("  (")[0])[1:]
    called = replicated
    if command != "replicate":  # which looks at its settings when it is run
        called = []
        module = importlib.import_module(f"illada_lab.commands.{command}")
        monkeypatch.setattr(module, "run", lambda config, **flags: called.append(config) or 0)
        monkeypatch.setattr(
            module,
            "show_files",
            lambda words: called.append(words) or 0 if "=" not in words[0] else None,
            raising=False,
        )
        monkeypatch.setattr(module, "measured", lambda config: called.append(config) or [], raising=False)
    assert main([command, *words]) == 0 and called


def test_a_sweep_of_studies_or_of_seeds(replicated, capsys):
    assert main(["replicate", "study=sampling,scoring", "scale=smoke", "-m"]) == 0
    assert main(["replicate", "experiment=scoring", "scale=smoke", "seeds=1,2", "-m"]) == 0
    one, other = [("sampling", "smoke")], [("scoring", "smoke")]
    assert replicated == [(one, [0, 1, 2]), (other, [0, 1, 2]), (other, [0]), (other, [0, 1])]
    capsys.readouterr()
    # What has no effect is refused as before.
    for words in (["logger=wandb"], ["model.n_layers=1"], ["run_dir=here"], ["name=mine"]):
        assert main(["replicate", "study=scoring", "scale=smoke", "seeds=1,2", *words, "-m"]) == 2
        assert "has no effect on replicate" in capsys.readouterr().err
    assert len(replicated) == 4


README = Path(__file__).parent.parent / "README.md"


@pytest.mark.parametrize("line", re.findall(r"^illada-lab .*$", README.read_text(encoding="utf-8"), re.MULTILINE))
def test_commands_of_the_readme_are_right(line, runs, monkeypatch, tmp_path):
    """They compose and check, on a machine that has the optional packages; nothing is run."""
    words = shlex.split(line, comments=True)[1:]
    monkeypatch.chdir(tmp_path)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: find("json") if name == "peft" else find(name, *rest)
    )
    called = []
    for name in COMMANDS:
        command = importlib.import_module(f"illada_lab.commands.{name}")
        monkeypatch.setattr(command, "run", lambda config=None, **flags: called.append(config) or 0)
    monkeypatch.setattr(
        illada_lab.commands.config, "show_files", lambda words: None if "=" in words[0] else called.append(words) or 0
    )
    assert main(words) == 0 and (called or runs)  # what a sweep calls measures


def texts_of_examples() -> list[str]:
    """Every `text=` and `prompt=` of the help and of the README."""
    lines = [line for lines in EXAMPLES.values() for line in lines]
    lines += re.findall(r"^illada-lab .*$", README.read_text(encoding="utf-8"), re.MULTILINE)
    words = [word for line in lines for word in shlex.split(line.partition("  (")[0], comments=True)]
    return sorted({word.partition("=")[2] for word in words if word.startswith(("text=", "prompt="))})


def test_texts_of_the_examples_are_of_the_worlds_words():
    from illada_lab.commands.infill import HOLES
    from illada_lab.config import build

    config = compose_and_check(["scale=toy"])
    tokenizer = build(config.tokenizer)(build(config.data.source))
    assert len(texts_of_examples()) >= 3
    for text in texts_of_examples():
        assert tokenizer.encode_prompt(HOLES.sub(" ", text)), text


def test_the_last_line_of_config_is_the_exact_size(capsys):
    assert main(["config", "scale=8b"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "parameters: 7,615,025,152 (non-embedding 6,979,588,096)"
    assert "d_ffn: 14336" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluat"], "command = evaluat; there is no such command; did you mean evaluate?"),
        (["train", "--multirn"], "--multirn; there is no such flag; did you mean --multirun?"),
        (["train", "--json"], "--json; train prints no JSON"),
        (["doctor", "-m"], "--multirun; not with doctor"),
        (["--traceback"], "--traceback; a flag without a command"),
        (["train", "model.n_layer=2"], "model.n_layer = 2; there is no such key; did you mean model.n_layers?"),
        (["sample"], "checkpoint = null; which model?"),
        (["sample", "checkpoint=nowhere"], "checkpoint = nowhere; "),
        (["export", "seed=3"], "seed = 3; has no effect on export; export reads checkpoint, dtype, layout, out"),
        (["doctor", "optim=adamw"], "optim = adamw; has no effect on doctor; doctor reads scale, experiment, model"),
        (["plan", "prompt=hello"], "prompt = 'hello'; has no effect on plan; plan reads scale, experiment, model"),
        (
            ["train", "device=h100"],
            "device = h100; has no effect on train; of plan; where a run computes is trainer.accelerator",
        ),
        (["reproduce", "resume=auto"], "resume = auto; has no effect on reproduce; the same command goes on by itself"),
        (
            ["replicate", "seed=3"],
            "seed = 3; has no effect on replicate, which measures several; seeds=3 measures 0 to 2",
        ),
        (["replicate", "sampling"], "sampling; not a setting; did you mean study=sampling?"),
        (["help", "trian"], "help trian; there is no such command; did you mean train or trace?"),
        (["config", "hydra"], "hydra; no group of settings; one of data, device,"),
        (["config", "samplers"], "samplers; no group of settings; one of data, device,"),
        (["config", "sampler/quick"], "sampler/quick; no such file in conf/sampler; one of entropy_bound, fast,"),
        (["train", "name=../x"], "name = '../x'; leads out of runs/; another name, or run_dir=..."),
        (["train", "run_dir="], "run_dir = ''; no folder; a name, such as runs/mine"),
    ],
)
def test_bad_input_gives_one_line_and_status_2(words, message, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and error.startswith("illada-lab: ")


def test_files_of_settings_are_shown_with_what_they_mean(capsys):
    assert main(["config", "sampler"]) == 0
    listed = capsys.readouterr().out
    assert "sampler=fast: Fast-dLLM: a cache" in listed and listed.count("sampler=") == len(groups()["sampler"])
    for word in ("sampler/fast", "conf/sampler/fast.yaml"):
        assert main(["config", word]) == 0
        assert capsys.readouterr().out == group_files()["sampler"]["fast"].read_text()


def test_a_command_of_files_without_any_shows_its_use(capsys):
    for command in ("report", "trace"):
        assert main([command]) == 2
        told = capsys.readouterr().err
        assert f"  illada-lab {command} " in told and "key=value" not in told
        assert main([command]) == 2
        assert EXAMPLES[command][0] in capsys.readouterr().err


def test_code_that_was_cut_off_is_named(capsys, monkeypatch):
    broken = ImportError("/tmp/cache/js/cabc.main.so: file too short")
    monkeypatch.setattr(illada_lab.commands.train, "measured", raising(broken))
    assert main(["train", "scale=smoke"]) == 2
    assert capsys.readouterr().err == (
        "illada-lab: /tmp/cache/js/cabc.main.so; compiled code that was cut off when a run was killed; delete it, or "
        "trainer.is_compiled=false\n"
    )


def test_all_studies_say_first_what_they_are(replicated, capsys):
    assert main(["replicate", "scale=smoke", "seeds=1"]) == 0
    told = next(line for line in capsys.readouterr().err.splitlines() if " studies, " in line)
    assert told.startswith(
        f"{len(groups()['study'])} studies, one seed each, into results; Ctrl-C stops, the same command goes on"
    )


def test_settings_of_other_commands_are_refused_by_train(capsys, runs):
    others = ["checkpoint=runs/none", "n_samples=5", "study=sampling", "prompt=hello", "+new=1"]
    assert main(["train", "scale=smoke", "name=x", *others]) == 2
    lines = capsys.readouterr().err.splitlines()
    keys = [line.removeprefix("illada-lab: ").partition(" = ")[0] for line in lines]
    assert keys == ["checkpoint", "n_samples", "study", "prompt", "new"]
    assert all("has no effect on train; " in line for line in lines) and "scale, experiment" in lines[1]
    assert "init_from=runs/none starts from its weights, resume=runs/none goes on with its run" in lines[0]
    assert not runs
    # What is no setting of any command is a slip of the pen.
    assert main(["train", "modle=toy"]) == 2
    assert "modle = toy; there is no such key; did you mean model?" in capsys.readouterr().err


def test_the_words_of_a_training_run_can_be_planned_as_they_are():
    from illada_lab.commands import plan, train

    words = [f"{key}=x" for key in train.USED]
    assert plan.translate(words) == train.translate(words) == words


def test_every_problem_of_a_configuration_gets_its_line(capsys, runs):
    assert main(["train", "scale=toyy", "model.n_layer=2", "optim.lr=fast"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3
    assert not runs


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ValueError("seed = x; why; 0"), 2, "seed = x; why; 0"),
        (FileNotFoundError(2, "No such file", "here.txt"), 2, "here.txt; there is no such file or folder"),
        (ModuleNotFoundError("No module", name="lm_eval.tasks"), 2, "pip install -e '.[eval]'"),
        (
            ModuleNotFoundError("No module", name="wonder"),
            2,
            "wonder is not installed; this needs it; pip install wonder",
        ),
        (RuntimeError("loss is NaN at step 3\nmore"), 1, "loss is NaN at step 3"),
        (OSError(28, "No space left on device"), 1, "No space left"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_errors_of_a_run_become_one_line_and_a_status(error, status, message, capsys, monkeypatch):
    monkeypatch.setattr(illada_lab.commands.train, "run", raising(error))
    assert main(["train", "scale=smoke"]) == status
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_the_traceback_is_shown_when_asked_for(monkeypatch):
    monkeypatch.setattr(illada_lab.commands.train, "run", raising(ValueError("inner")))
    with pytest.raises(ValueError, match="inner"):
        main(["train", "scale=smoke", "--traceback"])
    done = program("train", "model.n_layer=2", "--traceback")
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_a_bug_of_ours_is_not_hidden(monkeypatch):
    monkeypatch.setattr(illada_lab.commands.train, "run", raising(KeyError("a bug")))
    with pytest.raises(KeyError):
        main(["train", "scale=smoke"])


def test_a_sweep_runs_every_combination_in_a_folder_of_its_own(runs):
    assert main(["train", "scale=smoke", "model.n_layers=1,2", "seed=range(0,2)", "-m"]) == 0
    assert [(c.model.n_layers, c.seed) for c in runs] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert len({c.run_dir for c in runs}) == len({c.name for c in runs}) == 4
    assert runs[0].run_dir == "runs/pretrain-smoke/model.n_layers-1_seed-0"
    assert runs[0].logger.csv.save_dir == runs[0].run_dir


@pytest.mark.parametrize(
    ("words", "files"),
    [
        (["trace=out/t.jsonl", "seed=0,1"], ["out/t_seed-0.jsonl", "out/t_seed-1.jsonl"]),
        (["trace=a.jsonl,b.jsonl"], ["a.jsonl", "b.jsonl"]),
        (["trace=t.jsonl", "prompt='ada ?','ada .'"], ["t_prompt-ada-.jsonl", "t_prompt-ada-.-.jsonl"]),
        (
            ["trace=t.jsonl", "checkpoint=runs/a/b,runs/a-b"],
            ["t_checkpoint-runs-a-b.jsonl", "t_checkpoint-runs-a-b-1.jsonl"],
        ),
        (["trace=t.jsonl"], ["t.jsonl"]),
        (["seed=0,1"], [None, None]),
    ],
)
def test_a_sweep_writes_a_trace_for_every_job(words, files, monkeypatch):
    seen = []
    monkeypatch.setattr(illada_lab.commands.sample, "run", lambda config: seen.append(config.trace) or 0)
    assert main(["sample", "checkpoint=runs/pretrain-toy", *words, "--multirun"]) == 0
    assert seen == files


def test_a_sweep_prints_json_where_it_is_asked_to(monkeypatch, capsys):
    monkeypatch.setattr(
        illada_lab.commands.sample, "run", lambda config, is_json=False: print(config.seed, is_json) or 0
    )
    assert main(["sample", "checkpoint=runs/pretrain-toy", "seed=0,1", "--multirun", "--json"]) == 0
    assert capsys.readouterr().out.splitlines() == ["0 True", "1 True"]


def test_a_sweep_of_the_main_job_has_its_folders_where_one_job_has_its_own(monkeypatch):
    seen = []
    monkeypatch.setattr(illada_lab.commands.reproduce, "measured", lambda config: seen.append(config.run_dir) or [])
    assert main(["reproduce", "scale=smoke", "trainer.max_norm=1,2", "-m"]) == 0
    assert main(["reproduce", "scale=smoke", "run_dir=mine", "seed=0,1", "-m"]) == 0
    assert seen == [
        "runs/reproduce-smoke-seed0/trainer.max_norm-1", "runs/reproduce-smoke-seed0/trainer.max_norm-2", "mine/seed-0", "mine/seed-1",
    ]  # fmt: skip


def test_a_sweep_over_choices_and_with_nothing_to_sweep(runs):
    assert main(["train", "scale=smoke", "optim=adamw,muon", "--multirun"]) == 0
    assert [c.optim._target_.rsplit(".", 1)[-1] for c in runs] == ["adamw", "muon"]
    runs.clear()
    assert main(["train", "scale=smoke", "-m"]) == 0
    assert [c.run_dir for c in runs] == ["runs/pretrain-smoke"]


def test_a_sweep_ends_with_its_jobs_side_by_side(monkeypatch, capsys):
    def measured(config):
        if config.seed == 3:
            raise ValueError("seed = 3; broken; another")
        bound = {"task": "all", "metric": "bound", "value": 0.25 + config.seed, "unit": "nats/token"}
        return [bound, {"task": "fact", "metric": "exact match", "value": 0.5 + config.seed / 10, "n": 40}]

    monkeypatch.setattr(illada_lab.commands.train, "measured", measured)
    assert main(["train", "scale=smoke", "seed=0,1,3,2", "-m"]) == 2
    said = capsys.readouterr()
    title, names, *lines = said.out.strip().splitlines()
    assert title == "2 of 4 jobs" and names.split()[:4] == ["task", "metric", "job", "value"]
    assert [line.split()[:4] for line in lines[:2]] == [["all", "bound", f"seed-{n}", f"{n}.25"] for n in (0, 1)]
    assert [line.split()[3:5] for line in lines[2:]] == [["seed-0", "50.0"], ["seed-1", "60.0"]]
    assert "seed = 3; broken" in said.err
    assert main(["train", "scale=smoke", "seed=0", "-m"]) == 0  # nothing beside it
    assert not capsys.readouterr().out


BOUND = {"nelbo_per_token": 1.0, "stderr": 0.1}


@pytest.mark.parametrize("rank", [0, 1])
def test_of_several_processes_one_speaks(monkeypatch, capsys, rank):
    """Every process of a run comes to the end of the command."""
    stage = {
        "name": "pretrain",
        "entropy_per_token": {},
        "validation_curve": [{"step": 1, "kind": "all", **BOUND}],
        "landmarks": {},
    }
    results = {"stages": [stage], "tables": [{"title": "Base", "rows": []}], "manifest": {"seconds": 1.0}}
    history = {"validation": [{"step": 1, "kinds": {"all": BOUND}}], "landmarks": {}}
    monkeypatch.setattr("illada_lab.experiments.reproduce.reproduce", lambda config: (results, Path("report.html")))
    monkeypatch.setattr(
        "illada_lab.training.run.train", lambda config: SimpleNamespace(history=history, checkpoint=Path("last.ckpt"))
    )
    monkeypatch.setattr("illada_lab.training.allocator.keep_freed_memory", lambda: None)
    monkeypatch.setattr(rank_zero_only, "rank", rank)
    for command, last in (("train", "checkpoint: last.ckpt"), ("reproduce", "report: report.html")):
        assert main([command, "scale=smoke"]) == 0
        said = capsys.readouterr()
        assert (last in said.out and "1.0000 +- " in said.out) if rank == 0 else not said.out + said.err
        assert main([command, "scale=smoke", "seed=0,1", "-m"]) == 0
        said = capsys.readouterr()
        assert ("[2/2] seed-1" in said.err and "2 of 2 jobs" in said.out) if rank == 0 else not said.out + said.err


def test_a_sweep_is_checked_as_a_whole_before_its_first_job(runs, capsys):
    assert main(["train", "scale=smoke", "model.n_heads=2,3", "-m"]) == 2
    assert not runs and "n_heads = 3" in capsys.readouterr().err


def test_commas_without_multirun_are_explained(capsys, runs):
    assert main(["train", "scale=smoke", "seed=0,1"]) == 2
    said = capsys.readouterr().err
    assert "--multirun" in said and said.count("\n") == 1 and not runs


def test_a_reader_that_goes_away_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m illada_lab.cli config scale=8b | head -n 1", shell=True, capture_output=True, text=True
    )
    assert done.stdout and "Traceback" not in done.stderr and "Error" not in done.stderr


def test_doctor_tells_what_would_be_used(capsys):
    assert main(["doctor", "scale=8b", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kernels"]["sdpa"] == "works" and "sdpa" in found["would_use"]["attention"]
    assert found["would_use"]["precision"] in ("32-true", "bf16-mixed")
    assert found["training_state"]["parameters"] == 7_615_025_152
    # Weights, gradients, two moments: 16 bytes each.
    assert found["training_state"]["state_gib"] == pytest.approx(16 * 7_615_025_152 / 2**30, abs=0.01)
    assert found["versions"]["flash-attn"] == "not installed" or found["extras"]["flash_attn"] == "installed"


def test_doctor_prints_tables(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for word in ("Processor", "Attention kernels", "sdpa", "precision", "scale=toy"):
        assert word in out


def test_kernels_that_answer_wrongly_or_not_are_found(monkeypatch):
    import torch

    from illada_lab import doctor
    from illada_lab.models.kernels import dense

    found = doctor.try_kernels(torch.device("cpu"))
    assert found["sdpa"] == found["plain"] == "works"
    assert found["flex"] == "works in inference; no: has no backward pass on a CPU"
    assert found["flash 2"] == "no: runs on CUDA devices, not on cpu"
    doctor.trial.cache_clear()
    monkeypatch.setattr(dense, "fused", lambda q, k, v, is_visible=None, is_causal=False: q + k.sum() + v.sum())
    assert doctor.try_kernels(torch.device("cpu"))["sdpa"].startswith("wrong: is wrong by")
    doctor.trial.cache_clear()
