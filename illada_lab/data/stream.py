"""Batches from a stream too large to be prepared: tokenised, packed and shuffled on the way."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from illada_lab.data.batch import Batch
from illada_lab.data.collate import Collate
from illada_lab.data.encode import Encoder
from illada_lab.data.packing import Dropped, Packing, Rows, pack_blocks
from illada_lab.data.rows import COLUMNS

# Tokens packed at once: a run wants its first batch soon.
STREAM_BLOCK = 2**18


@dataclass(frozen=True, kw_only=True)
class StreamedRows:
    """The packed rows of a stream, from its beginning each time it is called.

    It holds what it needs and nothing of the run: it travels to a worker that is started anew.

    Args:
        source: of documents.
        encoder: makes tokens of them.
        packing: makes rows of these.
        length: tokens per row.
        drops_long: leave out what is longer than a row.
    """

    source: Any
    encoder: Encoder
    packing: Packing
    length: int
    drops_long: bool = False

    def __call__(self, dropped: Dropped | None = None) -> Iterator[Rows]:
        """Block by block.

        Args:
            dropped: counts what is left out.
        """
        documents = self.encoder.blocks(self.source.load("train"), STREAM_BLOCK)
        if self.drops_long:
            documents = (dropped or Dropped(self.length)).left(documents)
        return pack_blocks(documents, self.packing, self.length, self.encoder.tokenizer.tokens.filler)


class StreamBatches(IterableDataset):
    """Endless batches of a stream of rows; where it ends it begins again, in another order.

    Rows pass through a buffer of `n_buffer` rows: each drawn at random from it makes room for the next, so the order depends on
    (seed, epoch) alone. Every rank reads the whole stream and takes its share of each batch, so batches do not depend on the
    number of ranks. A resumed run reads over what it has seen: exact, at the price of tokenising it again.

    Args:
        blocks: opens the stream of packed rows from its beginning.
        collate: makes a batch of rows and their positions in the stream.
        batch_size: rows of a batch over all ranks.
        n_together: rows of an optimiser step, which are padded alike (see `CollateDraws`).
        n_buffer: rows to draw from.
        seed: of the order.
        start_batch: first batch.
        rank, world_size: which share of each batch.

    Raises:
        ValueError: the stream is empty, or a batch does not divide among the ranks.
    """

    def __init__(
        self,
        *,
        blocks: Callable[[], Iterable[Rows]],
        collate: Collate,
        batch_size: int,
        n_together: int,
        n_buffer: int,
        seed: int,
        start_batch: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size % world_size:
            nearest = max(1, round(batch_size / world_size)) * world_size
            raise ValueError(f"batch_size = {batch_size}; must divide among {world_size} ranks; nearest: {nearest}")
        self.blocks, self.collate, self.batch_size = blocks, collate, batch_size
        self.n_together = n_together if collate.pad_with is not None else batch_size
        self.n_buffer, self.seed, self.start_batch = n_buffer, seed, start_batch
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[Batch]:
        """Batches from `start_batch` on, without end."""
        worker = get_worker_info()
        assert worker is None or worker.num_workers == 1, "two readers of one stream would double every row"
        share = self.batch_size // self.world_size
        first = self.start_batch * self.batch_size
        waiting: list[tuple[int, Rows]] = []
        longest = 0
        for position, row in enumerate(self._shuffled()):
            if position < first:
                continue
            longest = max(longest, int((row.segment_ids > 0).sum()))
            if position % self.batch_size // share == self.rank:
                waiting.append((position, row))
            if (position + 1) % self.n_together == 0:
                for i in range(0, len(waiting), share):
                    positions, rows = zip(*waiting[i : i + share], strict=True)
                    columns = (np.stack([getattr(row, name) for row in rows]) for name in COLUMNS)
                    yield self.collate(Rows(*columns), np.array(positions), longest)
                waiting, longest = [], 0

    def _shuffled(self) -> Iterator[Rows]:
        """Single rows, epoch after epoch."""
        epoch = 0
        while True:
            random = np.random.Generator(np.random.PCG64([self.seed, epoch]))
            buffer: list[Rows] = []
            n_rows = 0
            for rows in self.blocks():
                for i in range(len(rows.tokens)):
                    n_rows += 1
                    # Copies: a view would keep its whole block in memory for as long as it waits.
                    row = Rows(rows.tokens[i].copy(), rows.segment_ids[i].copy(), rows.is_prompt[i].copy())
                    if len(buffer) < self.n_buffer:
                        buffer.append(row)
                        continue
                    drawn = int(random.integers(self.n_buffer))
                    yield buffer[drawn]
                    buffer[drawn] = row
            if n_rows == 0:
                raise ValueError("data = 0 rows; the stream holds no text; another file, or fewer held-out documents")
            for drawn in random.permutation(len(buffer)):
                yield buffer[drawn]
            epoch += 1
