"""Packed rows to batches."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from illada_lab.data.batch import Batch
from illada_lab.data.order import Draw
from illada_lab.data.packing import Rows
from illada_lab.data.rows import take


@dataclass(kw_only=True)
class Collate:
    """Makes batches of rows; small enough to travel to worker processes.

    Args:
        pad_with: pad to the longest row of the batch with this id, visible and part of the response (LLaDA's fine-tuning pads with
            EOS); None: rows stay as they are packed.
        is_isolated: documents of a row are segments of their own; otherwise a row is one segment.
    """

    pad_with: int | None = None
    is_isolated: bool = True

    def __call__(self, rows: Rows, positions: np.ndarray) -> Batch:
        """A batch.

        Args:
            rows: the rows.
            positions: their numbers in the data stream of the run, [B].
        """
        tokens, segment_ids = torch.from_numpy(rows.tokens).long(), torch.from_numpy(rows.segment_ids).long()
        is_prompt = torch.from_numpy(rows.is_prompt)
        if self.pad_with is not None:
            longest = int((segment_ids > 0).sum(1).max())
            is_valid = segment_ids[:, :longest] > 0
            tokens = torch.where(is_valid, tokens[:, :longest], self.pad_with)
            segment_ids, is_prompt = torch.ones_like(tokens), is_prompt[:, :longest]
        elif not self.is_isolated:
            segment_ids = (segment_ids > 0).long()
        return Batch(tokens=tokens, segment_ids=segment_ids, is_prompt=is_prompt, index=torch.from_numpy(positions))


@dataclass(kw_only=True)
class CollateDraws:
    """Looks up all rows of a batch at once.

    Args:
        table: the packed rows (see `illada_lab.data.rows.RowTable`).
        collate: makes the batch.
    """

    table: Any
    collate: Collate

    def __call__(self, draws: list[Draw]) -> Batch:
        """A batch of the drawn rows."""
        positions, chosen = (np.array(column) for column in zip(*draws, strict=True))
        return self.collate(take(self.table, chosen), positions)
