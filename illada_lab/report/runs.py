"""Training runs from their folders, and their curves in the report's schema."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What a run leaves in its folder (training/callbacks/history.py, samples.py; training/run.py).
HISTORY, MANIFEST, SAMPLES = "history.json", "manifest.json", "samples.jsonl"
SHOWN_OF_A_BOUND = ("nelbo_per_token", "stderr", "usual_low", "usual_high", "n_recorded")
LONGEST_NAME = 20  # that stands in a legend or above a column; longer ones give way to numbers


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
        inside = [path] if (path / HISTORY).is_file() else runs_below(path)
        if not inside:
            raise ValueError(
                f"run = {path}; no {HISTORY} in it or below: no training run, or one that was not validated yet; the folder of a run, "
                "such as runs/pretrain-toy"
            )
        found += [folder for folder in inside if folder not in found]
    return found


def runs_below(folder: Path) -> list[Path]:
    """Runs in the folders of a folder: of a sweep, its jobs."""
    return sorted(file.parent for file in folder.rglob(HISTORY) if file.parent != folder)


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
        **{key: history[key] for key in ("seconds", "tokens_per_second")},
        "tokens": history.get("tokens_seen", history["tokens"]),
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
