"""Kill a run again and again; what it ends with must be what it would have ended with.

`make soak`, or `python -m tests.training.soak --kills 30`: writes benchmarks/results/soak_cpu.json.
"""

import argparse
import io
import json
import os
import platform
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from illada_lab.manifest import commit, machine, versions
from illada_lab.training.checkpoint import find_resumable, read_about, read_checkpoint
from tests.processes import Failure, finish, losses, run, start

# What is killed when: at any moment of a step, while a checkpoint is written, while data are read and packed.
WAYS = ("kill", "SIGTERM", "kill while saving", "kill while preparing data")
SAVE_EVERY = 5
RESULT = Path("benchmarks/results/soak_cpu.json")


@dataclass(frozen=True)
class Kill:
    """What ends a run.

    Attributes:
        way: one of `WAYS`.
        step: the step at which its time has come (not while preparing data).
        delay: seconds from then on: what the process is in the middle of is a matter of chance.
        rank: of the process.
    """

    way: str
    step: int
    delay: float
    rank: int

    def go(self) -> None:
        """Let it come, in `delay` seconds from now."""
        number = signal.SIGTERM if self.way == "SIGTERM" else signal.SIGKILL
        timer = threading.Timer(self.delay, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()


def doomed_run(folder: Path, kill: Kill | None, overrides: list[str]) -> None:
    """Train, going on with what there is; end as `kill` says."""
    if kill is not None and kill.rank == int(os.environ.get("RANK", "0")):
        {"kill while saving": _at_save, "kill while preparing data": _at_data}.get(kill.way, _at_step)(kill)
    run(folder, f"trainer.save_every={SAVE_EVERY}", "resume=auto", *overrides)


def _at_step(kill: Kill) -> None:
    from illada_lab.training.callbacks import History

    plain, is_going = History.after_step, list[int]()

    def after_step(self, trainer, module, outputs, step):
        plain(self, trainer, module, outputs, step)
        if step >= kill.step and not is_going:
            is_going.append(step)
            kill.go()

    History.after_step = after_step  # type: ignore[method-assign]


def _at_data(kill: Kill) -> None:
    from illada_lab.data.datamodule import DataModule

    plain = DataModule.prepare

    def prepare(self, *arguments, **settings):
        kill.go()
        plain(self, *arguments, **settings)
        time.sleep(2 * kill.delay)  # what comes next is another kill's

    DataModule.prepare = prepare  # type: ignore[method-assign]


def _at_save(kill: Kill) -> None:
    """A checkpoint of this size is written in no time: the first one after the step is written slowly."""
    plain, n_parts = torch.save, 20

    def save(payload, file):
        if payload["global_step"] < kill.step:
            return plain(payload, file)
        whole = io.BytesIO()
        plain(payload, whole)
        kill.go()
        size = -(-len(whole.getbuffer()) // n_parts)
        for i in range(n_parts):
            file.write(whole.getbuffer()[i * size : (i + 1) * size])
            file.flush()
            time.sleep(2 * kill.delay / n_parts)
        return None

    torch.save = save


class Soak:
    """One run that is killed `n_kills` times, and its uninterrupted twin.

    Args:
        folder: where both are.
        n_kills: how often.
        n_steps: of the run; a kill is meant for each of `n_kills` random ones.
        n_processes: of the run (ddp).
        seed: of the moments.
    """

    def __init__(self, folder: Path, *, n_kills: int, n_steps: int, n_processes: int = 1, seed: int = 0) -> None:
        self.folder, self.n_processes, self.random = folder, n_processes, random.Random(seed)
        strategy = "auto" if n_processes == 1 else "ddp"
        self.overrides = [
            f"scale.n_steps={n_steps}",
            f"trainer={strategy}",
            f"trainer.devices={n_processes}",
            "trainer.validate_every=50",
            "trainer.timeout_minutes=1",
        ]
        moments = sorted(self.random.sample(range(1, n_steps - 2 * SAVE_EVERY), n_kills))
        # Each way in its turn, so that few kills cover all of them.
        self.plan = [self._kill(WAYS[number % len(WAYS)], moment) for number, moment in enumerate(moments)]

    def __call__(self) -> dict[str, Any]:
        """Kill, resume, compare."""
        began = time.monotonic()
        kills = [self._run_into(kill) for kill in self.plan]
        self._run(self.folder / "killed")
        self._run(self.folder / "whole")
        killed, whole = losses(self.folder / "killed"), losses(self.folder / "whole")
        a, b = (read_checkpoint(self.folder / name) for name in ("killed", "whole"))
        return {
            "n_kills": len(kills),
            "n_processes": self.n_processes,
            "n_steps": len(whole),
            "ways": dict(Counter(kill["way"] for kill in kills)),
            "is_same_losses": killed == whole,
            "is_same_weights": _equal(a["state_dict"], b["state_dict"]),
            "is_same_optimiser": _equal(a["optimizer_states"], b["optimizer_states"]),
            "last_loss": whole[-1],
            "seconds": round(time.monotonic() - began, 1),
            "kills": kills,
        }

    def _kill(self, way: str, moment: int) -> Kill:
        delay = self.random.uniform(0, {"kill while preparing data": 0.5}.get(way, 0.05))
        # The first process writes.
        rank = 0 if way == "kill while saving" else self.random.randrange(self.n_processes)
        return Kill(way, moment, delay, rank)

    def _run(self, folder: Path) -> None:
        for value in finish(*start(self.n_processes, doomed_run, folder, None, self.overrides), seconds=1800).values():
            assert not isinstance(value, Failure), value.trace

    def _run_into(self, kill: Kill) -> dict[str, Any]:
        """Start (or go on) until the kill comes, and see all processes end."""
        folder = self.folder / "killed"
        started, results = start(self.n_processes, doomed_run, folder, kill, self.overrides)
        found = finish(started, results, seconds=600)
        kinds = sorted({value.kind for value in found.values() if isinstance(value, Failure)})
        traces = "\n".join(value.trace for value in found.values() if isinstance(value, Failure))
        if kill.way == "SIGTERM":
            assert kinds == ["Preempted"] and len(found) == self.n_processes, traces
        else:
            assert started[kill.rank].exitcode == -signal.SIGKILL, (
                f"{kill} did not come: {started[kill.rank].exitcode} {traces}"
            )
            assert set(kinds) <= {"TrainingStopped"}, traces
        at = find_resumable(folder)
        return {
            **asdict(kill),
            "is_half_written": any((folder / "checkpoints").glob("*.partial")),
            "saved_step": None if at is None else read_about(at)["global_step"],
            "others": kinds,
        }


def _equal(a: Any, b: Any) -> bool:
    """Whether two trees of tensors are the same to the bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def main() -> None:
    """Soak one process and two, and write the result."""
    parser = argparse.ArgumentParser(
        description="Kill a run again and again; it must end as if it had not been killed."
    )
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--pair-kills", type=int, default=8, help="kills of a run of two processes")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for n_processes, n_kills in ((1, arguments.kills), (2, arguments.pair_kills)):
        with tempfile.TemporaryDirectory() as folder:
            soak = Soak(
                Path(folder), n_kills=n_kills, n_steps=arguments.steps, n_processes=n_processes, seed=arguments.seed
            )
            found.append(soak())
            print({key: value for key, value in found[-1].items() if key != "kills"}, flush=True)
    result = {
        "benchmark": "soak",
        "command": " ".join(["python -m tests.training.soak", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "versions": {"python": platform.python_version(), **versions(("torch", "lightning"))},
        "machine": machine(),
        "runs": found,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    if not all(f[key] for f in found for key in ("is_same_losses", "is_same_weights", "is_same_optimiser")):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
