"""Packed rows to batches."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from illada_lab.data.batch import Batch
from illada_lab.data.order import Draw, Order
from illada_lab.data.packing import Rows
from illada_lab.data.rows import take


@dataclass(kw_only=True)
class Collate:
    """Makes batches of rows; small enough to travel to worker processes.

    Args:
        pad_with: pad to the longest row of the optimiser step with this id, visible and part of the response (LLaDA's fine-tuning
            pads with EOS); None: rows stay as they are packed.
        is_isolated: documents of a row are segments of their own; otherwise a row is one segment.
    """

    pad_with: int | None = None
    is_isolated: bool = True

    def __call__(self, rows: Rows, positions: np.ndarray, longest: int | None = None) -> Batch:
        """A batch.

        Args:
            rows: the rows.
            positions: their numbers in the data stream of the run, [B].
            longest: tokens of the longest row among those it is padded with; None: among these.
        """
        tokens, segment_ids = torch.from_numpy(rows.tokens).long(), torch.from_numpy(rows.segment_ids).long()
        is_prompt = torch.from_numpy(rows.is_prompt)
        if self.pad_with is not None:
            longest = longest or int(lengths(rows).max())
            is_valid = segment_ids[:, :longest] > 0
            tokens = torch.where(is_valid, tokens[:, :longest], self.pad_with)
            segment_ids, is_prompt = torch.ones_like(tokens), is_prompt[:, :longest]
        elif not self.is_isolated:
            segment_ids = (segment_ids > 0).long()
        return Batch(tokens=tokens, segment_ids=segment_ids, is_prompt=is_prompt, index=torch.from_numpy(positions))


@dataclass(kw_only=True)
class CollateDraws:
    """Looks up all rows of a batch at once.

    Where rows are padded, all of an optimiser step are, alike: the padding is learnt from, so the loss would depend on the devices
    and micro-batches otherwise. Each process reads the others' rows for it.

    Args:
        table: the packed rows (see `illada_lab.data.rows.RowTable`).
        collate: makes the batch.
        order: the row at each position of the stream.
        n_together: rows of an optimiser step.
    """

    table: Any
    collate: Collate
    order: Order
    n_together: int

    def __call__(self, draws: list[Draw]) -> Batch:
        """A batch of the drawn rows."""
        positions, chosen = (np.array(column) for column in zip(*draws, strict=True))
        longest = None
        if self.collate.pad_with is not None and len(positions) < self.n_together:
            first = positions[0] // self.n_together * self.n_together
            longest = int(lengths(take(self.table, self.order(np.arange(first, first + self.n_together)))).max())
        return self.collate(take(self.table, chosen), positions, longest)


def lengths(rows: Rows) -> np.ndarray:
    """Tokens of each row that are not padding, [n_rows]."""
    return (rows.segment_ids > 0).sum(1)
