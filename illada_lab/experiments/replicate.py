"""Run studies over seeds: a file per seed, a result file per study with its claims judged."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from illada_lab.config import build
from illada_lab.experiments.claims import judge
from illada_lab.experiments.lab import Lab
from illada_lab.experiments.study import Outcome, Study
from illada_lab.manifest import manifest

# Changes when a reader must behave differently.
FORMAT = 1


def replicate(
    name: str,
    node: dict[str, Any],
    *,
    scale: str,
    seeds: Sequence[int],
    runs_dir: str | Path = "runs",
    results_dir: str | Path = "results",
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Run a study for every seed that has no result yet, judge its claims, and write `<results_dir>/<scale>/<name>.json`.

    Args:
        name: of the study.
        node: its configuration (`_target_` and settings, plain data).
        scale: name of the scale.
        seeds: of the runs.
        runs_dir: folder of runs; results of single seeds are kept there too, so that a broken-off call goes on.
        results_dir: folder of results.
        say: gets a line before and after each seed.

    Returns:
        What was written: format, study, title, scale, manifest, config, seeds (seed, seconds, tables, effects, rooms), claims.
    """
    study: Study = build(node)
    done = []
    for seed in seeds:
        path = Path(runs_dir) / f"replicate-{scale}-seed{seed}" / f"{name}-{_fingerprint(node)}.json"
        if path.is_file():
            say(f"{name} seed {seed}: measured before")
            done.append(json.loads(path.read_text()))
            continue
        say(f"{name} seed {seed}: running")
        begin = time.perf_counter()
        outcome = study.run(Lab(scale, seed, runs_dir))
        done.append(_record(study, outcome, seed, time.perf_counter() - begin))
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, done[-1])
        say(f"{name} seed {seed}: {done[-1]['seconds']:.0f} s")
    about = manifest(seed=seeds[0], scale=scale)
    del about["seed"]
    result = {
        "format": FORMAT,
        "study": name,
        "title": study.title,
        "scale": scale,
        "manifest": {**about, "seeds": list(seeds), "seconds": sum(record["seconds"] for record in done)},
        "config": node,
        "seeds": done,
        "claims": judged(study, done),
    }
    path = Path(results_dir) / scale / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, result)
    return result


def judged(study: Study, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every claim of a study with its effects and verdict."""
    found = []
    for claim in study.claims:
        effects = [record["effects"][claim.id] for record in records]
        rooms = [record["rooms"][claim.id] for record in records if claim.id in record["rooms"]]
        found.append({**vars(claim), "effects": effects, **judge(claim, effects, rooms).to_dict()})
    return found


def _record(study: Study, outcome: Outcome, seed: int, seconds: float) -> dict[str, Any]:
    """One seed as plain data; every claim must have been measured, and nothing else."""
    ids = {claim.id for claim in study.claims}
    assert set(outcome.effects) == ids, f"claims {sorted(ids)}, measured {sorted(outcome.effects)}"
    assert set(outcome.rooms) <= ids, f"rooms of unknown claims: {sorted(set(outcome.rooms) - ids)}"
    return {"seed": seed, "seconds": round(seconds, 1), **vars(outcome)}


def _fingerprint(node: dict[str, Any]) -> str:
    """Short name of a study's settings: other settings are another measurement."""
    return hashlib.sha256(json.dumps(node, sort_keys=True).encode()).hexdigest()[:8]


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON aside and rename it, so that a kill leaves the old file or the new one."""
    aside = path.with_name(path.name + ".partial")
    aside.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    aside.replace(path)
