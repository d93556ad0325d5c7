"""Checkpoints of sharded runs: a folder to which every process writes its part, and from which any number of them reads."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.optim import Optimizer

from illada_lab.training.distributed import named_state

# Beside the tensors: what Lightning and this package write about a run, plain data.
ABOUT = "run.pt"
WEIGHTS, OPTIMISER = "weights/", "optimiser/"
Names = Mapping[nn.Parameter, str]


def is_shards(path: str | Path) -> bool:
    """Whether a path is a folder of shards that was written to its end (torch writes `.metadata` last)."""
    return (Path(path) / ".metadata").is_file() and (Path(path) / ABOUT).is_file()


def check_files(folder: str | Path) -> None:
    """Look whether all files of a checkpoint are there and long enough.

    Raises:
        FileNotFoundError, EOFError: names one that is not.
    """
    lengths: dict[str, int] = {}
    for part in dcp.FileSystemReader(folder).read_metadata().storage_data.values():
        lengths[part.relative_path] = max(lengths.get(part.relative_path, 0), part.offset + part.length)
    for name, length in lengths.items():
        if (size := (Path(folder) / name).stat().st_size) < length:
            raise EOFError(f"{name} has {size:,} bytes, {length:,} were written")


def read_about(folder: str | Path) -> dict[str, Any]:
    """All of a checkpoint but its tensors."""
    return torch.load(Path(folder) / ABOUT, map_location="cpu", weights_only=True)


def read_whole(folder: str | Path, *, has_optimiser: bool = True) -> dict[str, Any]:
    """A sharded checkpoint in the form of one file's: every tensor whole, on the host. One process reads, alone.

    Args:
        folder: of shards.
        has_optimiser: read the optimiser's state too, which is twice as large as the weights.
    """
    about = read_about(folder)
    saved = {
        key: torch.empty(entry.size, dtype=entry.properties.dtype)
        for key, entry in _saved(folder).items()
        if has_optimiser or key.startswith(WEIGHTS)
    }
    dcp.load(saved, checkpoint_id=folder, no_dist=True)
    payload = {**about, "state_dict": _below(WEIGHTS, saved)}
    groups = payload.pop("optimiser_groups")
    if has_optimiser:
        payload["optimizer_states"] = [named_state.indexed(_below(OPTIMISER, saved), groups)]
    return payload


def read_into(folder: str | Path, weights: Mapping[str, Tensor], optimizer: Optimizer | None, names: Names) -> None:
    """Read a checkpoint into parameters as they are spread now; each process reads the parts that it holds.

    Args:
        folder: of shards.
        weights: parameters by their names in the checkpoint.
        optimizer: takes its state, or None: weights only.
        names: names of the optimiser's parameters.

    Raises:
        ValueError: a model of another family or size.
    """
    saved = _saved(folder)
    shapes = {key.removeprefix(WEIGHTS): list(e.size) for key, e in saved.items() if key.startswith(WEIGHTS)}
    own = {name: list(p.shape) for name, p in weights.items()}
    if differing := sorted(name for name in {*shapes, *own} if shapes.get(name) != own.get(name)):
        name = differing[0]
        raise ValueError(
            f"checkpoint = {folder}; a model of another family or size: {name} is {shapes.get(name, 'nothing')} there and "
            f"{own.get(name, 'nothing')} here ({len(differing)} differ); compose the same model= and tokenizer"
        )
    places = {WEIGHTS + name: p.detach() for name, p in weights.items()}
    if optimizer is not None:
        by_name = {name: p for p, name in names.items()}
        for key, entry in saved.items():
            if key.startswith(OPTIMISER):
                p = by_name[key.removeprefix(OPTIMISER).rpartition("/")[0]].detach()
                is_like = entry.size == p.shape
                places[key] = torch.zeros_like(p) if is_like else torch.zeros(entry.size, dtype=entry.properties.dtype)
    dcp.load(places, checkpoint_id=folder, no_dist=not dist.is_initialized())
    if optimizer is not None:
        groups = read_about(folder)["optimiser_groups"]
        named_state.restore(optimizer, names, _below(OPTIMISER, places), groups)


def write(folder: Path, tensors: Mapping[str, Tensor], group: dist.ProcessGroup | None, is_async: bool) -> Any:
    """Write every process's part of the tensors; returns a future where it goes on in the background."""
    if is_async:
        # A writer that copies to the host itself; torch's own choice would, in every process, open a stream on GPU 0 in its thread.
        return dcp.async_save(dict(tensors), storage_writer=dcp.FileSystemWriter(folder), process_group=group)
    dcp.save(dict(tensors), checkpoint_id=folder, process_group=group, no_dist=not dist.is_initialized())
    return None


def take_apart(checkpoint: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A Lightning checkpoint of a sharded run as (tensors, everything else)."""
    about = dict(checkpoint)
    weights, (optimiser,) = about.pop("state_dict"), about.pop("optimizer_states")
    tensors = {WEIGHTS + name: value for name, value in weights.items()}
    tensors |= {OPTIMISER + name: value for name, value in optimiser["tensors"].items()}
    return tensors, {**about, "optimiser_groups": optimiser["groups"]}


def clear(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _saved(folder: str | Path) -> dict[str, TensorStorageMetadata]:
    """Name, shape and type of every tensor of a checkpoint."""
    found = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    return {key: entry for key, entry in found.items() if isinstance(entry, TensorStorageMetadata)}


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
