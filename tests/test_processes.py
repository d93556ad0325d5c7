"""Who started the processes of a run, and what they exchange."""

import os

import pytest

from illada_lab import processes
from tests.processes import together


def exchanged() -> tuple:
    processes.join()
    processes.join()  # again changes nothing
    rank = processes.rank()
    found = processes.gathered(rank), processes.sent_to_first({"rank": rank}), processes.of_first([rank])
    processes.wait()
    return found


def test_processes_of_torchrun_know_of_each_other():
    assert together(2, exchanged) == [([0, 1], [{"rank": 0}, {"rank": 1}], [0]), ([0, 1], None, [0])]


def test_one_process_stays_alone():
    assert exchanged() == ([0], [{"rank": 0}], [0])


JOB = {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "job", "SLURM_JOB_ID": "12345", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}
STEP = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_ID": "2", "SLURM_STEP_NODELIST": "node[07-08]"}
STEP = {**STEP, "SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_NODEID": "1"}


@pytest.mark.parametrize(
    ("step", "place"), [({}, None), (STEP, (3, 4, 1)), ({**STEP, "SLURM_STEP_NUM_TASKS": "1"}, None)]
)
def test_a_batch_script_is_one_process_and_a_task_of_srun_one_of_several(monkeypatch, step, place):
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # set back to nothing behind the test
        monkeypatch.delenv(name)
    for name, value in {**JOB, **step}.items():
        monkeypatch.setenv(name, value)
    assert processes._place() == place and "MASTER_ADDR" not in os.environ
    if place is not None:
        assert processes.share_of_machine() == (1, 2)
        processes._name_meeting_point()
        assert os.environ["MASTER_ADDR"] == "node07" and 15000 <= int(os.environ["MASTER_PORT"]) < 25000


@pytest.mark.parametrize(
    ("n_all", "names", "n"),
    [
        (1, {"LOCAL_WORLD_SIZE": "3"}, 1),
        (4, {}, 1),
        (4, {"LOCAL_WORLD_SIZE": "3"}, 3),
        (4, {"SLURM_STEP_TASKS_PER_NODE": "2(x2)"}, 2),
        (7, {"SLURM_STEP_TASKS_PER_NODE": "2(x2),3", "SLURM_NODEID": "2"}, 3),
    ],
)
def test_processes_of_this_machine(monkeypatch, n_all, names, n):
    monkeypatch.setattr(processes, "n_processes", lambda: n_all)
    for name in ("LOCAL_WORLD_SIZE", "SLURM_STEP_TASKS_PER_NODE", "SLURM_NODEID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    assert processes.processes_here() == n


@pytest.mark.parametrize(
    ("n_all", "error", "message"),
    [
        (1, RuntimeError("Connection closed by peer"), "Connection closed by peer"),
        (
            2,
            RuntimeError("Connection closed by peer [127.0.0.1]"),
            "waited for another, which is gone, .*; the same again",
        ),
        (2, RuntimeError("out of memory"), "out of memory"),
        (2, ValueError("connection = 1; not legal"), "connection = 1"),
    ],
)
def test_a_process_that_is_gone_is_said_in_one_line(monkeypatch, n_all, error, message):
    monkeypatch.setattr(processes, "n_processes", lambda: n_all)
    monkeypatch.setattr(processes, "rank", lambda: 1)
    with pytest.raises(type(error), match=message), processes.waiting_for_others("the same again"):
        raise error
