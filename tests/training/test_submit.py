"""`python -m illada_lab.submit`: what a launcher's processes know of each other."""

import json
import os
import shlex
import subprocess
import sys

import pytest

from illada_lab.config import compose
from illada_lab.manifest import manifest, told_as_command
from illada_lab.submit import command_of, last_validation, tell_local_ranks


def started(local_id: str, **more: str) -> dict[str, str]:
    """What submitit's local executor puts into a process's environment."""
    return {"SUBMITIT_LOCAL_NTASKS": "2", "SUBMITIT_LOCAL_LOCALID": local_id, "SUBMITIT_LOCAL_JOB_ID": "4711", **more}


def test_the_processes_of_a_run_share_an_address_and_have_their_own_ranks():
    first, second = started("0"), started("1")
    for environment in (first, second):
        tell_local_ranks(environment)
    assert (first["LOCAL_RANK"], second["LOCAL_RANK"]) == ("0", "1")
    for key in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK"):
        assert first[key] == second[key]
    other = started("0", SUBMITIT_LOCAL_JOB_ID="4712")
    tell_local_ranks(other)
    assert other["MASTER_PORT"] != first["MASTER_PORT"]


def test_single_processes_and_other_launchers_are_left_alone():
    for environment in ({}, {"SUBMITIT_LOCAL_NTASKS": "1"}, started("1", LOCAL_RANK="7")):
        before = dict(environment)
        tell_local_ranks(environment)
        assert environment == before


def test_last_validation():
    assert last_validation([{"kinds": {"all": {"nelbo_per_token": 2.0}}}]) == 2.0
    assert last_validation([]) != last_validation([])  # NaN


def test_settings_of_other_commands_are_refused(tmp_path):
    command = [sys.executable, "-m", "illada_lab.submit", "scale=smoke", "prompt=ada", f"hydra.run.dir={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode and "prompt = ada; has no effect on train" in done.stderr, done.stderr[-3000:]


def test_two_processes_through_the_launcher_are_one_run(tmp_path):
    """As a user types it; both processes train the same model, one writes."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    settings = ["scale=smoke", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.max_steps=4"]
    command = [sys.executable, "-m", "illada_lab.submit", "-m", "hydra/launcher=here", *settings, f"run_dir={tmp_path}/run",
               f"hydra.sweep.dir={tmp_path}/sweep"]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    history = json.loads((tmp_path / "run" / "0" / "history.json").read_text())
    assert history["train"][-1]["step"] == 4
    about = json.loads((tmp_path / "run" / "0" / "manifest.json").read_text())
    typed = " ".join([*settings, f"run_dir={tmp_path}/run/0", "name=pretrain-smoke/0"])
    assert about["command"] == f"illada-lab train {typed}" and about["config"]["name"] == "pretrain-smoke/0"


def test_the_command_of_a_job_does_its_work_where_it_is_typed():
    overrides = ["scale=smoke", "run_dir=runs/a", "data.path='my notes.txt'", "seed=1"]
    config = compose(["scale=smoke", "run_dir=runs/a/3", "name=b/3"])
    words = shlex.split(command_of(overrides, config))
    assert words == ["illada-lab", "train", *overrides[:1], *overrides[2:], "run_dir=runs/a/3", "name=b/3"]
    with told_as_command("illada-lab train a"):
        assert manifest(seed=0, scale="smoke")["command"] == "illada-lab train a"
    assert manifest(seed=0, scale="smoke")["command"] != "illada-lab train a"
