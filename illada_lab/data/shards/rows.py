"""Rows of prepared data, taken out of the shards where they are asked for: both papers' packings without a packed copy."""

from collections.abc import Sequence

import numpy as np

from illada_lab.data.packing import Dropped, OnePerRow, counts_within
from illada_lab.data.rows import COLUMNS, RowTable
from illada_lab.data.shards.read import Split


class ShardRows:
    """The rows that `ConcatAndCut` makes of all documents of a split: row r holds tokens r * length to (r + 1) * length - 1.

    Nothing is copied and nothing but the shards' sizes is kept in memory, so opening a corpus takes as long as reading its manifest.
    Rows, not documents, are what is shuffled: for documents in another order every epoch, where a row begins would be a sum over all
    documents before it, which is memory in proportion to the corpus. Documents that stand side by side in the source
    stay side by side in their row.

    Args:
        split: the documents.
        length: tokens per row.
        filler: id of the padding of the last row.
    """

    def __init__(self, split: Split, *, length: int, filler: int) -> None:
        self.split, self.length, self.filler = split, length, filler

    def __len__(self) -> int:
        return -(-self.split.n_tokens // self.length)

    def __getitem__(self, chosen: np.ndarray) -> dict[str, np.ndarray]:
        """Columns of some rows (see `illada_lab.data.packing.Rows`).

        Args:
            chosen: numbers of the rows, int64 [B].
        """
        columns = _empty(len(chosen), self.length, self.filler)
        for i, row in enumerate(np.asarray(chosen).tolist()):
            self._fill({name: column[i] for name, column in columns.items()}, row * self.length)
        return columns

    def _fill(self, row: dict[str, np.ndarray], start: int) -> None:
        """One row from token `start` of the split on, through as many shards as it takes."""
        end, done, n_segments = min(start + self.length, self.split.n_tokens), 0, 0
        number = int(np.searchsorted(self.split.starts, start, side="right")) - 1
        while start + done < end:
            place, before = self.split.places[number], int(self.split.starts[number])
            first = start + done - before
            last = min(end - before, place.shard.n_tokens)
            here = slice(done, done + last - first)
            row["tokens"][here] = place.read("tokens")[first:last]
            row["is_prompt"][here] = place.is_prompt(first, last)
            row["segment_ids"][here] = n_segments + _segments(place.read("offsets"), first, last)
            done += last - first
            n_segments = int(row["segment_ids"][done - 1]) if done else 0
            number += 1


class DocumentRows:
    """The rows that `OnePerRow` makes of all documents of a split: row r holds document r, and padding behind it.

    Padded rows are many times as large as what is in them: here they are made when they are asked for.

    Args:
        split: the documents.
        length: tokens per row.
        filler: id of padding.
        dropped: leaves out documents longer than a row, and counts them; None: they are refused.

    Attributes:
        n_tokens: in the rows, without padding.

    Raises:
        ValueError: a document is longer than a row.
    """

    def __init__(self, split: Split, *, length: int, filler: int, dropped: Dropped | None = None) -> None:
        self.split, self.length, self.filler, self.n_tokens = split, length, filler, split.n_tokens
        # Number of documents in front of each shard.
        self._first = np.cumsum([0, *(place.shard.n_documents for place in split.places)])
        # The document of each row, where they are not the same.
        self._documents: np.ndarray | None = None
        sizes = (np.diff(place.read("offsets")) for place in split.places)
        if dropped is None:
            is_long = [some.max(initial=0) > length for some in sizes]
            if any(is_long):
                OnePerRow.check(np.concatenate([np.diff(place.read("offsets")) for place in split.places]), length, 0)
            return
        left = []
        for some, first in zip(sizes, self._first.tolist(), strict=False):
            fits = dropped.fitting(some)
            left.append(first + np.flatnonzero(fits))
            self.n_tokens -= int(some[~fits].sum())
        if sum(map(len, left)) < split.n_documents:
            self._documents = np.concatenate(left)

    def __len__(self) -> int:
        return self.split.n_documents if self._documents is None else len(self._documents)

    def __getitem__(self, chosen: np.ndarray) -> dict[str, np.ndarray]:
        """Columns of some rows (see `ShardRows`)."""
        chosen = chosen if self._documents is None else self._documents[chosen]
        columns = _empty(len(chosen), self.length, self.filler)
        owner = np.searchsorted(self._first, chosen, side="right") - 1
        for number in np.unique(owner).tolist():
            place, rows = self.split.places[number], np.flatnonzero(owner == number)
            offsets, documents = place.read("offsets"), chosen[rows] - self._first[number]
            starts = offsets[documents]
            sizes = offsets[documents + 1] - starts
            column = counts_within(sizes)
            there, source = (np.repeat(rows, sizes), column), np.repeat(starts, sizes) + column
            columns["tokens"][there] = place.read("tokens")[source]
            columns["segment_ids"][there] = 1
            if "prompt" in place.shard.files:
                columns["is_prompt"][there] = place.read("prompt")[source]
        return columns


class JoinedRows:
    """Rows of several tables under numbers that run on from one to the next.

    Args:
        tables: the tables.
    """

    def __init__(self, tables: Sequence[RowTable]) -> None:
        self.tables = list(tables)
        self._starts = np.cumsum([0, *(len(table) for table in tables)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, chosen: np.ndarray) -> dict[str, np.ndarray]:
        """Columns of some rows."""
        owner = np.searchsorted(self._starts, chosen, side="right") - 1
        order = np.argsort(owner, kind="stable")
        parts = [self.tables[i][chosen[owner == i] - self._starts[i]] for i in np.unique(owner)]
        back = np.argsort(order, kind="stable")
        return {name: np.concatenate([part[name] for part in parts])[back] for name in COLUMNS}


def _empty(n: int, length: int, filler: int) -> dict[str, np.ndarray]:
    """Columns of `n` rows that hold nothing yet."""
    return {
        "tokens": np.full((n, length), filler, dtype=np.int32),
        "segment_ids": np.zeros((n, length), dtype=np.int32),
        "is_prompt": np.zeros((n, length), dtype=bool),
    }


def _segments(offsets: np.ndarray, first: int, last: int) -> np.ndarray:
    """Number of the document of each token of a stretch, from 1; a document without tokens does not count."""
    inside = offsets[np.searchsorted(offsets, first, side="right") : np.searchsorted(offsets, last, side="left")]
    return 1 + np.searchsorted(np.unique(inside), np.arange(first, last), side="right")
