"""The processes of one run: who started them, which this one is, and what they decide together; with one nothing is sent."""

import atexit
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

# What the libraries under torch.distributed say where another process is gone or silent: gloo, NCCL, the store.
SIGNS_OF_LOSS = ("connection", "timed out", "timeout", "gloo", "nccl", "socket", "peer")
# Until all have come at the start; and until all have answered their questions, which may take one of them days longer than another.
MEETING, PATIENCE = timedelta(minutes=30), timedelta(days=7)


def join() -> None:
    """Let the processes that torchrun or srun has started know of each other, each with a CUDA device of its own where there are some.

    What they send is small and lies in the host's memory. A process that was started alone stays alone, in a script of SLURM's too.
    """
    if dist.is_initialized() or (place := _place()) is None:
        return
    number, n, local_rank = place
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        _name_meeting_point()
    store, number, n = next(dist.rendezvous("env://", number, n, timeout=MEETING))
    dist.init_process_group("gloo", store=store, rank=number, world_size=n, timeout=PATIENCE)
    atexit.register(_leave)
    if n_devices := torch.cuda.device_count():
        torch.cuda.set_device(local_rank % n_devices)


def _place() -> tuple[int, int, int] | None:
    """Number of this process, of how many, and its number on its machine; None: it is alone."""
    told = os.environ
    if "TORCHELASTIC_RUN_ID" in told:
        number, n, local_rank = (int(told[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    elif "SLURM_STEP_NUM_TASKS" in told:
        # A task of srun's; a batch script, which is one process, has the job's numbers only.
        number, n, local_rank = (int(told[f"SLURM_{name}"]) for name in ("PROCID", "STEP_NUM_TASKS", "LOCALID"))
    else:
        return None
    return None if n == 1 else (number, n, local_rank)


def _name_meeting_point() -> None:
    """Address and port of the first of srun's tasks, where torchrun would have put them; what stands there stays."""
    from lightning.fabric.plugins.environments import SLURMEnvironment

    told = os.environ
    told.setdefault("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(told["SLURM_STEP_NODELIST"]))
    # Every job its own, as Lightning has them, and every step of a job.
    port = 15000 + (int(told["SLURM_JOB_ID"]) + 97 * int(told["SLURM_STEP_ID"])) % 10000
    told.setdefault("MASTER_PORT", str(port))


def processes_here() -> int:
    """Processes of the run on this machine, as far as torchrun or srun says it."""
    return 1 if n_processes() == 1 else _n_here()


def _n_here() -> int:
    """The same by the environment, before there is a process group."""
    told = os.environ
    if "LOCAL_WORLD_SIZE" in told:
        return int(told["LOCAL_WORLD_SIZE"])
    # srun: "8(x2),4", machine by machine.
    counts: list[int] = []
    for n, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", told.get("SLURM_STEP_TASKS_PER_NODE", "")):
        counts += [int(n)] * int(times or 1)
    number = int(told.get("SLURM_NODEID", 0))
    return counts[number] if number < len(counts) else 1


def share_of_machine() -> tuple[int, int]:
    """(i, n): of the work that the n processes of a run on this machine divide, this one has every n-th piece, from the i-th on.

    By what torchrun or srun has put into the environment: before there is a process group; where that is silent, all of it. Lightning's
    own launcher begins the others when the first is through, so that one has all of it, and the others (i = n) nothing.
    """
    from lightning.pytorch.utilities import rank_zero_only

    if (place := _place()) is not None:
        return place[2], _n_here()
    return (0, 1) if rank_zero_only.rank == 0 else (1, 1)  # type: ignore[attr-defined]


@contextmanager
def waiting_for_others(remedy: str) -> Iterator[None]:
    """Another process that is gone is said in one line, not in the words of the library that noticed it.

    Args:
        remedy: what to do then.

    Raises:
        RuntimeError: see above.
    """
    try:
        yield
    except Exception as error:
        if n_processes() == 1 or not is_lost_process(error):
            raise
        raise RuntimeError(
            f"process {rank()} of {n_processes()}; waited for another, which is gone, perhaps with a word above; {remedy}"
        ) from error


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def n_processes() -> int:
    """Processes of the run that is going on."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process among them, from 0."""
    return dist.get_rank() if n_processes() > 1 else 0


def sums(values: Sequence[float], device: torch.device) -> list[float]:
    """Each value summed over all processes, in float64.

    Args:
        values: as many in every process.
        device: where the process group sends from.
    """
    if n_processes() == 1:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return total.tolist()


def any_of(flags: Sequence[bool], device: torch.device) -> list[bool]:
    """For each flag whether it is up in any process: all processes get the same answer and can act on it together."""
    return [total > 0 for total in sums([float(flag) for flag in flags], device)]


def gathered(value: Any) -> list[Any]:
    """One object of every process, in the order of their ranks; small ones, on rare occasions."""
    if n_processes() == 1:
        return [value]
    found: list[Any] = [None] * n_processes()
    dist.all_gather_object(found, value)
    return found


def sent_to_first(value: Any) -> list[Any] | None:
    """One object of every process for the first of them, in the order of their ranks; None in the others."""
    if n_processes() == 1:
        return [value]
    found: list[Any] | None = [None] * n_processes() if rank() == 0 else None
    dist.gather_object(value, found)
    return found


def of_first(value: Any) -> Any:
    """The first process's object, for all."""
    if n_processes() == 1:
        return value
    found = [value]
    dist.broadcast_object_list(found)
    return found[0]


def wait() -> None:
    """Until all processes have come so far."""
    if n_processes() > 1:
        dist.barrier()


def is_lost_process(error: BaseException) -> bool:
    """Whether an error says that another process of the run is gone or did not answer in time."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in SIGNS_OF_LOSS)
