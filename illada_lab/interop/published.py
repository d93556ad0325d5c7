"""Published checkpoints in and out: a folder of config.json and safetensors files."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from illada_lab.interop.layouts import LAYOUTS, Layout, find_layout
from illada_lab.models.mask_predictor import MaskPredictor
from illada_lab.tokens import SpecialTokens

CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
# Bytes of a shard at most; that of the released 8B files. A larger tensor has a shard of its own.
SHARD_BYTES = 5 * 10**9


def is_published(path: str | Path) -> bool:
    """Whether a folder holds a checkpoint of the published form."""
    return (Path(path) / CONFIG).is_file()


def load_published(
    path: str | Path, tokens: SpecialTokens | None = None, dtype: torch.dtype | None = None
) -> MaskPredictor:
    """A published LLaDA or iLLaDA checkpoint as a predictor, tensor by tensor: at no time two copies of the model in memory.

    Args:
        path: folder with config.json and one or several safetensors files.
        tokens: special tokens instead of those of config.json.
        dtype: of the weights; None: as in the files.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: another family, a damaged file, a tensor that has no place or the wrong shape, a parameter that none fills.
    """
    folder = Path(path)
    config = _read_json(folder / CONFIG)
    layout = find_layout(config)
    spec = layout.spec(config)
    with torch.device("meta"):
        predictor = MaskPredictor(tokens=tokens or layout.tokens(config), **asdict(spec))
    wanted = {layout.tensor_name(name): name for name in predictor.state_dict()}
    head, embedding = (layout.tensor_name(f"{name}.weight") for name in ("lm_head", "embed_tokens"))
    missing, copies = set(wanted), {}
    for name, tensor in _tensors(folder):
        if spec.is_tied and name == head:
            copies[name] = tensor  # a second copy of the embedding, which the released files hold
            continue
        own = wanted.get(name)
        if own is None:
            raise ValueError(
                f"{folder}: {name}; a tensor that no part of the model uses; a checkpoint of {layout.name}"
            )
        shape = list(predictor.get_parameter(own).shape)
        if list(tensor.shape) != shape:
            raise ValueError(
                f"{folder}: {name} = shape {list(tensor.shape)}; config.json says {shape}; files of one model"
            )
        predictor.load_state_dict({own: tensor if dtype is None else tensor.to(dtype)}, strict=False, assign=True)
        missing.discard(name)
    if missing:
        first = min(missing)
        raise ValueError(f"{folder}: {first}; no file holds it ({len(missing)} missing); all shards of the checkpoint")
    for name, copy in copies.items():
        # Kept until the embedding is there, wherever in the files it stands.
        if not torch.equal(copy.to(predictor.head_weight.dtype), predictor.head_weight):
            raise ValueError(
                f"{folder}: {name}; differs from {embedding}, though config.json ties them; untie them there to use both"
            )
    return predictor.requires_grad_(True).eval()


def export_published(
    predictor: MaskPredictor, path: str | Path, layout: str = "illada", shard_bytes: int = SHARD_BYTES
) -> Path:
    """Write a predictor in a published layout, for the code that reads those; `load_published` reads it back to the bit.

    Args:
        predictor: the model.
        path: folder; made if need be.
        layout: illada or llada.
        shard_bytes: size of a file at most, unless one tensor is larger.

    Raises:
        ValueError: an unknown layout, or a model that the family has no words for (QK-norm, the autoregressive twin).

    Source: names and fields of the released files.
    """
    from safetensors.torch import save_file

    if layout not in LAYOUTS:
        raise ValueError(f"layout = {layout!r}; not a published one; {' or '.join(LAYOUTS)}")
    spec = predictor.spec
    for name in ("has_qk_norm", "is_causal"):
        if getattr(spec, name):
            raise ValueError(f"model.{name} = true; the layout {layout} has no place for it; a model without it")
    folder, chosen = Path(path), LAYOUTS[layout]
    folder.mkdir(parents=True, exist_ok=True)
    shards = _shards(predictor, chosen, shard_bytes)
    n_bytes = sum(t.numel() * t.element_size() for shard in shards for t in shard.values())
    index: dict[str, Any] = {"metadata": {"total_size": n_bytes}, "weight_map": {}}
    for number, shard in enumerate(shards, 1):
        file = SINGLE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        index["weight_map"] |= dict.fromkeys(shard, file)
    if len(shards) > 1:
        (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n")
    dtype = str(predictor.head_weight.dtype).removeprefix("torch.")
    config = {**chosen.config(spec, predictor.tokens), "torch_dtype": dtype}
    # Last: a folder without it is not a checkpoint, so a broken-off export is not taken for one.
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
    return folder


def _shards(predictor: MaskPredictor, layout: Layout, shard_bytes: int) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in predictor.state_dict().items():
        n_bytes = tensor.numel() * tensor.element_size()
        if shards[-1] and size + n_bytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][layout.tensor_name(name)] = tensor.detach().cpu().contiguous()
        size += n_bytes
    return shards


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of every file, one at a time."""
    from safetensors import SafetensorError, safe_open

    listed: dict[str, str] = {}
    if (folder / INDEX).is_file():
        listed = _read_json(folder / INDEX).get("weight_map", {})
        files = sorted(set(listed.values()))
    else:
        files = [SINGLE]
    for file in files:
        if not (folder / file).is_file():
            raise FileNotFoundError(f"checkpoint = {folder}; {file} is missing; all files of the checkpoint")
        try:
            with safe_open(folder / file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118
                    if listed and listed.get(name) != file:
                        raise ValueError(f"{folder}: {name} in {file}; {INDEX} says otherwise; files of one model")
                    yield name, opened.get_tensor(name)
        except SafetensorError as error:
            raise ValueError(
                f"checkpoint = {folder / file}; truncated or damaged ({error}); download it again"
            ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}; not JSON ({error}); the file as published") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} = {type(value).__name__}; not a JSON object; the file as published")
    return value
