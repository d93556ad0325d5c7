"""Checkpoints: written aside and renamed, and readable without running code from the file."""

import os
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from illada_lab.interop import checkpoint_folder, is_published, load_published
from illada_lab.models.mask_predictor import MaskPredictor
from illada_lab.tokens import SpecialTokens

if TYPE_CHECKING:
    from illada_lab.data.tokenizer import Tokenizer

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
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

    The new file is written aside and flushed to the disk, the file that stood at `path` becomes `previous.ckpt`, then the new one
    takes its name.

    Raises:
        OSError: no space or no permission; what stood at `path` is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".partial")
    try:
        with open(aside, "wb") as file:
            torch.save(payload, file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    if path.exists():
        os.replace(path, path.with_name(PREVIOUS))
    os.replace(aside, path)


def read_checkpoint(path: str | Path, map_location: str = "cpu") -> dict[str, Any]:
    """Read a checkpoint file of this package.

    Args:
        path: the file, or a run's folder (its last good checkpoint).
        map_location: where tensors go.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is truncated, or holds something else.
    """
    file = find_checkpoint(path)
    try:
        payload = torch.load(file, map_location=map_location, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile, OSError) as error:
        raise ValueError(
            f"checkpoint = {file}; truncated or not a checkpoint ({str(error).splitlines()[0][:80]}); "
            f"{PREVIOUS} beside it is the one saved before, if it is there"
        ) from error
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
    """The checkpoint file that `path` means: itself, or the last good one of a run's folder.

    Raises:
        FileNotFoundError: there is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    for folder in (path, path / "checkpoints"):
        for name in (LAST, PREVIOUS):
            if (folder / name).is_file():
                return folder / name
    raise FileNotFoundError(f"checkpoint = {path}; no {LAST} there; a file, or the folder of a run that has saved one")


def find_resumable(run_dir: str | Path) -> Path | None:
    """The newest checkpoint of a run that can be read, or None: a damaged last one falls back to the one before."""
    folder = Path(run_dir) / "checkpoints"
    for name in (LAST, PREVIOUS):
        if (folder / name).is_file():
            try:
                read_checkpoint(folder / name)
            except ValueError:
                continue
            return folder / name
    return None


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
    return _predictor(read_checkpoint(path), find_checkpoint(path), tokens)


def load_run(path: str | Path) -> LoadedRun:
    """Load a trained model with its tokenizer and configuration; raises as `load_predictor`.

    A folder in a published layout needs its tokenizer beside the weights; one that brings a chat template is taken for a model that
    answers questions.
    """
    from illada_lab.data.tokenizer import Tokenizer

    if is_published(path):
        return _published_run(checkpoint_folder(path))
    payload = read_checkpoint(path)
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
    stage = "pretrain" if tokenizer.chat_template is None else "sft"
    # What commands ask a configuration; the published one says nothing of data.
    data = {"adds_bos": predictor.tokens.bos is not None, "adds_eos": False, "source": {"stage": stage}}
    return LoadedRun(predictor, tokenizer, {"data": data, "scale": {"name": folder.name}}, step=0, path=folder)


def load_weights(predictor: MaskPredictor, payload: dict[str, Any], path: Path) -> None:
    """Copy a checkpoint's weights into a predictor; every weight must find its place, at its shape.

    Raises:
        ValueError: it is a model of another family or size.
    """
    state, own = predictor_state(payload), predictor.state_dict()
    differing = sorted(set(state) ^ set(own)) or sorted(n for n in own if own[n].shape != state[n].shape)
    if differing:
        name = differing[0]
        shapes = [list(s[name].shape) if name in s else "nothing" for s in (state, own)]
        raise ValueError(
            f"checkpoint = {path}; a model of another family or size: {name} is {shapes[0]} there and {shapes[1]} here "
            f"({len(differing)} differ); compose the same model= and tokenizer"
        )
    predictor.load_state_dict(state)


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
