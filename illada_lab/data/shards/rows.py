"""Rows of prepared data, cut out where they are asked for: the packing of the paper without a packed copy."""

from collections.abc import Sequence

import numpy as np

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
        shape = (len(chosen), self.length)
        columns = {
            "tokens": np.full(shape, self.filler, dtype=np.int32),
            "segment_ids": np.zeros(shape, dtype=np.int32),
            "is_prompt": np.zeros(shape, dtype=bool),
        }
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


def _segments(offsets: np.ndarray, first: int, last: int) -> np.ndarray:
    """Number of the document of each token of a stretch, from 1; a document without tokens does not count."""
    inside = offsets[np.searchsorted(offsets, first, side="right") : np.searchsorted(offsets, last, side="left")]
    return 1 + np.searchsorted(np.unique(inside), np.arange(first, last), side="right")
