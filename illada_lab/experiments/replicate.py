"""Run studies over seeds: a file per seed, a result file per study with its claims judged."""

import hashlib
import inspect
import json
import os
import re
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Any

from illada_lab.config import build, compose, groups, to_plain
from illada_lab.config.building import locate
from illada_lab.experiments.claims import MIN_SEEDS, judge
from illada_lab.experiments.lab import Lab
from illada_lab.experiments.study import Study, check_study, checked
from illada_lab.files import write_text
from illada_lab.manifest import PACKAGES, commit, machine, manifest, memory_bytes, versions
from illada_lab.training.recipe import differences, recipe

# Changes when a reader must behave differently.
FORMAT = 1
SECONDS_TO_SAVE = 30  # of a process whose parent is gone
# Scales of which several runs fit a machine at once, and the memory that one of them may take.
SIDE_BY_SIDE = ("smoke", "mini", "toy")
BYTES_EACH = 1.5 * 2**30
# Experiments whose models studies train, beside pre-training: other recipes of them are other measurements.
TRAINED = ("sft", "sft_response_only", "autoregressive")


@dataclass(frozen=True)
class Plan:
    """One study at one scale.

    Attributes:
        name: of the study.
        node: its configuration (`_target_` and settings, plain data).
        scale: name of the scale.
    """

    name: str
    node: dict[str, Any]
    scale: str


def replicate(name: str, node: dict[str, Any], *, scale: str, seeds: Sequence[int], **how: Any) -> dict[str, Any]:
    """One study; see `replicate_all`."""
    return next(replicate_all([Plan(name, node, scale)], seeds=seeds, **how))


def replicate_all(
    plans: Sequence[Plan],
    *,
    seeds: Sequence[int],
    runs_dir: str | Path = "runs",
    results_dir: str | Path = "results",
    n_processes: int | None = 1,
    say: Callable[[str], None] = print,
) -> Iterator[dict[str, Any]]:
    """Run studies for every seed that has no result yet, judge their claims, and write `<results_dir>/<scale>/<name>.json`.

    Seeds of different studies run side by side, so that no process waits for the last seed of a study.

    Args:
        plans: studies.
        seeds: of the runs.
        runs_dir: folder of runs; results of single seeds are kept there too, so that a broken-off call goes on.
        results_dir: folder of results.
        n_processes: seeds measured at once, each with its share of the cores; a toy run needs about 1 GiB. None: see `at_once`.
        say: gets a line for each seed before, and one with the time that is left after it.

    Yields:
        What was written, each study as soon as its last seed is measured: format, study, title, scale, command, manifest, config,
        seeds (seed, seconds, commit, date, number of processes, machine, versions and code (see `code_of`) of the measurement, tables,
        effects, rooms), looks, claims.

    Raises:
        ValueError: a result file was made with other settings or from more seeds; or a study that cannot be measured (see `check_study`
            and `checked`).
    """
    for plan in plans:  # refuses before anything is measured
        check_study(build(plan.node), plan.name)
        looks_of(plan, _result_path(plan, results_dir), len(seeds))
    jobs = [(plan, _Job(plan.name, plan.node, plan.scale, seed, str(runs_dir))) for plan in plans for seed in seeds]
    waiting = [(plan, job) for plan, job in jobs if not job.is_measured]
    for _, job in jobs:
        say(f"{job.name} seed {job.seed}: {job.standing}")
    open_seeds = {id(plan): sum(other is plan for other, _ in waiting) for plan in plans}
    for plan in plans:
        if not open_seeds[id(plan)]:
            yield _write_result(plan, seeds, runs_dir, results_dir)
    if n_processes is None:
        are_small = all(plan.scale in SIDE_BY_SIDE for plan in plans)
        n_processes = at_once(len(waiting), machine(), memory_bytes()) if are_small else 1
    plan_of, taken = {job: plan for plan, job in waiting}, {}
    for job, seconds in _run_all([job for _, job in waiting], n_processes):
        taken[job] = seconds
        left = seconds_left(taken, [other for _, other in waiting if other not in taken], n_processes)
        say(
            f"{job.name} seed {job.seed}: {seconds.total:.0f} s" + (f"; about {left / 60:.0f} min left" if left else "")
        )
        plan = plan_of[job]
        open_seeds[id(plan)] -= 1
        if not open_seeds[id(plan)]:
            yield _write_result(plan, seeds, runs_dir, results_dir)


def seconds_left(taken: Mapping["_Job", "Seconds"], waiting: Sequence["_Job"], n_processes: int) -> float:
    """What the jobs that wait are expected to take: as long as others of their study, or as the mean study, and the models that studies
    share once for each scale and seed.

    Args:
        taken: jobs that are done; not empty.
        waiting: jobs that are not, begun ones too.
        n_processes: jobs at once.
    """
    own: dict[tuple[str, str], list[float]] = {}
    for job, seconds in taken.items():
        own.setdefault((job.scale, job.name), []).append(seconds.total - seconds.shared)
    means = {study: mean(values) for study, values in own.items()}
    known = mean(means.values())
    shared = [seconds.shared for seconds in taken.values() if seconds.shared > 0.1 * seconds.total]
    unmade = {(job.scale, job.seed) for job in waiting} - {(job.scale, job.seed) for job in taken}
    expected = sum(means.get((job.scale, job.name), known) for job in waiting)
    return (expected + (mean(shared) * len(unmade) if shared else 0.0)) / n_processes


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


def _write_result(plan: Plan, seeds: Sequence[int], runs_dir: str | Path, results_dir: str | Path) -> dict[str, Any]:
    """Put the seeds of a study together."""
    study: Study = build(plan.node)
    paths = [_Job(plan.name, plan.node, plan.scale, seed, str(runs_dir)).path for seed in seeds]
    done = [json.loads(path.read_text()) for path in paths]
    about = manifest(seed=seeds[0], scale=plan.scale)
    del about["seed"]
    path = _result_path(plan, results_dir)
    looks = looks_of(plan, path, len(seeds), done)
    result = {
        "format": FORMAT,
        "study": plan.name,
        "title": study.title,
        "scale": plan.scale,
        "command": command(plan, len(seeds)),
        "manifest": {**about, "seeds": list(seeds), "seconds": sum(record["seconds"] for record in done)},
        "config": plan.node,
        "seeds": done,
        "looks": looks,
        "claims": judged(study, done, len(looks)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, result)
    return result


def _result_path(plan: Plan, results_dir: str | Path) -> Path:
    return Path(results_dir) / plan.scale / f"{plan.name}.json"


def looks_of(plan: Plan, path: Path, n_seeds: int, records: Sequence[dict[str, Any]] | None = None) -> list[int]:
    """Numbers of seeds at which the claims of a result file have been judged, this one among them.

    Whoever adds seeds where a verdict is open, or measures the same ones again, looks twice; the interval has to pay for that
    (`t_interval`). Fewer than three seeds decide nothing, so they are no look.

    Args:
        plan: what is about to be judged.
        path: of the result, there or not.
        n_seeds: that are about to be judged.
        records: what was measured of each; None: not yet known.

    Raises:
        ValueError: the file was made with other settings or from more seeds, and would be lost.
    """
    before: list[int] = []
    if path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))
        for key, was, now in differences(*_told_in_full(plan, known["config"])):
            raise ValueError(
                f"study.{key} = {_shown(now)}; {path} was measured with {_shown(was)} and would be lost; another results_dir=..., or "
                "delete that file"
            )
        if (n_known := len(known["seeds"])) > n_seeds:
            raise ValueError(
                f"seeds = {n_seeds}; {path} was made from {n_known} and would be lost; seeds={n_known}, or results_dir="
            )
        before = known.get("looks", [n_known])
        if before and before[-1] == n_seeds and (records is None or known["seeds"] == list(records)):
            before = before[:-1]  # the same look
    return [n for n in (*before, n_seeds) if n >= MIN_SEEDS] or [n_seeds]


def _told_in_full(plan: Plan, known: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of a known result, and of a plan, with those that they leave to the study; as JSON has them.

    What a result does not know came into the world after it, with the value that it has where nobody sets it.
    """
    parameters = inspect.signature(locate(str(plan.node["_target_"]))).parameters
    left = {key: p.default for key, p in parameters.items() if p.default is not p.empty}
    usual = _own(plan) if {*plan.node, *left} - set(known) else {}
    before, now = {**left, **usual, **known}, {**left, **plan.node}
    return json.loads(json.dumps(before, default=str)), json.loads(json.dumps(now, default=str))


def _own(plan: Plan) -> dict[str, Any]:
    """The settings that a study has at a scale where nobody changes them; none where conf/study has no such file."""
    if plan.name not in groups()["study"]:
        return {}
    return to_plain(compose([f"scale={plan.scale}", f"study={plan.name}"]).study)


def command(plan: Plan, n_seeds: int) -> str:
    """What measures this study alone, and nothing else: settings that are not the scale's own are named."""
    if own := _own(plan):
        study = f"study={plan.name}"
        changed = [
            f"{'' if key in own else '+'}study.{key}={_shown(value)}"
            for key, value in plan.node.items()
            if key not in own or own[key] != value
        ]
        changed += [f"~study.{key}" for key in own if key not in plan.node]
    else:
        study, changed = f"+study={_shown(plan.node)}", []
    words = [study, f"scale={plan.scale}", f"seeds={n_seeds}", *changed]
    # Brackets stay as they are: to a shell they stand for names of files, of which there are none like these.
    return " ".join(
        ["illada-lab replicate", *(w if re.fullmatch(r"[\w=.,:/+~\[\]-]+", w) else shlex.quote(w) for w in words)]
    )


def _shown(value: Any) -> str:
    """A value as the command line wants it: lists and dictionaries without spaces, text in quotes where it could be read as something
    else."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_shown(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_shown, value))}]"
    is_plain_text = isinstance(value, str) and re.fullmatch(
        r"(?!(null|true|false|yes|no|on|off|inf|nan)$)[a-z_][\w./-]*", value, re.I
    )
    return value if is_plain_text else json.dumps(value, ensure_ascii=False, default=str)


def judged(study: Study, records: Sequence[dict[str, Any]], n_looks: int = 1) -> list[dict[str, Any]]:
    """Every claim of a study with its effects and verdict; `n_looks`: see `t_interval`."""
    found = []
    for claim in study.claims:
        effects = [record["effects"][claim.id] for record in records]
        rooms = [record["rooms"][claim.id] for record in records if claim.id in record["rooms"]]
        found.append({**vars(claim), "effects": effects, **judge(claim, effects, rooms, n_looks).to_dict()})
    return found


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
class _Job:
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
        _write(self.path, {"seed": self.seed, "seconds": round(seconds, 1), **measured, **vars(outcome)})
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


def _run_all(jobs: Sequence[_Job], n_processes: int) -> Iterator[tuple[_Job, Seconds]]:
    """Run jobs, here or in processes of their own; each comes out when it has finished."""
    if n_processes == 1 or len(jobs) < 2:
        yield from ((job, job.run(1)) for job in jobs)
        return
    import multiprocessing

    n = min(n_processes, len(jobs))
    threads = max(1, (os.cpu_count() or 1) // n)
    # Spawned, not forked: a fork of a process that has used torch's threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n, mp_context=context, initializer=_begin, initargs=(threads,)) as pool:
        # Handed over one by one: the pool would take some ahead of time and begin them after an error too. What has begun is kept.
        waiting = iter(jobs)
        running = {pool.submit(job.run, n): job for job in islice(waiting, n)}
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            # All of them before another begins: one may have failed.
            ended = [(running.pop(future), future.result()) for future in done]
            running |= {pool.submit(following.run, n): following for following in islice(waiting, len(ended))}
            yield from ended


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


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON, all of it or nothing."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
