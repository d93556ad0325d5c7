"""What stands in a prepared folder.

    manifest.json           written last: a folder without it is not whole
    tokenizer_state.json    the tokenizer (see `Tokenizer.to_dict`)
    train-00000.tokens      ids of all documents, one after the other, uint16 or uint32, little-endian
    train-00000.offsets     int64 [n_documents + 1]: where each document starts in it, and its end
    train-00000.prompt      bool, one byte per token; of conversations only
    validation-00000....

No document is cut by the end of a shard. `sha256sum` of a file is the checksum in the manifest.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

FORMAT = 1
MANIFEST, PROGRESS, TOKENIZER, LOCK = "manifest.json", "progress.jsonl", "tokenizer_state.json", "in_use.lock"
SPLITS = ("train", "validation")
OFFSETS, PROMPT = "<i8", "|b1"


@dataclass(frozen=True)
class FileRecord:
    """One file of a shard.

    Attributes:
        n_bytes: its size.
        sha256: of its contents.
    """

    n_bytes: int
    sha256: str


@dataclass(frozen=True)
class Shard:
    """Documents that stand in files of one name.

    Attributes:
        name: without the endings.
        n_documents, n_tokens: in it.
        n_text_bytes: UTF-8 bytes of the documents it was made from (of a conversation: of its JSON).
        text_digest: of these bytes and where documents end, to know the source again.
        files: record of each file, by its ending.
    """

    name: str
    n_documents: int
    n_tokens: int
    n_text_bytes: int
    text_digest: str
    files: dict[str, FileRecord]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Shard":
        """A shard from plain data."""
        files = {ending: FileRecord(**record) for ending, record in values["files"].items()}
        return cls(**{**values, "files": files})


@dataclass
class Manifest:
    """What a prepared folder says of itself.

    Attributes:
        dtype: of the tokens, as numpy writes it.
        settings: what the tokens depend on: source, tokenizer, BOS and EOS; plain data.
        tokenizer_sha256: of the tokenizer's file.
        splits: the shards of each split, in order.
        about: code, versions, machine and speed; nothing depends on it.
    """

    dtype: str
    settings: dict[str, Any]
    tokenizer_sha256: str
    splits: dict[str, list[Shard]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    about: dict[str, Any] = field(default_factory=dict)

    def total(self, split: str, of: str) -> int:
        """Sum of a count over the shards of a split."""
        return sum(getattr(shard, of) for shard in self.splits[split])

    def to_dict(self) -> dict[str, Any]:
        """Plain data; `from_dict` is the inverse."""
        counts = {
            split: {of: self.total(split, of) for of in ("n_documents", "n_tokens", "n_text_bytes")}
            for split in self.splits
        }
        return {"format": FORMAT, "counts": counts, **asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Manifest":
        """A manifest from its plain data.

        Raises:
            ValueError: written by another version of the format.
        """
        if values.get("format") != FORMAT:
            raise ValueError(f"format = {values.get('format')}; this version reads {FORMAT}; prepare the data again")
        splits = {split: [Shard.from_dict(shard) for shard in shards] for split, shards in values["splits"].items()}
        rest = {key: values[key] for key in ("dtype", "settings", "tokenizer_sha256", "about")}
        return cls(splits=splits, **rest)


def token_dtype(vocab_size: int) -> str:
    """The smallest dtype that holds every id."""
    return "<u2" if vocab_size <= 2**16 else "<u4"


def dtypes(tokens: str) -> dict[str, str]:
    """The dtype of each file of a shard, by its ending."""
    return {"tokens": tokens, "offsets": OFFSETS, "prompt": PROMPT}


def sha256_of(path: Path) -> str:
    """Checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a file that is there whole or not at all, also after a power cut."""
    write_whole(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a text that is there whole or not at all, also after a power cut."""
    beside = path.with_name(path.name + ".partial")
    with beside.open("w", encoding="utf-8") as file:
        _down(file, text)
    beside.replace(path)


def append_line(path: Path, values: dict[str, Any]) -> None:
    """Add a line of JSON to a file; a power cut leaves it whole or cut off."""
    with path.open("a", encoding="utf-8") as file:
        _down(file, json.dumps(values, ensure_ascii=False) + "\n")


def _down(file: IO[str], text: str) -> None:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
