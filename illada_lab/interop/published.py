"""Published checkpoints in: a folder of config.json and safetensors files, or a hub id."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as Backend
from torch import Tensor, nn

from illada_lab.interop.files import CONFIG, Stored, read_json, stored_tensors
from illada_lab.interop.hub import checkpoint_folder, is_hub_id
from illada_lab.interop.layout import Layout
from illada_lab.interop.layouts import find_layout
from illada_lab.models.mask_predictor import MaskPredictor
from illada_lab.models.spec import ModelSpec
from illada_lab.tokens import SpecialTokens

TOKENIZER = "tokenizer_config.json"
# Our keys in it: whether the documents that an exported model has learnt from began with BOS, ended with EOS, and were conversations.
TRAINED_WITH_BOS, TRAINED_WITH_EOS, TRAINED_ON_CHAT = "trained_with_bos", "trained_with_eos", "trained_on_chat"
# How weights were first drawn does not matter to a trained model; a shorter window than it could have is a choice.
_FREE = ("init_std", "max_length")


def is_published(path: str | Path) -> bool:
    """Whether this is a folder with a checkpoint of the published form, or a hub id, which can hold nothing else."""
    return (Path(path) / CONFIG).is_file() or is_hub_id(path)


def published_tokens(path: str | Path) -> SpecialTokens:
    """Special tokens of a published checkpoint, from its config.json; raises as `load_published`."""
    config = read_json(checkpoint_folder(path) / CONFIG)
    return find_layout(config).special_tokens(config)


def adds_bos(path: str | Path, backend: Backend) -> bool:
    """Whether BOS stands in front of a text of a published checkpoint.

    A model that we have exported says so itself. Of others the family decides whose published code puts it there by hand, whatever the
    tokenizer says (iLLaDA); in all the rest what the tokenizer says, or does.

    Args:
        path: as in `load_published`.
        backend: its tokenizer.
    """
    folder = checkpoint_folder(path)
    config, told = read_json(folder / CONFIG), _told(folder)
    layout = find_layout(config)
    bos = layout.special_tokens(config).bos
    said = told.get(TRAINED_WITH_BOS, True if layout.has_bos else told.get("add_bos_token"))
    if bos is None or said is not None:
        return bos is not None and bool(said)
    return backend.encode("a").ids[:1] == [bos]


def adds_eos(path: str | Path) -> bool:
    """Whether EOS stood behind the documents of a published checkpoint: one that we have exported says so, of others it is not known."""
    return bool(_told(checkpoint_folder(path)).get(TRAINED_WITH_EOS))


def scores_with_eos(path: str | Path) -> bool | None:
    """Whether EOS stands behind a candidate of a published checkpoint, as in its family's code; None: it is one that we have exported."""
    folder = checkpoint_folder(path)
    return None if TRAINED_WITH_EOS in _told(folder) else find_layout(read_json(folder / CONFIG)).has_eos


def trained_on_chat(path: str | Path) -> bool | None:
    """Whether a published checkpoint was trained on conversations: one that we have exported says so, of others it is not known (None)."""
    return _told(checkpoint_folder(path)).get(TRAINED_ON_CHAT)


def _told(folder: Path) -> dict[str, Any]:
    about = folder / TOKENIZER
    return read_json(about) if about.is_file() else {}


def load_published(
    path: str | Path,
    tokens: SpecialTokens | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> MaskPredictor:
    """A published LLaDA or iLLaDA checkpoint as a predictor, tensor by tensor: at no time two copies of the model in memory.

    On a CPU without `dtype` the weights stay mapped from the files, which must not be overwritten in place while the model lives.

    Args:
        path: folder with config.json and one or several safetensors files, or a hub id (owner/name, owner/name@revision).
        tokens: special tokens instead of those of config.json.
        dtype: of the weights; None: as in the files (where those hold several, all take the embedding's).
        device: where they go.

    Raises:
        FileNotFoundError: a file is missing, or the hub does not give the repository.
        ValueError: another family, a damaged file, a tensor that has no place or the wrong shape, a parameter that none fills.
    """
    folder = checkpoint_folder(path)
    config = read_json(folder / CONFIG)
    layout = find_layout(config)
    with torch.device("meta"):
        predictor = MaskPredictor(tokens=tokens or layout.special_tokens(config), **asdict(layout.spec(config)))
    _fill(predictor, folder, layout, dtype, torch.device(device))
    for parameter in predictor.parameters():  # norms in float32 beside matrices in bf16: no product takes both
        parameter.data = parameter.data.to(predictor.embed_tokens.weight.dtype)
    return predictor.requires_grad_(True).eval()


def load_published_into(predictor: MaskPredictor, path: str | Path) -> None:
    """Give an existing predictor the weights of a published checkpoint, in place and in its own precision.

    Its parameters may be sharded (DTensor: FSDP2, tensor parallelism): each process reads its own parts, and nothing is sent between
    them. Host memory beside the parameters is what one file takes while it is mapped.

    Args:
        predictor: of the checkpoint's sizes; not on the meta device if it is sharded (`to_empty` first).
        path: as in `load_published`.

    Raises:
        FileNotFoundError, ValueError: as `load_published`; also a predictor of other sizes.
    """
    folder = checkpoint_folder(path)
    config = read_json(folder / CONFIG)
    layout = find_layout(config)
    _check_sizes(predictor.spec, layout.spec(config), path)
    _fill(predictor, folder, layout)


def _check_sizes(own: ModelSpec, published: ModelSpec, path: str | Path) -> None:
    have, want = asdict(own), asdict(published)
    if wrong := [key for key in want if key not in _FREE and have[key] != want[key]]:
        given = ", ".join(f"model.{key} = {have[key]}" for key in wrong)
        raise ValueError(
            f"{given}; not the model of {path}; {' '.join(f'model.{key}={_shown(want[key])}' for key in wrong)}"
        )
    if own.max_length > published.max_length:
        raise ValueError(
            f"model.max_length = {own.max_length}; {path} was trained on rows of {published.max_length}; at most {published.max_length}"
        )


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@torch.no_grad()
def _fill(
    predictor: MaskPredictor,
    folder: Path,
    layout: Layout,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
) -> None:
    """Every parameter from the files, and every tensor of the files accounted for."""
    own = dict(predictor.named_parameters())
    if adapted := next((name for name in own if ".base_layer." in name), None):
        raise ValueError(f"predictor.{adapted}; it has adapters; weights first, adapters then")
    wanted = {layout.tensor_name(name): name for name in own}
    head, embedding = (layout.tensor_name(f"{name}.weight") for name in ("lm_head", "embed_tokens"))
    seen: set[str] = set()

    def place(stored: Stored, as_name: str) -> None:
        """A tensor of the files where one of this name belongs."""
        name = wanted[as_name]
        shape = list(own[name].shape)
        if stored.shape != shape:
            raise ValueError(
                f"{folder}: {stored.name} = shape {stored.shape}; config.json says {shape}; files of one model"
            )
        _put(predictor, name, own[name], stored, dtype, device)
        seen.add(as_name)

    for stored in stored_tensors(folder):
        seen.add(stored.name)
        if predictor.spec.is_tied and stored.name == head:
            continue  # a copy of the embedding, which the released files hold: compared below
        if stored.name not in wanted:
            raise ValueError(
                f"{folder}: {stored.name}; a tensor that no part of the model uses; a checkpoint of {layout.name}"
            )
        place(stored, stored.name)
        del stored  # it holds a whole file mapped
    if predictor.spec.is_tied and head in seen and embedding not in seen:  # the one matrix, under its other name
        for stored in stored_tensors(folder):
            if stored.name == head:
                place(stored, embedding)
    if missing := sorted(set(wanted) - seen):
        raise ValueError(
            f"{folder}: {missing[0]}; no file holds it ({len(missing)} missing); all shards of the checkpoint"
        )
    if head in seen - set(wanted) and not _is_equal(predictor.head_weight, folder, head):
        raise ValueError(
            f"{folder}: {head}; differs from {embedding}, though config.json ties them; untie them there to use both"
        )


def _put(
    predictor: MaskPredictor,
    name: str,
    place: Tensor,
    stored: Stored,
    dtype: torch.dtype | None,
    device: torch.device | None,
) -> None:
    """One tensor into its place; a parameter on the meta device is replaced, another is written to."""
    if not place.is_meta:
        local, part = _own_part(place)
        if local.numel():
            local.copy_(stored.read(part))
        return
    if _is_sharded(place):
        raise ValueError(f"predictor.{name}; sharded, and on the meta device; predictor.to_empty(device=...) first")
    module, _, leaf = name.rpartition(".")
    setattr(predictor.get_submodule(module), leaf, nn.Parameter(stored.read().to(device=device, dtype=dtype)))


def _is_sharded(place: Tensor) -> bool:
    return hasattr(place, "placements")  # a DTensor; without importing what it needs


def _own_part(place: Tensor) -> tuple[Tensor, tuple[slice, ...]]:
    """What this process holds of a parameter, and where that lies in the whole."""
    if not _is_sharded(place):
        return place, tuple(slice(0, size) for size in place.shape)
    (chunk,) = place.__create_chunk_list__()  # type: ignore[attr-defined]
    part = tuple(slice(at, at + size) for at, size in zip(chunk.offsets, chunk.sizes, strict=True))
    return place.to_local(), part  # type: ignore[attr-defined]


def _is_equal(head: Tensor, folder: Path, name: str) -> bool:
    """Whether the second copy of a tied head holds what the embedding does; a second pass, so that no file stays mapped."""
    local, part = _own_part(head)
    if local.is_meta or not local.numel():
        return True  # no values here to compare
    for stored in stored_tensors(folder):
        if stored.name == name:
            return stored.shape == list(head.shape) and torch.equal(stored.read(part).to(local), local)
    raise AssertionError(f"{name} was there a moment ago")
