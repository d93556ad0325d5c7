"""Prepared folders, opened: what is in them, what is damaged, and documents as they are needed."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from illada_lab.data.packing import Documents
from illada_lab.data.shards.layout import MANIFEST, PROGRESS, TOKENIZER, Manifest, Shard, dtypes, sha256_of
from illada_lab.data.tokenizer import Tokenizer

# Files of each process that are mapped at once; a system has a limit, and mapping one again takes microseconds.
N_MAPPED = 256


@dataclass(frozen=True)
class Place:
    """A shard and where it is.

    Attributes:
        folder: of its files.
        shard: its record.
        dtype: of its tokens.
    """

    folder: str
    shard: Shard
    dtype: str

    def read(self, ending: str) -> np.ndarray:
        """One of its files, mapped into memory."""
        return _mapped(str(self.path(ending)), dtypes(self.dtype)[ending])

    def path(self, ending: str) -> Path:
        """Where a file of it is."""
        return Path(self.folder) / f"{self.shard.name}.{ending}"

    def documents(self, start: int, end: int) -> Documents:
        """The documents from number `start` up to, without, `end`."""
        offsets = np.array(self.read("offsets")[start : end + 1])
        first, last = int(offsets[0]), int(offsets[-1])
        is_prompt = self.is_prompt(first, last)
        return Documents(self.read("tokens")[first:last].astype(np.int32), is_prompt, offsets - first)

    def is_prompt(self, first: int, last: int) -> np.ndarray:
        """Which tokens of a stretch are prompt."""
        if "prompt" not in self.shard.files:
            return np.zeros(last - first, dtype=bool)
        return np.array(self.read("prompt")[first:last])

    def damage(self, is_hashed: bool) -> str | None:
        """What is wrong with a file of it, None where nothing is.

        Args:
            is_hashed: compare checksums too, not only sizes.
        """
        for ending, record in self.shard.files.items():
            path = self.path(ending)
            try:
                size = path.stat().st_size
                if size != record.n_bytes:
                    return f"{path}; {size:,} bytes, {record.n_bytes:,} were written"
                if is_hashed and sha256_of(path) != record.sha256:
                    return f"{path}; its checksum is not the one it was written with"
            except OSError as error:
                return f"{path}; cannot be read ({error.strerror})"
        return None


class Split:
    """Documents of some shards, one after the other.

    Args:
        places: the shards.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        self.places = list(places)
        # Number of tokens in front of each shard, and of all.
        self.starts = np.cumsum([0, *(place.shard.n_tokens for place in self.places)])
        self.n_documents = sum(place.shard.n_documents for place in self.places)

    @property
    def n_tokens(self) -> int:
        """Tokens of all documents."""
        return int(self.starts[-1])

    def __len__(self) -> int:
        return self.n_documents

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """What is known of each document beside its tokens: nothing."""
        return repeat({}, self.n_documents)

    def blocks(self, n_tokens: int) -> Iterator[Documents]:
        """All documents in order, in blocks of about `n_tokens` tokens (one document at least, none across a shard)."""
        for place in self.places:
            offsets, start = place.read("offsets"), 0
            while start < place.shard.n_documents:
                end = int(np.searchsorted(offsets, offsets[start] + n_tokens, side="right")) - 1
                end = min(max(end, start + 1), place.shard.n_documents)
                yield place.documents(start, end)
                start = end


@dataclass
class Folder:
    """A prepared folder.

    Attributes:
        path: where it is.
        manifest: what it says of itself.
        tokenizer: what its tokens mean.
    """

    path: Path
    manifest: Manifest
    tokenizer: Tokenizer

    @classmethod
    def open(cls, path: str) -> "Folder":
        """Open a folder.

        Raises:
            FileNotFoundError: there is no prepared data.
            ValueError: it is not finished, or its description cannot be read.
        """
        folder = Path(path).expanduser()
        if not (folder / MANIFEST).is_file():
            if (folder / PROGRESS).is_file():
                raise ValueError(
                    f"data.path = {path}; its preparation was broken off; the same illada-lab prepare command finishes it"
                )
            raise FileNotFoundError(
                f"data.path = {path}; no prepared data ({MANIFEST}) there; a folder that illada-lab prepare made"
            )
        try:
            manifest = Manifest.from_dict(json.loads((folder / MANIFEST).read_text("utf-8")))
            if sha256_of(folder / TOKENIZER) != manifest.tokenizer_sha256:
                raise ValueError(f"{TOKENIZER} is not the one the tokens were made with")
            tokenizer = Tokenizer.from_dict(json.loads((folder / TOKENIZER).read_text("utf-8")))
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise ValueError(
                f"data.path = {path}; cannot be read as prepared data ({error}); prepare it again"
            ) from error
        return cls(folder, manifest, tokenizer)

    def split(self, name: str) -> list[Place]:
        """The shards of a split."""
        return [Place(str(self.path), shard, self.manifest.dtype) for shard in self.manifest.splits[name]]


def damages(places: Sequence[Place], hashed: tuple[int, int] | None) -> list[str | None]:
    """What is wrong with each shard (see `Place.damage`). Checksums take about a second per gigabyte and core.

    Args:
        places: shards.
        hashed: (i, n): every n-th is compared with its checksum, from the i-th on (i = n: none); None: none. Sizes are compared of all.
    """
    first, n = hashed or (1, 1)
    with ThreadPoolExecutor() as threads:  # hashing leaves the interpreter's lock alone
        return list(threads.map(lambda i: places[i].damage(first < n and i % n == first), range(len(places))))


def _mapped(path: str, dtype: str) -> np.ndarray:
    about = Path(path).stat()
    # A file that was written anew is another one, whatever it is called.
    return _mapped_file(path, dtype, about.st_size, (about.st_ino, about.st_mtime_ns))


@lru_cache(maxsize=N_MAPPED)
def _mapped_file(path: str, dtype: str, size: int, identity: tuple[int, int]) -> np.ndarray:
    if size == 0:
        return np.empty(0, dtype=dtype)  # documents without a token; nothing cannot be mapped
    return np.memmap(path, dtype=dtype, mode="r")
