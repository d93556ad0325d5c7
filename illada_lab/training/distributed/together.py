"""What several processes decide together: sums and flags over all of them; with one process nothing is sent."""

from collections.abc import Sequence

import torch
import torch.distributed as dist

# What the libraries under torch.distributed say where another process is gone or silent: gloo, NCCL, the store.
SIGNS_OF_LOSS = ("connection", "timed out", "timeout", "gloo", "nccl", "socket", "peer")


def n_processes() -> int:
    """Processes of the run that is going on."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


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


def gathered(value: object) -> list[object]:
    """One object of every process, in the order of their ranks; small ones, on rare occasions."""
    if n_processes() == 1:
        return [value]
    found: list[object] = [None] * n_processes()
    dist.all_gather_object(found, value)
    return found


def is_lost_process(error: BaseException) -> bool:
    """Whether an error says that another process of the run is gone or did not answer in time."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in SIGNS_OF_LOSS)
