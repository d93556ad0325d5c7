"""Checkpoints are found and read without running code from the file."""

import errno
import pickle
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import CheckpointException

from illada_lab.training.checkpoint import shards
from illada_lab.training.checkpoint.writing import BEFORE_DECAY, BEST, FORMAT, LAST, PREVIOUS

# Errors of the system that say nothing of the file.
NOT_NOW = (errno.EACCES, errno.EPERM, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ETIMEDOUT)


class Unreadable(ValueError):
    """A checkpoint cannot be read at the moment; it may be whole."""


def read_checkpoint(path: str | Path, *, has_optimiser: bool = True, is_mapped: bool = False) -> dict[str, Any]:
    """Read a checkpoint of this package.

    Args:
        path: file, folder of shards, or a run's folder (its last good checkpoint).
        has_optimiser: of shards, read the optimiser's state too.
        is_mapped: of a file, read each tensor when it is used only; the file must stay as it is.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is truncated, or holds something else.
    """
    file = find_checkpoint(path)
    if shards.is_shards(file):
        return _ours(_undamaged(partial(shards.read_whole, file, has_optimiser=has_optimiser), file), file)
    return _ours(
        _undamaged(partial(torch.load, file, map_location="cpu", weights_only=True, mmap=is_mapped), file), file
    )


def read_about(path: str | Path) -> dict[str, Any]:
    """A checkpoint without its tensors, where they are many: step, tokenizer, configuration; raises as `read_checkpoint`."""
    file = find_checkpoint(path)
    if shards.is_shards(file):
        return _ours(_undamaged(partial(shards.read_about, file), file), file)
    return read_checkpoint(file, is_mapped=True)


def _undamaged(read: Callable[[], Any], file: Path) -> Any:
    """What a file holds, or one line that says that it is damaged."""
    try:
        return read()
    except (RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile, OSError, CheckpointException) as error:
        if isinstance(error, OSError) and error.errno in NOT_NOW:
            raise Unreadable(f"checkpoint = {file}; cannot be read now ({error.strerror}); try again") from error
        # What torch says of a file that is none is a page about its own settings.
        is_foreign = isinstance(error, pickle.UnpicklingError)
        reason = "other contents" if is_foreign else (str(error) or type(error).__name__).splitlines()[0][:80]
        raise ValueError(
            f"checkpoint = {file}; truncated or not a checkpoint ({reason}); "
            f"{PREVIOUS} beside it is the one saved before, if it is there"
        ) from error


def _ours(payload: Any, file: Path) -> dict[str, Any]:
    if not isinstance(payload, dict) or "illada_lab" not in payload:
        raise ValueError(
            f"checkpoint = {file}; not written by illada_lab; the file last.ckpt of a run's checkpoints folder"
        )
    if payload["illada_lab"]["format"] > FORMAT:
        raise ValueError(
            f"checkpoint = {file}; written by illada_lab {payload['illada_lab']['version']}, newer than this one; "
            "update illada_lab"
        )
    return payload


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint, file or folder of shards, that `path` means: itself, or the last good one of a run's folder.

    Raises:
        FileNotFoundError: there is none.
    """
    path = Path(path)
    if _is_checkpoint(path):
        return path
    for folder in (path, path / "checkpoints"):
        for name in (LAST, PREVIOUS):
            if _is_checkpoint(folder / name):
                return folder / name
    why = f"no {LAST} there" if path.exists() else "no such file or folder"
    raise FileNotFoundError(f"checkpoint = {path}; {why}; a file, or the folder of a run that has saved one")


@contextmanager
def told_as(setting: str) -> Iterator[None]:
    """Messages about a checkpoint name the setting that asked for it."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        head, is_ours, rest = str(error).partition("checkpoint = ")
        if head or not is_ours or type(error) not in (FileNotFoundError, ValueError):
            raise
        raise type(error)(f"{setting} = {rest}") from error


def find_resumable(run_dir: str | Path) -> Path | None:
    """The newest checkpoint of a run that can be read, or None: a damaged last one falls back to the ones before."""
    return find_saved(run_dir)[0]


def find_saved(run_dir: str | Path) -> tuple[Path | None, dict[Path, str]]:
    """`find_resumable`, and those of the run's checkpoints that are damaged, each with a line that says so.

    Raises:
        Unreadable: one may be whole, but cannot be read at the moment.
    """
    folder, newest, most = Path(run_dir) / "checkpoints", None, -1
    damages: dict[Path, str] = {}
    for path in (folder / name for name in (LAST, PREVIOUS, BEFORE_DECAY, BEST)):
        if _is_checkpoint(path):
            try:
                step = read_about(path)["global_step"]
                if shards.is_shards(path):
                    _undamaged(partial(shards.check_files, path), path)
            except Unreadable:
                raise
            except ValueError as error:
                damages[path] = str(error)
                continue
            if step > most:
                newest, most = path, step
        elif path.exists():
            damages[path] = f"checkpoint = {path}; parts of it are missing"
    return newest, damages


def _is_checkpoint(path: Path) -> bool:
    return path.is_file() or shards.is_shards(path)


def predictor_state(payload: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Weights of the predictor inside a checkpoint, named as the predictor names them."""
    prefix = "predictor."
    return {
        name.removeprefix(prefix): value for name, value in payload["state_dict"].items() if name.startswith(prefix)
    }
