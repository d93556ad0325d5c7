"""Checkpoints are written when they are due, and a kill while one is written loses nothing."""

import os
import signal
import subprocess
import sys
import time
from unittest.mock import Mock

import lightning.pytorch as pl
import pytest
import torch

from illada_lab.training.callbacks.history import History
from illada_lab.training.callbacks.saving import AtomicCheckpointIO, RollingCheckpoint
from illada_lab.training.checkpoint import read_checkpoint
from tests.training.small_runs import SMALL, run, weights


def test_checkpoints_are_due_by_the_clock_too(tmp_path):
    """One that is older than so many minutes is replaced, whatever the step; one that is not, is not."""
    never = ["trainer.max_steps=4", "lr.n_steps=20", "trainer.save_every=null", "trainer.keeps_before_decay=false"]
    run(tmp_path / "a", *never, "trainer.save_minutes=1e-9")
    folder = tmp_path / "a" / "checkpoints"
    assert [read_checkpoint(folder / name)["global_step"] for name in ("previous.ckpt", "last.ckpt")] == [3, 4]
    run(tmp_path / "b", *never, "trainer.save_minutes=60.0")
    assert [path.name for path in (tmp_path / "b" / "checkpoints").iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_all_processes_saves(tmp_path, number, status):
    """As a terminal or a queue does it, to those that build batches too, and with more of these to come in the same step."""
    settings = ["scale.n_steps=100000", "trainer.save_every=20", "trainer.validate_every=null"]
    settings += ["data.n_workers=1", "data.micro_batch_size=2", f"run_dir={tmp_path / 'a'}"]
    command = [sys.executable, "-m", "illada_lab.cli", "train", *SMALL, *settings]
    process = subprocess.Popen(
        command,
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Whoever runs these tests in the background of a script has the signal ignored, and so would this process.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.time() + 120
    while time.time() < deadline and not (tmp_path / "a" / "checkpoints" / "previous.ckpt").is_file():
        time.sleep(0.02)
    os.killpg(process.pid, number)
    said, _ = process.communicate(timeout=120)
    step = read_checkpoint(tmp_path / "a")["global_step"]
    assert f"stopped by {number.name} after step {step}; saved in" in said and process.returncode == status, said
    assert "Traceback" not in said
    assert ("saving after this step; Ctrl-C again: stop without" in said) == (number == signal.SIGINT)


@pytest.fixture
def handler():
    """Python's own for Ctrl-C, also afterwards."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def saving(folder):
    made = RollingCheckpoint(folder=folder, every=None, keeps_before_decay=False, files=AtomicCheckpointIO())
    made.setup(Mock(spec=pl.Trainer), Mock(spec=pl.LightningModule), "fit")
    return made


def test_ctrl_c_before_the_first_step_does_not_wait(tmp_path, handler):
    """Layers are compiled there, for minutes."""
    found = saving(tmp_path)
    signal.signal(signal.SIGINT, found._on_signal)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_second_ctrl_c_does_not_wait(tmp_path, handler):
    found = saving(tmp_path)
    found._has_stepped = True
    signal.signal(signal.SIGINT, found._on_signal)
    signal.raise_signal(signal.SIGINT)
    assert found.signal == signal.SIGINT and signal.getsignal(signal.SIGINT) is handler
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_run_that_is_not_to_hear_of_ctrl_c_does_not(tmp_path, handler):
    """As a script's that was sent to the background."""
    assert signal.SIGINT in saving(tmp_path)._handlers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert signal.SIGINT not in saving(tmp_path)._handlers


def test_ctrl_c_while_the_last_step_is_saved_is_not_lost(tmp_path, handler, monkeypatch):
    """Otherwise a second stage, or the next run of a sweep, would begin."""
    plain = AtomicCheckpointIO.save_checkpoint

    def pressed(self, *args, **settings):
        signal.raise_signal(signal.SIGINT)
        plain(self, *args, **settings)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", pressed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", "scale.n_steps=3", "trainer.keeps_before_decay=false")
    assert read_checkpoint(tmp_path / "a")["global_step"] == 3 and signal.getsignal(signal.SIGINT) is handler


def test_a_run_killed_while_saving_goes_on_to_the_same_end(tmp_path):
    """kill -9 at a moment when checkpoints are being written all the time."""
    overrides = [*SMALL, f"run_dir={tmp_path / 'killed'}", "trainer.save_every=1", "scale.n_steps=200"]
    command = [sys.executable, "-m", "illada_lab.cli", "train", *overrides]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    folder = tmp_path / "killed" / "checkpoints"
    deadline = time.time() + 120
    while time.time() < deadline and not (folder / "previous.ckpt").is_file():
        time.sleep(0.02)
    time.sleep(0.1)
    process.kill()
    process.wait()
    assert (folder / "previous.ckpt").is_file() and read_checkpoint(folder)["global_step"] < 200
    (folder / "last.ckpt.partial").write_bytes(b"half a checkpoint")
    run(tmp_path / "killed", "trainer.save_every=1", "scale.n_steps=200", "resume=auto")
    run(tmp_path / "whole", "scale.n_steps=200")
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_best_checkpoint_is_kept(tmp_path, monkeypatch):
    """The one of the lowest validation, whatever comes behind it; a run that goes on remembers what it had."""
    losses = iter([3.0, 1.0, 1.0, 2.0, 1.5, 0.5])

    def add(self, step, summary, bins):
        self.validation.append({"step": step, "kinds": {"all": {**summary["all"], "nelbo_per_token": next(losses)}}})

    monkeypatch.setattr(History, "add_validation", add)
    never = ["trainer.validate_every=2", "trainer.save_every=null", "trainer.keeps_before_decay=false", "lr.n_steps=20"]
    run(tmp_path / "a", *never, "trainer.max_steps=8", "trainer.keeps_best=true")
    folder = tmp_path / "a" / "checkpoints"
    steps = {path.name: read_checkpoint(path)["global_step"] for path in folder.iterdir()}
    assert steps == {"last.ckpt": 8, "best.ckpt": 4}
    run(
        tmp_path / "a",
        *never,
        "trainer.max_steps=12",
        "trainer.keeps_best=true",
        "resume=auto",
        "trainer.save_every=10",
    )
    assert read_checkpoint(folder / "previous.ckpt")["global_step"] == 10
    best = read_checkpoint(folder / "best.ckpt")
    assert best["global_step"] == 12
    losses = iter([3.0])
    run(tmp_path / "b", *never, "trainer.max_steps=2")
    assert [path.name for path in (tmp_path / "b" / "checkpoints").iterdir()] == ["last.ckpt"]
    # In another folder nothing is kept of what was best before, however often one goes on there.
    losses = iter([3.5, 3.6, 3.4])
    run(tmp_path / "c", *never, "trainer.max_steps=6", "trainer.keeps_best=true", f"resume={tmp_path / 'b'}")
    best = tmp_path / "c" / "checkpoints" / "best.ckpt"
    assert read_checkpoint(best)["global_step"] == 4
    run(tmp_path / "c", *never, "trainer.max_steps=8", "trainer.keeps_best=true", "resume=auto")
    assert read_checkpoint(best)["global_step"] == 8
