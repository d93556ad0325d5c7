"""Checkpoints are written aside and renamed, so that a kill at any moment leaves a whole one."""

import os
from pathlib import Path
from typing import Any

import torch

from illada_lab.training.checkpoint import shards

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
# The last one at the constant rate: other decays, and longer runs, go on from it.
BEFORE_DECAY = "before_decay.ckpt"
# The one with the lowest validation loss so far.
BEST = "best.ckpt"
ABSENT = OSError("in another process")
# What this package writes about a run; changes when a reader must behave differently.
FORMAT = 1


def save_atomically(payload: dict[str, Any], path: Path) -> None:
    """Write a checkpoint so that a kill at any moment leaves the old file or the new one, never a half.

    The new file is written aside and flushed to the disk, a `last.ckpt` that stood at `path` becomes `previous.ckpt`, then the new one
    takes its name.

    Raises:
        OSError: no space or no permission; what stood at `path` is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = partial_of(path)
    try:
        with open(aside, "wb") as file:
            torch.save(payload, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        aside.unlink(missing_ok=True)
        # torch's writer turns a full disk into a RuntimeError of its own, with the system's error behind it.
        cause = error if isinstance(error, OSError) else error.__cause__ or error.__context__
        raise cause if isinstance(cause, OSError) else error from error
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    put_in_place(aside, path)


class SaveFailed(OSError):
    """A checkpoint could not be written; the one before is untouched."""


def save_failed(path: Path, error: BaseException) -> SaveFailed:
    """The one line about it, with the system's own words."""
    failures = getattr(error, "failures", None)  # torch's CheckpointException: one per process
    cause = next(iter(failures.values()))[0] if failures else error
    return SaveFailed(
        f"checkpoint = {path}; could not be written ({str(cause).splitlines()[0][:120]}); "
        "the one saved before is untouched; make room, then resume=auto"
    )


def partial_of(path: Path) -> Path:
    """Where a checkpoint is written before it takes its name."""
    return path.with_name(path.name + ".partial")


def put_in_place(aside: Path, path: Path) -> None:
    """Give a finished checkpoint, file or folder, its name; a `last.ckpt` that stood there becomes `previous.ckpt`.

    Killed between two of its renamings, one good checkpoint stands at either name.
    """
    is_last = path.name == LAST
    behind = path.with_name(PREVIOUS if is_last else path.name + ".old")
    oldest = behind.with_name(behind.name + ".old")
    if path.exists():
        shards.clear(oldest)
        if behind.exists():
            os.replace(behind, oldest)
        os.replace(path, behind)
    os.replace(aside, path)
    shards.clear(oldest)
    if not is_last:
        shards.clear(behind)
