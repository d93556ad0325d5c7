"""Whole runs at smoke scale: they learn, they resume to the bit, they survive being killed, they stop when they must."""

import csv
import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from illada_lab.config import build, check, compose, to_plain
from illada_lab.data.tokenizer import Tokenizer
from illada_lab.tokens import has_bos_of
from illada_lab.training.assemble import build_module, build_trainer
from illada_lab.training.callbacks import history as measuring
from illada_lab.training.callbacks.guard import LossGuard, TrainingStopped
from illada_lab.training.callbacks.samples import Samples
from illada_lab.training.checkpoint import load_run, read_checkpoint
from illada_lab.training.metrics_file import MetricsFile
from illada_lab.training.module import DiffusionModule
from illada_lab.training.run import train
from illada_lab.training.settings import resolve
from illada_lab.training.validation import FrozenMasks

SMALL = ["scale=smoke", "trainer.precision=32-true", "trainer.accelerator=cpu"]


def run(folder: Path, *overrides: str):
    config = compose([*SMALL, f"run_dir={folder}", *overrides])
    check(config)
    return train(config)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(folder)["state_dict"]


def test_smoke_run_learns_and_leaves_everything_behind(tmp_path):
    done = run(tmp_path / "a", "scale.n_steps=120")
    losses = [r["loss"] for r in done.history["train"]]
    assert losses[0] > 4.0 and losses[-1] < 0.75 * losses[0]
    kinds = done.history["validation"][-1]["kinds"]
    assert {"story", "fact", "sum", "all"} == set(kinds)
    assert kinds["story"]["nelbo_per_token"] > kinds["story"]["entropy_per_token"] > 0
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert (
        manifest["config"]["seed"] == 0
        and manifest["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    )
    loaded = load_run(tmp_path / "a")
    assert loaded.step == 120 and loaded.tokenizer.encode("ada lives in rome .")
    samples = [json.loads(line) for line in (tmp_path / "a" / "samples.jsonl").read_text().splitlines()]
    assert [sample["step"] for sample in samples] == list(range(10, 121, 10)) and all(s["text"] for s in samples)
    metrics = (tmp_path / "a" / "metrics.csv").read_text()
    assert "train/loss" in metrics and "validation/story/nelbo_per_token" in metrics


def test_checkpoints_are_due_by_the_clock_too(tmp_path):
    """One that is older than so many minutes is replaced, whatever the step; one that is not, is not."""
    never = ["trainer.max_steps=4", "lr.n_steps=20", "trainer.save_every=null", "trainer.keeps_before_decay=false"]
    run(tmp_path / "a", *never, "trainer.save_minutes=1e-9")
    folder = tmp_path / "a" / "checkpoints"
    assert [read_checkpoint(folder / name)["global_step"] for name in ("previous.ckpt", "last.ckpt")] == [3, 4]
    run(tmp_path / "b", *never, "trainer.save_minutes=60.0")
    assert [path.name for path in (tmp_path / "b" / "checkpoints").iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("settings", [("optim=adamw",), ("optim=muon",), ("optim=muon", "trainer.ema_decay=0.5")])
def test_resumed_run_equals_the_uninterrupted_one_to_the_bit(tmp_path, settings):
    """Weights, losses and validations; stopped in the middle of an epoch, between two validations."""
    whole = run(tmp_path / "whole", *settings, "trainer.save_every=7")
    # The schedule is the whole run's: only the trainer stops early.
    first = run(tmp_path / "parts", *settings, "trainer.max_steps=7", "lr.n_steps=20")
    assert first.history["train"] != whole.history["train"]
    resumed = run(tmp_path / "parts", *settings, "resume=auto")
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert whole.history["validation"][-1] == resumed.history["validation"][-1]
    assert [r["loss"] for r in whole.history["train"]][1:] == [r["loss"] for r in resumed.history["train"]][-1:]


def test_another_decay_goes_on_from_where_the_constant_phase_ended(tmp_path, capsys):
    """The branch is the run that had this schedule from the start, to the bit; it says what it does otherwise."""
    trunk = run(tmp_path / "trunk")  # 20 steps, the last 6 of them decay
    fork = tmp_path / "trunk" / "checkpoints" / "before_decay.ckpt"
    assert read_checkpoint(fork)["global_step"] == 14
    capsys.readouterr()
    branch = run(tmp_path / "branch", f"resume={fork}", "lr.decay_start=1.0")
    assert "goes on from step 14 with other settings: lr.decay_start 0.7 -> 1.0\n" in capsys.readouterr().out
    whole = run(tmp_path / "whole", "lr.decay_start=1.0")
    assert branch.history["validation"] == whole.history["validation"] != trunk.history["validation"]
    a, b = weights(tmp_path / "branch"), weights(tmp_path / "whole")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not (tmp_path / "whole" / "checkpoints" / "before_decay.ckpt").exists()  # nothing decays there


def test_a_resumed_run_is_as_long_and_learns_as_fast_as_it_is_told(tmp_path, capsys):
    """Also where the checkpoint comes from a shorter run with other rates."""
    run(tmp_path / "a", "scale.n_steps=4")
    run(
        tmp_path / "a",
        "resume=auto",
        "scale.n_steps=10",
        "optim.lr=1e-3",
        "optim.weight_decay=0.3",
        "lr.decay_start=0.8",
    )
    said = capsys.readouterr().out
    for change in (
        "lr.n_steps 4 -> 10",
        "optim.lr 0.01 -> 0.001",
        "optim.weight_decay 0.1 -> 0.3",
        "lr.decay_start 0.7 -> 0.8",
    ):
        assert change in said
    payload = read_checkpoint(tmp_path / "a")
    muon, adamw = (payload["optimizer_states"][0][part]["param_groups"][0] for part in ("muon", "adamw"))
    # The last step's rate has been set for the step after it, the end of the decay.
    assert muon["lr"] == pytest.approx(1e-3 * 0.025) and muon["weight_decay"] == adamw["weight_decay"] == 0.3
    # Of the two places where a decay began the first has none behind it.
    assert read_checkpoint(tmp_path / "a" / "checkpoints" / "before_decay.ckpt")["global_step"] == 3


def test_the_rate_of_a_step_is_the_one_it_was_made_with(tmp_path):
    done = run(tmp_path / "a", "scale.n_steps=6", "trainer.log_every=1", "lr.n_warmup_steps=2", "lr.decay_start=1.0")
    assert [record["lr"] for record in done.history["train"]] == [0.005, 0.01, 0.01, 0.01, 0.01, 0.01]


def test_metrics_of_a_resumed_run_are_one_file(tmp_path):
    """Rows up to the step that it went on from stay, each step once."""
    run(tmp_path / "a", "scale.n_steps=6", "trainer.log_every=1")
    run(tmp_path / "a", "scale.n_steps=12", "trainer.log_every=1", "resume=auto")
    with (tmp_path / "a" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows if row["train/loss"]] == list(range(1, 13))
    assert [int(row["step"]) for row in rows if row["validation/all/nelbo_per_token"]] == [6, 10, 12]


@pytest.mark.parametrize("n_saved", [0, 1])
def test_metrics_survive_a_kill_while_their_file_is_written_anew(tmp_path, monkeypatch, n_saved):
    first = MetricsFile(tmp_path)
    for step in range(3):
        first.log_metrics({"loss": step}, step)
    first.save()
    save, calls = ExperimentWriter.save, iter(range(9))

    def killed(writer):
        if next(calls) == n_saved:
            raise KeyboardInterrupt
        save(writer)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(ExperimentWriter, "save", killed)
        MetricsFile(tmp_path).log_metrics({"loss": 9}, 2)
    again = MetricsFile(tmp_path)
    again.log_metrics({"loss": 7}, 2)
    again.save()
    rows = (tmp_path / "metrics.csv").read_text().split()
    assert [row.split(",")[0] for row in rows[1:]] == ["0", "1", "7"]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_without_the_average_a_run_goes_on_with_its_weights(tmp_path):
    """A checkpoint with an average holds both; switched off, the raw weights go on, to which the optimiser's state belongs."""
    run(tmp_path / "a", "scale.n_steps=4", "trainer.ema_decay=0.9")
    raw = read_checkpoint(tmp_path / "a")["current_model_state"]
    run(
        tmp_path / "a",
        "scale.n_steps=5",
        "resume=auto",
        "trainer.ema_decay=null",
        "optim.lr=1e-12",
        "optim.adamw_lr=1e-12",
    )
    after = weights(tmp_path / "a")
    assert all(torch.allclose(after[name], raw[name], atol=1e-6) for name in raw)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optim=adamw"], "optim._target_ = .*adamw; .* holds the state of .*muon; that, or init_from="),
        (["model.d_ffn=32"], "model.d_ffn = 32; .* holds the state of .*; that, or a new run"),
        (["trainer.max_steps=3"], "trainer.max_steps = 3; .* stands at step 4 already; 5 or more"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(tmp_path_factory, overrides, message):
    folder = tmp_path_factory.getbasetemp() / "to_resume"
    if not folder.exists():
        run(folder, "scale.n_steps=4")
    with pytest.raises(ValueError, match=message):
        run(folder, "resume=auto", "scale.n_steps=4", *overrides)


def test_going_back_in_a_folder_that_has_gone_on_is_refused(tmp_path):
    """As a job that is queued again with the same command would; in a folder of its own it begins, and then nothing is left to do."""
    run(tmp_path / "a", "scale.n_steps=4")
    fork = f"resume={tmp_path / 'a' / 'checkpoints' / 'before_decay.ckpt'}"
    with pytest.raises(ValueError, match="saved there at step 4 and would be lost; resume=auto"):
        run(tmp_path / "a", fork, "scale.n_steps=4")
    run(tmp_path / "b", fork, "scale.n_steps=5")
    with pytest.raises(ValueError, match="saved there at step 5"):
        run(tmp_path / "b", fork, "scale.n_steps=5")
    with pytest.raises(ValueError, match="trainer.max_steps = 3; .* stands at step 3 already; 4 or more"):
        run(tmp_path / "c", fork, "scale.n_steps=3")


def test_rows_are_counted_in_steps_of_one_size(tmp_path):
    run(tmp_path / "a", "scale.n_steps=4")
    with pytest.raises(ValueError, match="data.batch_size = 4; .* in steps of 8, .* data.batch_size=8, or init_from="):
        run(tmp_path / "a", "scale.n_steps=6", "scale.batch_size=4", "resume=auto")


def test_a_row_without_response_is_told_before_the_first_step(tmp_path):
    file = tmp_path / "chat.jsonl"
    talks = [[{"role": "user", "content": "how are you ?" * (20 if i == 7 else 1)}, {"role": "assistant", "content": "well ."}]
             for i in range(40)]  # fmt: skip
    file.write_text("\n".join(json.dumps({"messages": talk}) for talk in talks))
    words = ["objective=sft_response_only", "data=jsonl", f"data.path={file}", "data.source.messages_field=messages"]
    with pytest.raises(ValueError, match="how are you .*a row without a response"):
        run(tmp_path / "a", *words, "tokenizer=byte")
    assert not (tmp_path / "a" / "checkpoints").exists()


def test_accumulated_micro_batches_draw_the_same_masks(tmp_path):
    """The same samples and masks; sums in another order, so equal up to rounding."""
    one = run(tmp_path / "one", "scale.n_steps=3", "optim=adamw")
    four = run(tmp_path / "four", "scale.n_steps=3", "optim=adamw", "data.micro_batch_size=2")
    a = one.history["validation"][-1]["kinds"]["all"]["nelbo_per_token"]
    b = four.history["validation"][-1]["kinds"]["all"]["nelbo_per_token"]
    # Per-token means of micro-batches are averaged, rows differ a little in their number of tokens.
    assert a == pytest.approx(b, rel=0.02)


def test_a_run_killed_while_saving_goes_on_to_the_same_end(tmp_path):
    """kill -9 at a moment when checkpoints are being written all the time."""
    overrides = [*SMALL, f"run_dir={tmp_path / 'killed'}", "trainer.save_every=1", "scale.n_steps=60"]
    command = [sys.executable, "-m", "illada_lab.cli", "train", *overrides]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    folder = tmp_path / "killed" / "checkpoints"
    deadline = time.time() + 120
    while time.time() < deadline and not (folder / "previous.ckpt").is_file():
        time.sleep(0.02)
    time.sleep(0.1)
    process.kill()
    process.wait()
    assert (folder / "previous.ckpt").is_file() and read_checkpoint(folder)["global_step"] < 60
    (folder / "last.ckpt.partial").write_bytes(b"half a checkpoint")
    run(tmp_path / "killed", "trainer.save_every=1", "scale.n_steps=60", "resume=auto")
    run(tmp_path / "whole", "scale.n_steps=60")
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_truncated_last_checkpoint_falls_back_to_the_one_before(tmp_path):
    run(tmp_path / "a", "trainer.save_every=5")
    last = tmp_path / "a" / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"last\.ckpt; truncated.*previous\.ckpt"):
        read_checkpoint(tmp_path / "a")
    resumed = run(tmp_path / "a", "trainer.save_every=5", "resume=auto")
    assert resumed.history["train"][-1]["step"] == 20
    # From step 15 on the samples of the first run are void.
    samples = (tmp_path / "a" / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in samples] == [10, 20]


def test_a_second_run_does_not_overwrite_the_first(tmp_path):
    run(tmp_path / "a", "scale.n_steps=3")
    with pytest.raises(ValueError, match="run_dir = .*would be lost; resume=auto"):
        run(tmp_path / "a", "scale.n_steps=3")


def test_fine_tuning_starts_from_the_weights_and_tokenizer_of_pretraining(tmp_path):
    run(tmp_path / "base")
    tuned = run(tmp_path / "tuned", "experiment=sft", f"init_from={tmp_path / 'base'}", "scale.sft_steps=3")
    assert tuned.history["train"][-1]["step"] == 3
    assert load_run(tmp_path / "tuned").tokenizer.to_dict() == load_run(tmp_path / "base").tokenizer.to_dict()
    with pytest.raises(ValueError, match="another family or size.*embed_tokens"):
        run(tmp_path / "other", "experiment=sft", f"init_from={tmp_path / 'base'}", "model.d_model=64")


@pytest.mark.parametrize("experiment", ["sft_response_only", "autoregressive"])
def test_other_objectives_train(tmp_path, experiment):
    overrides = []
    if experiment.startswith("sft"):
        run(tmp_path / "base", "scale.n_steps=3")
        overrides = [f"init_from={tmp_path / 'base'}"]
    done = run(
        tmp_path / "run", f"experiment={experiment}", "trainer.max_steps=30", "scale.n_warmup_steps=2", *overrides
    )
    losses = [r["loss"] for r in done.history["train"]]
    assert losses[-1] < losses[0]


def test_ema_is_saved_and_used(tmp_path):
    run(tmp_path / "ema", "trainer.ema_decay=0.5", "scale.n_steps=5")
    run(tmp_path / "plain", "scale.n_steps=5")
    a, b = weights(tmp_path / "ema"), weights(tmp_path / "plain")
    assert not torch.equal(a["predictor.norm.weight"], b["predictor.norm.weight"])


def parts(folder: Path, *overrides: str):
    """Everything of a run, before it starts."""
    config = compose([*SMALL, f"run_dir={folder}", *overrides])
    data, settings = build(config.data), build(config.trainer)
    data.prepare()
    here = resolve(settings, batch_size=data.batch_size, micro_batch_size=data.micro_batch_size)
    return config, data, settings, here


def test_samples_of_fine_tuning_begin_as_conversations_do(tmp_path):
    config, data, settings, here = parts(tmp_path, "experiment=sft", "init_from=null")
    module = build_module(config, data, settings, here, None)
    trainer, _ = build_trainer(config, data, settings, here, module)
    (samples,) = (callback for callback in trainer.callbacks if isinstance(callback, Samples))  # type: ignore[attr-defined]
    assert not data.adds_bos and {d["ids"][0] for d in data.validation_documents()} == {samples.opening}


@pytest.mark.parametrize(("has_bos", "has_eos"), [(True, True), (False, True), (False, False)])
def test_samples_of_pretraining_begin_as_those_of_the_command_do(has_bos, has_eos, tmp_path):
    """Where documents have neither BOS nor EOS in front, a sample must not begin with the EOS that the model has never seen."""
    config, data, settings, here = parts(tmp_path, f"data.adds_bos={has_bos}", f"data.adds_eos={has_eos}")
    trainer, _ = build_trainer(config, data, settings, here, build_module(config, data, settings, here, None))
    (samples,) = (callback for callback in trainer.callbacks if isinstance(callback, Samples))  # type: ignore[attr-defined]
    tokens = data.tokenizer.tokens
    assert [samples.opening] == tokens.opened([], has_bos_of(to_plain(config.data)))
    assert samples.opening == (tokens.eos if has_eos and not has_bos else tokens.bos)


def test_an_eos_that_is_bos_as_well_is_validated(tmp_path):
    config, data, settings, here = parts(tmp_path)
    plain = build_module(config, data, settings, here, None).validation
    tokens = data.tokenizer.tokens
    data.tokenizer.tokens = replace(tokens, bos=tokens.eos)
    both = build_module(config, data, settings, here, None).validation
    assert plain is not None and both is not None
    # The documents still begin with the old BOS, which is now a token like any other.
    assert [len(positions) + 1 for positions in plain.maskable] == [len(positions) for positions in both.maskable]


def test_dropout_of_adapters_is_told_to_layers_that_are_computed_again(tmp_path):
    for dropout, expected in (("0.05", True), ("0.0", False)):
        overrides = ["lora=linear", f"lora.dropout={dropout}", "trainer.activation_checkpointing=1"]
        config, data, settings, here = parts(tmp_path, *overrides)
        assert build_module(config, data, settings, here, None)._placement.has_dropout is expected  # type: ignore[union-attr]


def test_samples_behind_the_step_that_a_run_goes_on_from_are_void(tmp_path):
    file = tmp_path / "samples.jsonl"
    kept = ['{"step": 10, "text": "a\u2028b"}', '{"step": 20, "text": "c"}']
    file.write_bytes("\n".join([*kept, '{"step": 30, "text": "d"}', '{"step": 40, "te']).encode() + b"\xe2\x80")
    samples = Samples(path=file, tokenizer=Mock(spec=Tokenizer), length=4, opening=0, every=10)
    samples.on_train_start(Mock(spec=pl.Trainer, global_step=20), Mock(spec=DiffusionModule))
    for step in (30, 40):
        samples._write(f'{{"step": {step}, "text": "e"}}\n')
    assert file.read_text().split("\n") == [*kept, '{"step": 30, "text": "e"}', '{"step": 40, "text": "e"}', ""]
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(("is_frozen", "mfu"), [(False, 3.0), (True, 2.0)])
def test_measuring_the_machine_is_no_training_time(monkeypatch, is_frozen, mfu):
    clock = [0.0]

    def measured(*_: object) -> float:
        clock[0] += 100
        return 1e9

    monkeypatch.setattr(measuring, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(measuring, "matmul_rate", measured)
    logged: list[dict[str, float]] = []
    logger = SimpleNamespace(log_metrics=lambda metrics, step: logged.append(metrics))
    trainer = Mock(spec=pl.Trainer, max_steps=9, precision="32-true", world_size=1, loggers=[logger])
    predictor = SimpleNamespace(
        spec=SimpleNamespace(flops_per_token=lambda length, is_frozen: 4e8 if is_frozen else 6e8)
    )
    module = Mock(spec=DiffusionModule, seconds_aside=0.0, last_rate=0.0, last_gradient_norm=0.0)
    module.predictor, module.device = predictor, torch.device("cpu")
    history, throughput = measuring.History(), measuring.Throughput(every=3, length=8, is_frozen=is_frozen)
    for step in range(1, 10):
        clock[0] += 1
        for callback in (history, throughput):
            callback.after_step(trainer, module, {"loss": 1.0, "n_tokens": 5}, step)
    assert history.seconds == 8 and [row["tokens_per_second"] for row in logged] == [5.0, 5.0, 5.0]
    assert [row["mfu"] for row in logged] == pytest.approx([mfu] * 3)


def test_what_is_validated_is_what_is_saved(tmp_path):
    """With an average of the weights, too: its bound, not that of the weights it is made of."""
    done = run(tmp_path / "ema", "trainer.ema_decay=0.9", "scale.n_steps=6", "trainer.validate_every=3")
    loaded = load_run(tmp_path / "ema")
    data = build(compose([*SMALL]).data)
    data.prepare(loaded.tokenizer)
    frozen = FrozenMasks(data.validation_documents(), bos=loaded.predictor.tokens.bos, n_draws=4)
    again = frozen.evaluate(loaded.predictor).summary()["all"]["nelbo_per_token"]
    assert done.history["validation"][-1]["kinds"]["all"]["nelbo_per_token"] == pytest.approx(again, abs=1e-6)


def test_response_only_runs_are_validated_on_responses(tmp_path):
    run(tmp_path / "base", "scale.n_steps=3")
    start = [f"init_from={tmp_path / 'base'}", "trainer.max_steps=3", "scale.n_warmup_steps=2"]
    whole, response = (
        run(tmp_path / name, f"experiment={name}", *start).history["validation"][-1]["kinds"]["all"]
        for name in ("sft", "sft_response_only")
    )
    assert response["n_documents"] == whole["n_documents"]
    assert 0 < response["n_tokens"] < 0.7 * whole["n_tokens"]


def test_text_trains_and_reports_bits_per_byte(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"line {i} says that {i} is a number" for i in range(400)))
    done = run(tmp_path / "run", "data=text", f"data.path={text}", "tokenizer=byte", "scale.n_steps=20")
    row = done.history["validation"][-1]["kinds"]["text"]
    assert row["bits_per_byte"] == pytest.approx(row["bits_per_token"], rel=0.02)  # a byte is a token here
    assert 3 < row["bits_per_byte"] < 8.5


def test_the_guard_stops_a_run_that_is_no_number(tmp_path, monkeypatch):
    from illada_lab.objectives import Pretrain

    plain = Pretrain.__call__

    def poisoned(self, predictor, batch, random):
        loss = plain(self, predictor, batch, random)
        if int(batch.index[0]) >= 40:  # step 6: the stream's samples 40 to 47
            loss.value = loss.value * float("nan")
        return loss

    monkeypatch.setattr(Pretrain, "__call__", poisoned)
    with pytest.raises(TrainingStopped, match=r"step = 6; the gradient of .* is not finite"):
        run(tmp_path / "a", "trainer.save_every=2")
    record = json.loads((tmp_path / "a" / "stopped.json").read_text())
    assert record["samples"] == list(range(40, 48)) and record["step"] == 6
    assert all(torch.isfinite(w).all() for w in weights(tmp_path / "a").values())


def test_the_guard_tells_spikes_from_a_jump(tmp_path):
    trainer, module = Mock(spec=pl.Trainer), Mock(spec=DiffusionModule)
    guard = LossGuard(path=tmp_path / "stopped.json", window=10, factor=3.0, n_spikes=3)
    guard._index = [1, 2]
    for loss in [1.0] * 10 + [9.0, 9.0, 1.0, 9.0, 9.0]:
        guard.after_step(trainer, module, {"loss": loss}, 1)
    with pytest.raises(TrainingStopped, match="9.0 times its median"):
        guard.after_step(trainer, module, {"loss": 9.0}, 16)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.length=300"], "data.length = 300.*at most 256"),
        (["data.micro_batch_size=3"], "data.batch_size = 8.*multiple.*nearest: 9"),
        (["model.vocab_size=50"], "model.vocab_size = 50"),
        (["experiment=sft", "init_from=nowhere"], "init_from = nowhere"),
        (["data=text", "data.path=nowhere.txt"], "data.path = nowhere.txt; no such file"),
        (["objective=autoregressive"], "model.is_causal = false"),
        (["resume=nowhere"], "resume = nowhere"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(tmp_path, overrides, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        run(tmp_path / "a", *overrides)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a").exists()


def test_a_start_from_weights_of_another_size_leaves_nothing_behind(tmp_path):
    run(tmp_path / "start", "trainer.max_steps=3")
    with pytest.raises(ValueError, match=f"init_from = {tmp_path}/start.*another family or size"):
        run(tmp_path / "a", "model.d_model=16", f"init_from={tmp_path}/start")
    assert not [path for path in (tmp_path / "a").rglob("*") if path.is_file()]


def test_a_resumed_run_names_the_start_that_is_gone(tmp_path):
    run(tmp_path / "a", "trainer.max_steps=3", "lr.n_steps=6")
    with pytest.raises(FileNotFoundError, match="^init_from = nowhere; no last.ckpt there"):
        run(tmp_path / "a", "resume=auto", "init_from=nowhere")


def test_the_snippet_of_the_readme_runs(tmp_path, capsys):
    page = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    run(tmp_path / "a")
    capsys.readouterr()
    exec(snippet.replace("runs/pretrain-toy", str(tmp_path / "a")), {})
    assert len(capsys.readouterr().out.splitlines()) == 1  # it may be empty: 20 steps know little


def test_golden_losses(tmp_path):
    """The first losses of a run on a text of our own, as measured when this test was written: a change of any part of training shows here,
    a change of the world or of a recipe does not."""
    text = tmp_path / "text.txt"
    text.write_text(golden_text())
    golden = json.loads((Path(__file__).parent / "golden_losses.json").read_text())
    done = run(tmp_path / "a", f"data.path={text}", *golden["overrides"])
    assert [r["loss"] for r in done.history["train"]] == pytest.approx(golden["losses"], rel=2e-3)


def golden_text() -> str:
    return "\n\n".join(f"the square of {i} is {i * i}, of {i + 1} it is {(i + 1) ** 2}" for i in range(300))
