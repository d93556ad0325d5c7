"""Prepared folders for tests."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import datasets

from illada_lab.data.build_tokenizer import byte_tokenizer
from illada_lab.data.shards import chunks
from illada_lab.data.shards.prepare import Prepared, prepare

BYTE = byte_tokenizer()


class Texts:
    """A source of given texts (or conversations): one list for each split."""

    def __init__(self, train: list[Any], validation: list[Any] | None = None) -> None:
        self.splits = {"train": train, "validation": validation or train[:2]}

    def load(self, split: str) -> datasets.Dataset:
        rows = self.splits[split]
        return datasets.Dataset.from_dict({"messages" if rows and isinstance(rows[0], list) else "text": rows})


def texts(n: int) -> list[str]:
    """Documents of 1 to 40 characters, no two alike."""
    return [f"{i} " + "abcdefghij"[i % 10] * (i * 7 % 38) for i in range(n)]


def made(folder: Path, train: list[Any], validation: list[Any] | None = None, **settings: Any) -> Prepared:
    """Prepare documents with a byte tokenizer, in small shards."""
    values: dict[str, Any] = {"tokenizer": BYTE, "tokens_per_shard": 300, "settings": {}, **settings}
    with patch.object(chunks, "CHUNK_BYTES", 100):  # many chunks from little text
        return prepare(source=Texts(train, validation), folder=folder, **values)
