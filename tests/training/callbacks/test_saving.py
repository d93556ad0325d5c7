"""Checkpoints are written when they are due, and a kill while one is written loses nothing."""

import signal
import subprocess
import sys
import time

import torch

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


def interrupt(folder, n: int) -> tuple[int, str, int]:
    """Press Ctrl-C in a run of many steps; its status, its words, and the step it has saved."""
    settings = ["scale.n_steps=100000", "trainer.save_every=20", "trainer.validate_every=null"]
    command = [sys.executable, "-m", "illada_lab.cli", "train", *SMALL, f"run_dir={folder}", *settings]
    process = subprocess.Popen(command, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True)
    deadline = time.time() + 120
    while time.time() < deadline and not (folder / "checkpoints" / "previous.ckpt").is_file():
        time.sleep(0.02)
    for _ in range(n):
        process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    return process.returncode, said, read_checkpoint(folder)["global_step"]


def test_ctrl_c_saves_and_a_second_one_does_not_wait(tmp_path):
    status, said, step = interrupt(tmp_path / "a", 1)
    assert status == 130 and f"stopped by SIGINT after step {step}; saved in" in said and "Traceback" not in said
    assert "saving after this step; Ctrl-C again: stop without" in said
    status, said, _ = interrupt(tmp_path / "b", 2)
    assert status == 130 and said.rstrip().endswith("stopped") and "Traceback" not in said


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
