"""Studies measured for single seeds: which are measured already, how many at once, and how long the rest will take."""

import hashlib
import inspect
import json
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Any

from illada_lab.config import build, to_plain
from illada_lab.experiments.lab import Lab
from illada_lab.experiments.study import Study, checked
from illada_lab.files import write_json
from illada_lab.manifest import PACKAGES, commit, machine, versions
from illada_lab.training.recipe import recipe

SECONDS_TO_SAVE = 30  # of a process whose parent is gone
BYTES_EACH = 1.5 * 2**30  # that one of several small runs may take
# Experiments whose models studies train, beside pre-training: other recipes of them are other measurements.
TRAINED = ("sft", "sft_response_only", "autoregressive")


@cache
def code_of(kind: type) -> str | None:
    """What tells the code of a study from another: a digest of the text of its class's module, as it was when this was asked first; None
    where there is no text."""
    try:
        module = inspect.getmodule(kind)
        return None if module is None else hashlib.sha256(inspect.getsource(module).encode()).hexdigest()[:12]
    except (OSError, TypeError):  # typed into a console or a notebook
        return None


@cache
def _told(scale: str, seed: int) -> tuple[Any, ...]:
    """Recipes of all that studies train, and the scale's numbers."""
    lab = Lab(scale, seed)
    configs = [lab.config(), *(lab.config(f"experiment={name}") for name in TRAINED)]
    return [recipe(config) for config in configs], to_plain(configs[0])["scale"]


@dataclass(frozen=True, eq=False)
class Job:
    """One study for one seed; plain, so that it can go to another process."""

    name: str
    node: dict[str, Any]
    scale: str
    seed: int
    runs_dir: str

    @cached_property
    def path(self) -> Path:
        """Where its result is kept: other settings of the study or another recipe of the scale are another measurement."""
        told = [self.node, *_told(self.scale, self.seed)]
        fingerprint = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]
        return Path(self.runs_dir) / f"replicate-{self.scale}-seed{self.seed}" / f"{self.name}-{fingerprint}.json"

    @cached_property
    def is_measured(self) -> bool:
        """Whether there is a result, of every claim that the study makes now."""
        if not self.path.is_file():
            return False
        known = json.loads(self.path.read_text(encoding="utf-8"))["effects"]
        return set(known) == {claim.id for claim in build(self.node).claims}

    @property
    def standing(self) -> str:
        """Whether it was measured before. A result of other code is taken, since a changed comment must not cost hours; that is said."""
        if not self.is_measured:
            return "waiting"
        before = json.loads(self.path.read_text(encoding="utf-8")).get("code")
        if before in (None, code_of(type(build(self.node)))):  # None: older than this
            return "measured before"
        return f"measured before, with other code of the study; delete {self.path} to measure again"

    def run(self, n_processes: int = 1) -> "Seconds":
        """Measure, as one of so many at once, write the result; every claim must be measured, and nothing else."""
        begin = time.perf_counter()
        study: Study = build(self.node)
        code = code_of(type(study))  # now: it may be edited while it runs
        lab = Lab(self.scale, self.seed, self.runs_dir)
        outcome = checked(study.run(lab), study.claims, self.name, self.seed)
        seconds = time.perf_counter() - begin
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # With the measurement: the file of all seeds may be written later, by another process or on another machine.
        measured = {
            "commit": commit(),
            "date": time.strftime("%Y-%m-%d"),
            "n_processes": n_processes,
            "machine": machine(),
            "versions": versions(PACKAGES),
            "code": code,
        }
        write_json(self.path, {"seed": self.seed, "seconds": round(seconds, 1), **measured, **vars(outcome)})
        return Seconds(seconds, lab.shared_seconds)


@dataclass(frozen=True)
class Seconds:
    """How long a job took.

    Attributes:
        total: all of it.
        shared: its part for models that other studies of this scale and seed find when they come.
    """

    total: float
    shared: float


def run_all(jobs: Sequence[Job], n_processes: int) -> Iterator[tuple[Job, Seconds, dict[Job, float]]]:
    """Run jobs, here or in processes of their own.

    Yields:
        Each job when it has finished, how long it took, and how long those that are going on then have taken so far.
    """
    if n_processes == 1 or len(jobs) < 2:
        yield from ((job, job.run(1), {}) for job in jobs)
        return
    import multiprocessing

    n = min(n_processes, len(jobs))
    threads = max(1, (os.cpu_count() or 1) // n)
    # Spawned, not forked: a fork of a process that has used torch's threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n, mp_context=context, initializer=_begin, initargs=(threads,)) as pool:
        # Handed over one by one: the pool would take some ahead of time and begin them after an error too. What has begun is kept.
        waiting = iter(jobs)
        begin: dict[Job, float] = {}
        running = {pool.submit(job.run, n): job for job in islice(waiting, n)}
        while running:
            begin = {job: begin.get(job, time.perf_counter()) for job in running.values()}
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            # All of them before another begins: one may have failed.
            ended = [(running.pop(future), future.result()) for future in done]
            running |= {pool.submit(following.run, n): following for following in islice(waiting, len(ended))}
            now = time.perf_counter()
            yield from (
                (job, seconds, {job: now - begin.get(job, now) for job in running.values()}) for job, seconds in ended
            )


def _begin(n_threads: int) -> None:
    """In each process, before its first job."""
    import multiprocessing
    import threading

    import torch

    torch.set_num_threads(n_threads)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_with(parent: Any) -> None:
    """Stop this process where its parent has been killed, which would leave it at work: a run saves first, if it comes to that."""
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SECONDS_TO_SAVE)
    os._exit(1)


def seconds_left(
    taken: Mapping[Job, Seconds], waiting: Sequence[Job], n_processes: int, begun: Mapping[Job, float] | None = None
) -> float:
    """What the jobs that wait are expected to take: as long as others of their study, or as the mean study, and the models that studies
    share once for each scale and seed.

    Args:
        taken: jobs that are done; not empty.
        waiting: jobs that are not, begun ones too.
        n_processes: jobs at once.
        begun: how long those of them that are going on have taken so far; None: none are.
    """
    own: dict[tuple[str, str], list[float]] = {}
    for job, seconds in taken.items():
        own.setdefault((job.scale, job.name), []).append(seconds.total - seconds.shared)
    means = {study: mean(values) for study, values in own.items()}
    known = mean(means.values())
    shared = [seconds.shared for seconds in taken.values() if seconds.shared > 0.1 * seconds.total]
    unmade = {(job.scale, job.seed) for job in waiting} - {(job.scale, job.seed) for job in taken}
    expected = {job: means.get((job.scale, job.name), known) for job in waiting}
    for scale, seed in unmade if shared else ():
        first = next(job for job in waiting if (job.scale, job.seed) == (scale, seed))
        expected[first] += mean(shared)
    left = [max(0.0, seconds - (begun or {}).get(job, 0.0)) for job, seconds in expected.items()]
    return max(sum(left) / n_processes, max(left, default=0.0))


def at_once(n_jobs: int, machine: dict[str, Any], n_bytes: int) -> int:
    """How many small runs a machine takes at once: one per core, as memory allows, and one on a GPU.

    Where a few more wait than there are cores, all of them: three that share two cores end before two and then one do.

    Args:
        n_jobs: runs that wait.
        machine: see `manifest.machine`.
        n_bytes: memory; 0: not known.
    """
    if machine["gpu"] is not None:
        return 1
    cores = machine["cores"] or 1
    wanted = n_jobs if n_jobs < 2 * cores else cores
    return max(1, min(wanted, int(n_bytes / BYTES_EACH)) if n_bytes else wanted)
