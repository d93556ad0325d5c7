"""Trained models out of checkpoints, ours or published, for everything but resuming."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from illada_lab.config.building import locate
from illada_lab.interop import adds_bos, adds_eos, checkpoint_folder, is_published, load_published, trained_on_chat
from illada_lab.models.mask_predictor import MaskPredictor
from illada_lab.tokens import SpecialTokens
from illada_lab.training.checkpoint.reading import find_checkpoint, predictor_state, read_checkpoint
from illada_lab.training.distributed.materialise import part_like

if TYPE_CHECKING:
    from illada_lab.data.tokenizer import Tokenizer


@dataclass
class LoadedRun:
    """What a checkpoint holds for everything but resuming.

    Attributes:
        predictor: the trained model, in evaluation mode.
        tokenizer: the tokenizer it was trained with.
        config: resolved configuration of the run, plain data, and `has_conversations`: whether its data had any; None where a
            checkpoint of an earlier version does not say.
        step: optimiser steps done.
        path: file it came from.
    """

    predictor: MaskPredictor
    tokenizer: "Tokenizer"
    config: dict[str, Any]
    step: int
    path: Path


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
    our exports do, is taken for one that does where it brings a chat template (which is said), unless its name ends in -Base.
    """
    from illada_lab.data.tokenizer import Tokenizer

    if is_published(path):
        return _published_run(path)
    payload = read_checkpoint(path, has_optimiser=False)
    about = payload["illada_lab"]
    return LoadedRun(
        predictor=_predictor(payload, find_checkpoint(path), None),
        tokenizer=Tokenizer.from_dict(about["tokenizer"]),
        config={**about["config"], "has_conversations": about.get("has_conversations")},
        step=payload["global_step"],
        path=find_checkpoint(path),
    )


def _published_run(path: str | Path) -> LoadedRun:
    from illada_lab.training.start import start_tokenizer

    folder = checkpoint_folder(path)
    predictor, tokenizer = load_published(folder), start_tokenizer(folder)
    is_chat = trained_on_chat(folder)
    if is_chat is None:
        # Tokenizers of published base models bring a template too: it decides only where nothing else does.
        name = str(path).partition("@")[0].rstrip("/")
        is_chat = tokenizer.chat_template is not None and not name.endswith("-Base")
        if is_chat and not name.endswith("-Instruct"):
            print(
                f"checkpoint = {path}; taken for a chat model: only its chat template says so; is_chat=false where it is none",
                file=sys.stderr,
            )
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
        from illada_lab.training.checkpoint.adapters import load_adapted

        return load_adapted(about, predictor_state(payload), path, tokens)
    with torch.device("meta"):
        own = _class_of(about, path)
        predictor = own(tokens=tokens or SpecialTokens.from_dict(about["tokens"]), **about["model"])
    predictor.to_empty(device="cpu")
    load_weights(predictor, payload, path)
    return predictor.eval()


def _class_of(about: dict[str, Any], path: Path) -> type[MaskPredictor]:
    """The model's class: a subclass of somebody's own is imported from where it was.

    Raises:
        ValueError: it cannot be imported here, or is something else.
    """
    target = str(about["config"]["model"]["_target_"])
    if target.rpartition(".")[2] == MaskPredictor.__name__:
        return MaskPredictor
    try:
        found = locate(target)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"checkpoint = {path}; a model of {target}, which cannot be imported ({error}); the folder of its module in PYTHONPATH"
        ) from error
    if not (isinstance(found, type) and issubclass(found, MaskPredictor)):
        raise ValueError(f"checkpoint = {path}; a model of {target}; no MaskPredictor; a subclass of it")
    return found
