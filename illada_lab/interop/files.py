"""The files of a published checkpoint: config.json and one or several safetensors files, read one tensor at a time."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
GENERATION = "generation_config.json"


@dataclass(frozen=True)
class Stored:
    """A tensor that lies in a file; nothing of it is read until it is asked for.

    Attributes:
        name: in the file.
        file: where it lies.
        shape: of the whole tensor.
    """

    name: str
    file: Path
    shape: list[int]
    _slice: Any

    def read(self, part: tuple[slice, ...] | None = None) -> Tensor:
        """The tensor, or a part of it: mapped from the file, so that only the pages that are used are read.

        Writing to it does not reach the file. It must be copied to outlive a file that somebody overwrites in place.
        """
        return self._slice[part or slice(None)]


def stored_tensors(folder: Path) -> Iterator[Stored]:
    """Every tensor of every file of a checkpoint, file by file.

    Keep none of them beyond its turn: each holds its whole file mapped.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is truncated, or contradicts the index.
    """
    from safetensors import SafetensorError, safe_open

    listed: dict[str, str] = {}
    if (folder / INDEX).is_file():
        listed = read_json(folder / INDEX).get("weight_map", {})
    for file in sorted(set(listed.values())) or [SINGLE]:
        if not (folder / file).is_file():
            raise FileNotFoundError(f"checkpoint = {folder}; {file} is missing; all files of the checkpoint")
        try:
            with safe_open(folder / file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118
                    if listed and listed.get(name) != file:
                        raise ValueError(f"{folder}: {name} in {file}; {INDEX} says otherwise; files of one model")
                    part = opened.get_slice(name)
                    yield Stored(name, folder / file, list(part.get_shape()), part)
        except SafetensorError as error:
            raise ValueError(
                f"checkpoint = {folder / file}; truncated or damaged ({error}); download it again"
            ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}; not JSON ({error}); the file as published") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} = {type(value).__name__}; not a JSON object; the file as published")
    return value


def write_json(path: Path, value: dict[str, Any]) -> None:
    """A JSON object, in the form the published files have."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
