"""The order in which rows are seen: a function of the seed and the position in the stream."""

from collections.abc import Callable, Iterator

import numpy as np
from torch.utils.data import Sampler

from illada_lab.data.permutation import Permutation

# One row of the stream: its number in the stream (what masks depend on) and the row of the data set behind it.
Draw = tuple[int, int]
# (positions in the stream, int64 [B]) -> rows of the data set, int64 [B].
Order = Callable[[np.ndarray], np.ndarray]


class Drawn:
    """Each epoch is a permutation drawn as a whole: eight bytes per row, for tables that were packed here.

    Args:
        n_rows: rows of the data set.
        seed: of the permutations.
    """

    def __init__(self, *, n_rows: int, seed: int) -> None:
        self.n_rows, self.seed = n_rows, seed
        self._epoch, self._permutation = -1, np.empty(0, dtype=np.int64)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """The rows at some positions of the stream."""
        return _by_epoch(positions, self.n_rows, self._rows)

    def _rows(self, epoch: int, places: np.ndarray) -> np.ndarray:
        if epoch != self._epoch:
            random = np.random.Generator(np.random.PCG64([self.seed, epoch]))
            self._epoch, self._permutation = epoch, random.permutation(self.n_rows)
        return self._permutation[places]


class Computed:
    """Each epoch is a permutation computed place by place: no memory, whatever the size (see `Permutation`).

    Args:
        n_rows: rows of the data set.
        seed: of the permutations.
        part: which part of a mixture this is; parts have permutations of their own.
    """

    def __init__(self, *, n_rows: int, seed: int, part: int = 0) -> None:
        self.n_rows, self.seed, self.part = n_rows, seed, part

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """The rows at some positions of the stream."""
        return _by_epoch(positions, self.n_rows, self._rows)

    def _rows(self, epoch: int, places: np.ndarray) -> np.ndarray:
        return Permutation(self.n_rows, self.seed, self.part, epoch)(places)


class StreamOrder(Sampler[list[Draw]]):
    """Endless batches: each epoch is a permutation of the rows drawn from (seed, epoch); the next epoch follows without a gap.

    Batch b of the run holds the stream positions b * batch_size ... (b + 1) * batch_size - 1 whatever the world size; each rank
    takes its share of them. A run that resumes at batch b sees what the uninterrupted one saw, at once and on any number of ranks
    and workers: nothing is read over, and nothing but b is to be kept.

    Args:
        n_rows: rows of the data set.
        batch_size: rows of a global batch.
        seed: of the permutations.
        start_batch: first batch.
        rank, world_size: which share of each batch.
        order: the row at each position; None: `Drawn`.

    Raises:
        ValueError: no rows, or a batch that does not divide among the ranks.
    """

    def __init__(
        self,
        *,
        n_rows: int,
        batch_size: int,
        seed: int,
        start_batch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        order: Order | None = None,
    ) -> None:
        if n_rows < 1:
            raise ValueError("data = 0 rows; nothing to train on; a longer text or a smaller scale.length")
        if batch_size % world_size:
            nearest = max(world_size, round(batch_size / world_size) * world_size)
            raise ValueError(f"batch_size = {batch_size}; must divide among {world_size} ranks; nearest: {nearest}")
        self.n_rows, self.batch_size, self.seed = n_rows, batch_size, seed
        self.start_batch, self.rank, self.world_size = start_batch, rank, world_size
        self.order = order or Drawn(n_rows=n_rows, seed=seed)

    def __iter__(self) -> Iterator[list[Draw]]:
        """Batches from `start_batch` on, without end."""
        batch, share = self.start_batch, self.batch_size // self.world_size
        while True:
            first = batch * self.batch_size + self.rank * share
            positions = np.arange(first, first + share)
            yield list(zip(positions.tolist(), self.order(positions).tolist(), strict=True))
            batch += 1


def _by_epoch(positions: np.ndarray, n_rows: int, rows_of: Callable[[int, np.ndarray], np.ndarray]) -> np.ndarray:
    """Rows at positions that may lie in several epochs."""
    epochs, places = np.divmod(positions, n_rows)
    rows = np.empty_like(positions)
    for epoch in np.unique(epochs):
        rows[epochs == epoch] = rows_of(int(epoch), places[epochs == epoch])
    return rows
