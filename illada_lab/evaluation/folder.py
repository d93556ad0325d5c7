"""A folder of results is one run's: the same model and settings, or another folder."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from illada_lab.files import write_text
from illada_lab.processes import of_first, rank

SETTINGS = "settings.json"
# Weights of each tensor that a fingerprint looks at. Training changes all of them; our choice: 8B parameters take no time.
N_LOOKED_AT = 64


def fingerprint(model: nn.Module) -> str:
    """What tells a model from another that was trained into the same folder: a digest of some weights of every tensor.

    Another in another precision, unlike that of a base of adapters (`models/lora.py`): answers depend on it.
    """
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        some = tensor.flatten()[:: max(1, tensor.numel() // N_LOOKED_AT)]
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(some.cpu().to(torch.float64).numpy().tobytes())
    return digest.hexdigest()[:16]


def digest_of(settings: dict[str, Any]) -> str:
    """A short name for settings: plain data."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def claim_folder(folder: Path, settings: dict[str, Any]) -> None:
    """Make a folder this run's, or see that it is.

    Args:
        folder: made where it is not there.
        settings: everything the results depend on, plain data.

    Raises:
        ValueError: it holds a run with other settings; the first that differs.
    """
    # One for all: those of other machines may have its number, by which the file's name is told from others while it is written.
    if problem := of_first(_claim(folder, settings) if rank() == 0 else None):
        raise ValueError(problem)


def _claim(folder: Path, settings: dict[str, Any]) -> str | None:
    """Claim it; what is in the way, or None."""
    settings = json.loads(json.dumps(settings))  # tuples become lists, as in the file
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / SETTINGS
    if not file.exists():
        write_text(file, json.dumps(settings, indent=1) + "\n")
        return None
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        before = {}
    for key in {**settings, **before}:
        if settings.get(key) != before.get(key):
            was, now = before.get(key), settings.get(key)
            return f"evaluation.out = {folder}; holds a run with {key} = {was}, this one has {now}; another folder"
    return None
