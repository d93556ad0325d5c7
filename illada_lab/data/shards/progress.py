"""A folder that is being prepared: who may write to it, what is finished in it, and when it is whole."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from illada_lab.data.shards.layout import (
    LOCK,
    MANIFEST,
    PROGRESS,
    SPLITS,
    TOKENIZER,
    Manifest,
    Shard,
    append_line,
    sha256_of,
    write_json,
    write_whole,
)
from illada_lab.data.tokenizer import Tokenizer


class Progress:
    """The state of a preparation, kept in its folder: a line of JSON with the settings, and one for each finished shard.

    Args:
        folder: new, empty, or left by the same preparation broken off.
        settings: what the tokens depend on, plain data.

    Raises:
        ValueError: the folder holds something else: finished data, other files, or a preparation with other settings.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        # As it comes back from a file: tuples are lists there.
        self.settings = json.loads(json.dumps(settings))
        if (folder / MANIFEST).exists():
            raise ValueError(f"out = {folder}; holds prepared data, which would be lost; another folder")
        self.done: dict[str, list[Shard]] = {split: [] for split in SPLITS}
        file = folder / PROGRESS
        if file.exists():
            # What follows the last line end is of a line that a power cut has cut off.
            begun, *finished = [json.loads(line) for line in file.read_text("utf-8").split("\n")[:-1]]
            for line in finished:
                self.done[line["split"]].append(Shard.from_dict(line["shard"]))
            if finished:
                _same(folder, begun["settings"], self.settings)
            elif begun["settings"] != self.settings:
                # Nothing is lost by beginning anew.
                (folder / TOKENIZER).unlink(missing_ok=True)
        elif found := sorted(path.name for path in folder.iterdir() if path.name not in (LOCK, f"{PROGRESS}.partial")):
            raise ValueError(f"out = {folder}; holds {found[0]}, which would be mixed with the data; a new folder")
        lines = [{"settings": self.settings}, *(_line(s, shard) for s, shards in self.done.items() for shard in shards)]
        write_whole(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))

    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer of a preparation that is continued."""
        file = self.folder / TOKENIZER
        return Tokenizer.from_dict(json.loads(file.read_text("utf-8"))) if file.exists() else None

    @property
    def is_continued(self) -> bool:
        """Whether there are finished shards."""
        return any(self.done.values())

    def keep(self, tokenizer: Tokenizer) -> None:
        """Write the tokenizer, before the first token: what is continued must not train another."""
        write_json(self.folder / TOKENIZER, tokenizer.to_dict())

    def add(self, split: str, shard: Shard) -> None:
        """Note a finished shard."""
        self.done[split].append(shard)
        append_line(self.folder / PROGRESS, _line(split, shard))

    def finish(self, *, dtype: str, about: dict[str, Any]) -> Manifest:
        """Write the manifest: from here on the folder is whole."""
        manifest = Manifest(dtype, self.settings, sha256_of(self.folder / TOKENIZER), self.done, about)
        write_json(self.folder / MANIFEST, manifest.to_dict())
        (self.folder / PROGRESS).unlink()
        return manifest


def _line(split: str, shard: Shard) -> dict[str, Any]:
    return {"split": split, "shard": asdict(shard)}


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keeps other processes of this machine out of a folder; it is free again when this process ends, however it ends.

    Raises:
        ValueError: another process has it, or it is not a folder here.
    """
    if folder.is_file():
        raise ValueError(f"out = {folder}; a file; a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"out = {folder}; another process is preparing data there; wait for it, or a new folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _same(folder: Path, begun: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse to go on with other settings, whose tokens would be mixed with those that are there."""
    before, now = _flat(begun), _flat(wanted)
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            raise ValueError(
                f"{key} = {now.get(key)}; {folder} was begun with {before.get(key)}; the same, or another out=..."
            )


def _flat(values: Any, path: str = "") -> dict[str, Any]:
    """Leaves of nested plain data by their paths."""
    if isinstance(values, dict) and values:
        return {
            k: v for key, value in values.items() for k, v in _flat(value, f"{path}.{key}" if path else key).items()
        }
    return {path: values}
