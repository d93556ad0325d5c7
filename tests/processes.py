"""Several processes of one run, on this machine: started from a process that has imported everything once."""

import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PRELOADED = [
    "lightning.pytorch",
    "illada_lab.training.assemble",
    "illada_lab.training.run",
    "torch.distributed.checkpoint",
]
SMALL = ["scale=smoke", "trainer.precision=32-true", "trainer.accelerator=cpu", "trainer.log_every=1"]


def start(n: int, job: Callable[..., Any], *arguments: Any) -> tuple[list[BaseProcess], Any]:
    """Start a job in `n` processes that know of each other as torchrun's do."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    results = context.Queue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started: list[BaseProcess] = []
    for rank in range(n):
        process = context.Process(target=_work, args=(rank, n, port, results, job, arguments))
        process.start()
        started.append(process)
    return started, results


def finish(started: Sequence[BaseProcess], results: Any, seconds: float = 240) -> dict[int, Any]:
    """Wait for all of them; what each returned, or the exception it raised, by rank. Those that were killed are left out."""
    found: dict[int, Any] = {}
    end = time.monotonic() + seconds
    while time.monotonic() < end and (any(p.is_alive() for p in started) or not results.empty()):
        try:
            rank, value = results.get(timeout=0.2)
        except Exception:  # queue.Empty
            continue
        found[rank] = value
    hanging = [rank for rank, p in enumerate(started) if p.is_alive()]
    for p in started:
        p.kill()
        p.join()
    assert not hanging, f"processes {hanging} did not end within {seconds} s; others: {found}"
    return found


def together(n: int, job: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Run a job in `n` processes to its end; what each returned. One that failed fails the test."""
    found = finish(*start(n, job, *arguments))
    for value in found.values():
        assert not isinstance(value, Failure), f"{value.kind}: {value.text}\n{value.trace}"
    assert len(found) == n, f"{n - len(found)} of {n} processes died"
    return [found[rank] for rank in range(n)]


class Failure:
    """An exception of another process."""

    def __init__(self, error: BaseException) -> None:
        self.kind, self.text, self.trace = type(error).__name__, str(error), "".join(traceback.format_exception(error))


def _work(rank: int, n: int, port: int, results: Any, job: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    import torch

    torch.set_num_threads(1)
    if n > 1:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(n),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            TORCHELASTIC_RUN_ID="test",
        )
    try:
        results.put((rank, job(*arguments)))
    except BaseException as error:
        results.put((rank, Failure(error)))


def run(folder: Path, *overrides: str) -> Any:
    """Train at smoke scale."""
    from illada_lab.config import check, compose
    from illada_lab.training.run import train

    config = compose([*SMALL, f"run_dir={folder}", *overrides])
    check(config)
    return train(config)


def losses(folder: Path) -> list[float]:
    """Loss of every step of a run, as its last checkpoint knows it."""
    from illada_lab.training.checkpoint import read_about

    callbacks = read_about(folder)["callbacks"]
    (history,) = [state for name, state in callbacks.items() if name.startswith("History")]
    return [record["loss"] for record in history["train"]]


def run_only(folder: Path, *overrides: str) -> None:
    """Train at smoke scale, in another process: nothing comes back but what it leaves in its folder."""
    run(folder, *overrides)
