"""Training runs as the report shows them, from their folders: one by itself, or several side by side."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from illada_lab.report.tables import ABSENT, duration
from illada_lab.training.recipe import recipe

# What a run leaves in its folder (training/callbacks/history.py, samples.py; training/run.py).
HISTORY, MANIFEST, SAMPLES = "history.json", "manifest.json", "samples.jsonl"
SHOWN_OF_A_BOUND = ("nelbo_per_token", "stderr", "usual_low", "usual_high", "n_recorded")
LONGEST_NAME = 20  # that stands in a legend or above a column; longer ones give way to numbers
N_SAMPLES = 5  # of each run: what it wrote last, and on the way there


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a training run has left behind.

    Args:
        name: short, and of several runs unlike the others'; a number where their folders have long names.
        folder: of the run.
        history: see `training.callbacks.history.History.to_dict`.
        manifest: what it was made with, without its configuration.
        config: as it was resolved.
        samples: `step` and `text`, in order.
    """

    name: str
    folder: Path
    history: dict[str, Any]
    manifest: dict[str, Any]
    config: dict[str, Any]
    samples: list[dict[str, Any]]

    @property
    def last(self) -> dict[str, dict[str, Any]]:
        """The last bounds by kind of text."""
        return self.history["validation"][-1]["kinds"]

    @property
    def step(self) -> int:
        """Optimiser steps up to the last validation, with which the history was written."""
        return self.history["validation"][-1]["step"]

    @property
    def facts(self) -> dict[str, Any]:
        """What the run was going to do (`training.assemble.facts`)."""
        return self.history.get("facts") or {}


def find_runs(paths: Sequence[str | Path]) -> list[Path]:
    """Folders of runs: those that are given, and in the place of one that is none all below it, in order of their names.

    Raises:
        FileNotFoundError: a path that is not there.
        ValueError: no run lies there.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"run = {path}; no such folder; the folder of a run, or one that holds several")
        inside = [path] if (path / HISTORY).is_file() else sorted(file.parent for file in path.rglob(HISTORY))
        if not inside:
            raise ValueError(
                f"run = {path}; no {HISTORY} in it or below: no training run, or one that was not validated yet; the folder of a run, "
                "such as runs/pretrain-toy"
            )
        found += [folder for folder in inside if folder not in found]
    return found


def read_runs(paths: Sequence[str | Path]) -> list[Run]:
    """Read what runs have left in their folders.

    Args:
        paths: see `find_runs`.

    Raises:
        FileNotFoundError, ValueError: see `find_runs`; a file of a run is missing or damaged.
    """
    folders = find_runs(paths)
    names = short_names(folders)
    if max(map(len, names)) > LONGEST_NAME and len(names) > 1:  # of a sweep, they are its settings
        names = [str(number) for number in range(1, len(names) + 1)]
    return [_read(folder, name) for folder, name in zip(folders, names, strict=True)]


def _read(folder: Path, name: str) -> Run:
    manifest, history = _json(folder / MANIFEST), _json(folder / HISTORY)
    if not history.get("validation") or "config" not in manifest:
        raise ValueError(f"run = {folder}; not validated yet, or not a run of illada-lab train; another folder")
    samples: list[dict[str, Any]] = []
    if (folder / SAMPLES).is_file():
        # Not `splitlines`: a text may hold what Unicode calls an end of line. A line that is cut off was being written.
        for line in (folder / SAMPLES).read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                samples.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return Run(
        name=name, folder=folder, history=history, config=manifest.pop("config"), manifest=manifest, samples=samples
    )


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"run = {path.parent}; has no {path.name}; the folder of a run of illada-lab train")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"run = {path.parent}; {path.name} is not JSON ({str(error)[:60]}); another run, or train it again"
        ) from error


def short_names(folders: Sequence[Path]) -> list[str]:
    """Of each folder the last parts of its path, as few as tell it from the others.

    >>> short_names([Path("runs/seed0/pretrain"), Path("runs/seed1/pretrain")])
    ['seed0/pretrain', 'seed1/pretrain']
    """
    parts = [Path(os.path.abspath(folder)).parts for folder in folders]
    for n in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-n:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def stage_results(name: str, history: Mapping[str, Any]) -> dict[str, Any]:
    """Curves of a stage of training in the report's schema.

    Args:
        name: of the stage.
        history: with one validation at least, see `training.callbacks.history.History.to_dict`.
    """
    last = history["validation"][-1]
    seen = history.get("tokens_seen")  # as far as the last validation, with which it was written
    return {
        "name": name,
        **{key: history[key] for key in ("seconds", "tokens", "tokens_per_second")},
        "tokens_per_step": seen / last["step"] if seen and last["step"] else None,
        "train_curve": [{key: record[key] for key in ("step", "loss", "lr")} for record in history["train"]],
        "validation_curve": [
            {"step": record["step"], "kind": kind} | {key: row[key] for key in SHOWN_OF_A_BOUND if key in row}
            for record in history["validation"]
            for kind, row in record["kinds"].items()
        ],
        **{
            about: {kind: row[about] for kind, row in last["kinds"].items() if about in row}
            for about in ("entropy_per_token", "over_entropy")
        },
        "landmarks": history.get("landmarks", {}),
        "t_bins": last.get("bins", []),
    }


def runs_results(runs: Sequence[Run]) -> dict[str, Any]:
    """Runs as results of the report's schema: a page of one, or of several beside each other."""
    manifest = runs[0].manifest if len(runs) == 1 else {}
    results: dict[str, Any] = {
        "schema": 1,
        "manifest": manifest,
        "sections": ["loss", "samples"],
        "config": {run.name: run.config for run in runs},
        "stages": [stage_results(run.name, run.history) for run in runs],
        "samples": [
            {"model": run.name, "kind": f"step {sample['step']:,}", "text": sample["text"]}
            for run in runs
            for sample in _spread(run.samples, N_SAMPLES)
        ],
    }
    if len(runs) > 1:
        results["side_by_side"] = side_by_side(runs)
    return results


def _spread(samples: Sequence[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    """At most n of them, the last one among them, evenly spread."""
    return list(samples[:: -max(1, -(-len(samples) // n))][::-1])


def side_by_side(runs: Sequence[Run]) -> dict[str, Any]:
    """What differs between runs, what they came to, and what to know before it is compared.

    Returns:
        `names` of the runs; `settings` and `outcome`: rows of `name` and `values`, one of each run; `notes`: sentences.
    """
    return {
        "names": [run.name for run in runs],
        "settings": [{"name": "folder", "values": [str(run.folder) for run in runs]}, *settings_that_differ(runs)],
        "outcome": _outcome(runs),
        "notes": comparison_notes(runs),
    }


def settings_that_differ(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Of what runs learn from (`training.recipe`) and how they were computed, each that is not the same in all, with its values."""
    flat = [dict(_flat({**recipe(run.config), "init_from": run.config.get("init_from")})) for run in runs]
    how = ("precision", "is_compiled", "commit")
    for settings, run in zip(flat, runs, strict=True):
        settings.update({f"({key})": run.manifest.get(key) for key in how})
    keys = list(dict.fromkeys(key for settings in flat for key in settings))
    return [
        {"name": key, "values": [_word(settings.get(key)) for settings in flat]}
        for key in keys
        if len({_word(settings.get(key)) for settings in flat}) > 1
    ]


def _flat(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, (*path, key))
        else:
            # The class alone: it may have moved.
            yield ".".join((*path, key)), str(value).rpartition(".")[2] if key == "_target_" else value


def _word(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 1.0 and 1 are the same setting
    return ABSENT if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _outcome(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Rows of what came out: bounds of each kind with their 95 % intervals first."""
    kinds = list(dict.fromkeys(kind for run in runs for kind in run.last))
    if len(kinds) == 2:  # of one kind, all is the same
        kinds = [kind for kind in kinds if kind != "all"] or kinds
    rows = []
    for kind in kinds:
        bounds = [run.last.get(kind, {}) for run in runs]
        rows.append({"name": f"{kind}, nats/token", "values": [_bound(row) for row in bounds]})
        if any(row.get("over_entropy") is not None for row in bounds):
            over = [row.get("over_entropy") for row in bounds]
            values = [ABSENT if value is None else f"{100 * value:+.1f} %" for value in over]
            rows.append({"name": f"{kind}, over its entropy", "values": values})
    if any(row.get("bits_per_byte") is not None for run in runs for row in run.last.values()):
        bits = [run.last.get("all", {}).get("bits_per_byte") for run in runs]
        rows.append(
            {"name": "all, bits/byte", "values": [ABSENT if value is None else f"{value:.3f}" for value in bits]}
        )
    tokens = [run.history.get("tokens_seen", run.history["tokens"]) for run in runs]
    speed = [run.history["tokens_per_second"] for run in runs]
    steps = [
        f"{run.step:,}" + (f" of {n:,}" if (n := run.facts.get("n_steps", run.step)) != run.step else "")
        for run in runs
    ]
    return [
        *rows,
        {"name": "steps", "values": steps},
        {"name": "tokens", "values": [f"{n:,}" for n in tokens]},
        {"name": "training time", "values": [duration(run.history["seconds"]) for run in runs]},
        {"name": "tokens/s", "values": [ABSENT if value is None else f"{value:,.0f}" for value in speed]},
    ]


def _bound(row: Mapping[str, Any]) -> str:
    return f"{row['nelbo_per_token']:.4f} ± {1.96 * row['stderr']:.4f}" if row else ABSENT


def comparison_notes(runs: Sequence[Run]) -> list[str]:
    """What to know before bounds of different runs are compared: whether they are of the same text, and of the same kind."""
    notes, held_out = [], [run.facts.get("held_out") for run in runs]
    if None in held_out:
        unknown = ", ".join(run.name for run, text in zip(runs, held_out, strict=True) if text is None)
        notes.append(
            f"! {unknown}: recorded before runs said what they are validated on; see to it that it is the same text"
        )
    if len({text for text in held_out if text is not None}) > 1:
        notes.append(
            "! the runs are validated on other texts, or these are cut into other tokens: their bounds in nats per token are not to be "
            "compared (bits per byte are, where the texts are the same)"
        )
    kinds = dict.fromkeys("-log p itself" if _is_causal(run) else "a bound on it" for run in runs)
    if len(kinds) > 1:
        notes.append(
            "! the autoregressive twin has -log p itself, the others a bound on it: a lower number of the twin may be the bound's gap"
        )
    if len({run.step for run in runs}) > 1:
        notes.append("! not all have trained equally many steps")
    notes.append(
        "± is the 95 % interval of a bound over texts and masks; where these are the same, a difference between runs scatters less; but "
        "other seeds give other bounds, and one run of each does not tell whether a setting helps"
    )
    return notes


def _is_causal(run: Run) -> bool:
    return bool(run.config["model"].get("is_causal"))
