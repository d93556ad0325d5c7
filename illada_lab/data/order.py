"""The order in which rows are seen: a function of the seed and the position in the stream."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

# One row of the stream: its number in the stream (what masks depend on) and the row of the data set behind it.
Draw = tuple[int, int]


class StreamOrder(Sampler[list[Draw]]):
    """Endless batches: each epoch is a permutation of the rows drawn from (seed, epoch); the next epoch follows without a gap.

    Batch b of the run holds the stream positions b * batch_size ... (b + 1) * batch_size - 1 whatever the world size; each rank
    takes its share of them. A run that resumes at batch b sees what the uninterrupted one saw.

    Args:
        n_rows: rows of the data set.
        batch_size: rows of a global batch.
        seed: of the permutations.
        start_batch: first batch.
        rank, world_size: which share of each batch.

    Raises:
        ValueError: no rows, or a batch that does not divide among the ranks.
    """

    def __init__(
        self, *, n_rows: int, batch_size: int, seed: int, start_batch: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        if n_rows < 1:
            raise ValueError("data = 0 rows; nothing to train on; a longer text or a smaller scale.length")
        if batch_size % world_size:
            nearest = max(world_size, round(batch_size / world_size) * world_size)
            raise ValueError(f"batch_size = {batch_size}; must divide among {world_size} ranks; nearest: {nearest}")
        self.n_rows, self.batch_size, self.seed = n_rows, batch_size, seed
        self.start_batch, self.rank, self.world_size = start_batch, rank, world_size
        self._epoch, self._permutation = -1, np.empty(0, dtype=np.int64)

    def __iter__(self) -> Iterator[list[Draw]]:
        """Batches from `start_batch` on, without end."""
        batch, share = self.start_batch, self.batch_size // self.world_size
        while True:
            first = batch * self.batch_size + self.rank * share
            yield [(position, self.row(position)) for position in range(first, first + share)]
            batch += 1

    def row(self, position: int) -> int:
        """Row of the data set at a position of the stream."""
        epoch, place = divmod(position, self.n_rows)
        if epoch != self._epoch:
            random = np.random.Generator(np.random.PCG64([self.seed, epoch]))
            self._epoch, self._permutation = epoch, random.permutation(self.n_rows)
        return int(self._permutation[place])
