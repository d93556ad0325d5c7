"""Mixtures: which part of the data each position of the stream comes from."""

from collections.abc import Sequence

import numpy as np

from illada_lab.data.order import Computed

# Positions in which every share comes out to less than one of them, 1/16384.
ROUND = 2**14


class Mixed:
    """Rows of several parts in fixed shares, each part permuted for itself and begun again when it is used up.

    Positions come in rounds of 16,384: in each, part i has the same number of places, its share rounded up or down, and the places are
    permuted by (seed, round). So the k-th row taken from a part is known from the position alone, shares hold in every stretch
    of the run and not only on average, and inside of a part every row is seen once before one is seen again.

    Args:
        sizes: rows of each part; the parts' rows are numbered one after the other.
        weights: of each part, in any unit.
        seed: of all permutations.

    Raises:
        ValueError: weights that are not one per part, not above 0, or too small to have a place in a round.

    Source: our choice.
    """

    def __init__(self, *, sizes: Sequence[int], weights: Sequence[float | int], seed: int) -> None:
        self.counts = shares(weights, len(sizes))
        self.seed = seed
        self._first_row = np.concatenate(([0], np.cumsum(sizes)))
        self._orders = [Computed(n_rows=n, seed=seed, part=i + 1) for i, n in enumerate(sizes)]
        self._round, self._part, self._rank = -1, np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """The rows at some positions of the stream."""
        rows = np.empty_like(positions)
        rounds, places = np.divmod(positions, ROUND)
        for number in np.unique(rounds):
            is_here = rounds == number
            rows[is_here] = self._rows(int(number), places[is_here])
        return rows

    def _rows(self, number: int, places: np.ndarray) -> np.ndarray:
        if number != self._round:
            self._deal(number)
        part = self._part[places]
        rows = np.empty_like(places)
        for i in np.unique(part):
            # Rows this part has given before, in earlier rounds and in this one.
            taken = number * self.counts[i] + self._rank[places[part == i]]
            rows[part == i] = self._first_row[i] + self._orders[i](taken)
        return rows

    def _deal(self, number: int) -> None:
        """The part of each place of a round, and how many places of the round that part had before."""
        random = np.random.Generator(np.random.PCG64([self.seed, 0, number]))
        self._round = number
        self._part = random.permutation(np.repeat(np.arange(len(self.counts)), self.counts))
        self._rank = np.empty(ROUND, dtype=np.int64)
        for i, n in enumerate(self.counts):
            self._rank[self._part == i] = np.arange(n)


def shares(weights: Sequence[float | int], n_parts: int) -> np.ndarray:
    """Places of each part in a round: the largest remainders are rounded up, so that they add up to a round."""
    if len(weights) != n_parts:
        raise ValueError(
            f"data.source.weights = {list(weights)}; {n_parts} parts of data; one weight for each, in their order"
        )
    if not all(0 < w < float("inf") for w in weights):
        raise ValueError(f"data.source.weights = {list(weights)}; a share is above 0; leave out what is not wanted")
    exact = np.array(weights, dtype=np.float64) / sum(weights) * ROUND
    counts = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: ROUND - counts.sum()]] += 1
    if (counts == 0).any():
        raise ValueError(
            f"data.source.weights = {list(weights)}; a share below 1/{ROUND} may have no place; larger, or leave it out"
        )
    return counts
