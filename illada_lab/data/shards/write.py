"""Writing one shard: documents go in, files come out under their names when all of them are on the disk."""

import hashlib
import os
from pathlib import Path
from typing import IO

import numpy as np

from illada_lab.data.packing import Documents
from illada_lab.data.shards.layout import FileRecord, Shard, dtypes

PARTIAL = ".partial"


class ShardWriter:
    """Files of one shard, written as documents arrive.

    Until `close` they carry the ending `.partial`; what a broken-off run leaves under it is overwritten by the next.

    Args:
        folder: where.
        name: of the shard.
        dtype: of the tokens.
        has_prompt: also write which tokens are prompt.
    """

    def __init__(self, folder: Path, name: str, *, dtype: str, has_prompt: bool) -> None:
        self.folder, self.name = folder, name
        self._dtypes = {e: d for e, d in dtypes(dtype).items() if e != "prompt" or has_prompt}
        self._files = {ending: self._path(ending, PARTIAL).open("wb") for ending in self._dtypes}
        self._sums = {ending: hashlib.sha256() for ending in self._dtypes}
        self._text = hashlib.sha256()
        self.n_documents = self.n_tokens = self.n_text_bytes = 0
        self._put("offsets", np.zeros(1))

    def append(self, documents: Documents, *, n_text_bytes: int, digest: bytes) -> None:
        """Add documents.

        Args:
            documents: the documents.
            n_text_bytes: bytes of text they were made from.
            digest: of that text.
        """
        self._put("tokens", documents.tokens)
        self._put("offsets", documents.offsets[1:] + self.n_tokens)
        if "prompt" in self._files:
            self._put("prompt", documents.is_prompt)
        self.n_documents += len(documents.offsets) - 1
        self.n_tokens += len(documents.tokens)
        self.n_text_bytes += n_text_bytes
        self._text.update(digest)

    def close(self) -> Shard:
        """Finish the files, give them their names, and say what is in them.

        Raises:
            OSError: the files do not hold what was written.
        """
        records = {}
        for ending, file in self._files.items():
            n_items = self.n_documents + 1 if ending == "offsets" else self.n_tokens
            n_bytes = n_items * np.dtype(self._dtypes[ending]).itemsize
            _finish(file)
            if (found := self._path(ending, PARTIAL).stat().st_size) != n_bytes:
                raise OSError(f"{self._path(ending)}; {found} bytes on the disk, {n_bytes} were written; another disk")
            records[ending] = FileRecord(n_bytes, self._sums[ending].hexdigest())
        for ending in self._files:
            self._path(ending, PARTIAL).replace(self._path(ending))
        return Shard(
            self.name, self.n_documents, self.n_tokens, self.n_text_bytes, self._text.hexdigest(), files=records
        )

    def abandon(self) -> None:
        """Close the files and leave them unfinished."""
        for file in self._files.values():
            file.close()

    def _put(self, ending: str, values: np.ndarray) -> None:
        data = values.astype(self._dtypes[ending]).tobytes()
        self._files[ending].write(data)
        self._sums[ending].update(data)

    def _path(self, ending: str, more: str = "") -> Path:
        return self.folder / f"{self.name}.{ending}{more}"


def _finish(file: IO[bytes]) -> None:
    """Down to the disk: what a manifest names must be there after a power cut."""
    file.flush()
    os.fsync(file.fileno())
    file.close()
