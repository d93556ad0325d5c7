"""Checkpoints: written aside and renamed, and readable without running code from the file."""

import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from illada_lab.interop import adds_bos, adds_eos, checkpoint_folder, is_published, load_published, trained_on_chat
from illada_lab.models.mask_predictor import MaskPredictor
from illada_lab.tokens import SpecialTokens
from illada_lab.training import shards
from illada_lab.training.materialise import part_like

if TYPE_CHECKING:
    from illada_lab.data.tokenizer import Tokenizer

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
# The last one at the constant rate: other decays, and longer runs, go on from it.
BEFORE_DECAY = "before_decay.ckpt"
ABSENT = OSError("in another process")
# What this package writes about a run; changes when a reader must behave differently.
FORMAT = 1


@dataclass
class LoadedRun:
    """What a checkpoint holds for everything but resuming.

    Attributes:
        predictor: the trained model, in evaluation mode.
        tokenizer: the tokenizer it was trained with.
        config: resolved configuration of the run, plain data.
        step: optimiser steps done.
        path: file it came from.
    """

    predictor: MaskPredictor
    tokenizer: "Tokenizer"
    config: dict[str, Any]
    step: int
    path: Path


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
    except (RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:80]
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
    raise FileNotFoundError(f"checkpoint = {path}; no {LAST} there; a file, or the folder of a run that has saved one")


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
    folder, newest, most = Path(run_dir) / "checkpoints", None, -1
    for name in (LAST, PREVIOUS, BEFORE_DECAY):
        if _is_checkpoint(folder / name):
            try:
                step = read_about(folder / name)["global_step"]
            except ValueError:
                continue
            if step > most:
                newest, most = folder / name, step
    return newest


def _is_checkpoint(path: Path) -> bool:
    return path.is_file() or shards.is_shards(path)


def predictor_state(payload: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Weights of the predictor inside a checkpoint, named as the predictor names them."""
    prefix = "predictor."
    return {
        name.removeprefix(prefix): value for name, value in payload["state_dict"].items() if name.startswith(prefix)
    }


def load_predictor(path: str | Path, tokens: SpecialTokens | None = None) -> MaskPredictor:
    """Load a trained model.

    Args:
        path: checkpoint file, the folder of a run, or a folder in a published layout (LLaDA's, iLLaDA's).
        tokens: special tokens to use instead of the checkpoint's own.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: it is damaged, or its weights do not fit its own description.
    """
    if is_published(path):
        return load_published(path, tokens)
    return _predictor(read_checkpoint(path, has_optimiser=False), find_checkpoint(path), tokens)


def load_run(path: str | Path) -> LoadedRun:
    """Load a trained model with its tokenizer and configuration; raises as `load_predictor`.

    A folder in a published layout needs its tokenizer beside the weights. One that does not say whether the model answers questions, as
    our exports do, is taken for one that does where it brings a chat template.
    """
    from illada_lab.data.tokenizer import Tokenizer

    if is_published(path):
        return _published_run(checkpoint_folder(path))
    payload = read_checkpoint(path, has_optimiser=False)
    about = payload["illada_lab"]
    return LoadedRun(
        predictor=_predictor(payload, find_checkpoint(path), None),
        tokenizer=Tokenizer.from_dict(about["tokenizer"]),
        config=about["config"],
        step=payload["global_step"],
        path=find_checkpoint(path),
    )


def _published_run(folder: Path) -> LoadedRun:
    from illada_lab.training.start import start_tokenizer

    predictor, tokenizer = load_published(folder), start_tokenizer(folder)
    is_chat = trained_on_chat(folder)
    # Tokenizers of published base models bring a template too: it decides only where nothing is said.
    is_chat = tokenizer.chat_template is not None if is_chat is None else is_chat
    # What commands ask a configuration; the published one says nothing of data.
    has_eos = adds_eos(folder)
    # Without either nothing stands in front: published code asks as the tokenizer encodes.
    has_bos = adds_bos(folder, tokenizer.backend) or (False if has_eos else None)
    data = {"adds_bos": has_bos, "adds_eos": has_eos, "source": {"stage": "sft" if is_chat else "pretrain"}}
    return LoadedRun(predictor, tokenizer, {"data": data, "scale": {"name": folder.name}}, step=0, path=folder)


def load_weights(predictor: MaskPredictor, payload: dict[str, Any], path: Path) -> None:
    """Copy a checkpoint's weights into a predictor, whole or sharded; every weight must find its place, at its shape.

    Raises:
        ValueError: it is a model of another family or size.
    """
    state, own = predictor_state(payload), dict(predictor.named_parameters())
    differing = sorted(set(state) ^ set(own)) or sorted(n for n in own if own[n].shape != state[n].shape)
    if differing:
        name = differing[0]
        shapes = [list(s[name].shape) if name in s else "nothing" for s in (state, own)]
        raise ValueError(
            f"checkpoint = {path}; a model of another family or size: {name} is {shapes[0]} there and {shapes[1]} here "
            f"({len(differing)} differ); compose the same model= and tokenizer"
        )
    with torch.no_grad():
        for name, place in own.items():
            place.copy_(part_like(state[name], place))


def _predictor(payload: dict[str, Any], path: Path, tokens: SpecialTokens | None) -> MaskPredictor:
    about = payload["illada_lab"]
    if "lora" in about:
        from illada_lab.training.adapters import load_adapted

        return load_adapted(about, predictor_state(payload), path, tokens)
    with torch.device("meta"):
        predictor = MaskPredictor(tokens=tokens or SpecialTokens.from_dict(about["tokens"]), **about["model"])
    predictor.to_empty(device="cpu")
    load_weights(predictor, payload, path)
    return predictor.eval()
