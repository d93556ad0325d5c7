"""Run studies over seeds: a file per seed, a result file per study with its claims judged."""

import inspect
import json
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from illada_lab.config import build, compose, groups, to_plain
from illada_lab.config.building import locate
from illada_lab.experiments.claims import MIN_SEEDS, judge
from illada_lab.experiments.jobs import Job, at_once, run_all, seconds_left
from illada_lab.experiments.study import Study, check_study
from illada_lab.files import write_json
from illada_lab.manifest import machine, manifest, memory_bytes
from illada_lab.training.recipe import differences

# Changes when a reader must behave differently.
FORMAT = 1
# Scales of which several runs fit a machine at once.
SIDE_BY_SIDE = ("smoke", "mini", "toy")


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
        seeds (seed, seconds, commit, date, number of processes, machine, versions and code (see `jobs.code_of`) of the measurement, tables,
        effects, rooms), looks, claims.

    Raises:
        ValueError: a result file was made with other settings or from more seeds; or a study that cannot be measured (see `check_study`
            and `checked`).
    """
    for plan in plans:  # refuses before anything is measured
        check_study(build(plan.node), plan.name)
        looks_of(plan, _result_path(plan, results_dir), len(seeds))
    jobs = [(plan, Job(plan.name, plan.node, plan.scale, seed, str(runs_dir))) for plan in plans for seed in seeds]
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
    for job, seconds, begun in run_all([job for _, job in waiting], n_processes):
        taken[job] = seconds
        left = seconds_left(taken, [other for _, other in waiting if other not in taken], n_processes, begun)
        say(
            f"{job.name} seed {job.seed}: {seconds.total:.0f} s" + (f"; about {left / 60:.0f} min left" if left else "")
        )
        plan = plan_of[job]
        open_seeds[id(plan)] -= 1
        if not open_seeds[id(plan)]:
            yield _write_result(plan, seeds, runs_dir, results_dir)


def _write_result(plan: Plan, seeds: Sequence[int], runs_dir: str | Path, results_dir: str | Path) -> dict[str, Any]:
    """Put the seeds of a study together."""
    study: Study = build(plan.node)
    paths = [Job(plan.name, plan.node, plan.scale, seed, str(runs_dir)).path for seed in seeds]
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
    write_json(path, result)
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
