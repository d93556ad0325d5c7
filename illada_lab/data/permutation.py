"""Permutations of 0 ... n-1 that are computed place by place, so that an epoch of any size needs no memory."""

import numpy as np

# Rounds of the network. Four are enough for large n (Luby and Rackoff); small n want more: see the statistics in the tests.
N_ROUNDS = 8
MAX_SIZE = 2**62


class Permutation:
    """A permutation of 0 ... n-1 drawn from a key.

    A Feistel network permutes the 2k-bit numbers, 2k the least with 4^k >= n: with a number's halves (a, b) each round does
    (a, b) <- (b, a XOR f(b)), which can be undone whatever f is. A result of n or more is put in again until it falls below n
    (cycle walking), fewer than four times on average. Any place costs the same, so a stream is entered anywhere at once.

    An affine map (a i + b mod n) would be cheaper and keeps the distances between neighbours, so neighbours in a sorted corpus stay in
    step; shuffling inside of blocks mixes no further than a block.

    Args:
        n: size, 1 to 2^62.
        key: what it is drawn from: seed, epoch, ...; whole numbers from 0.

    Raises:
        ValueError: a size that cannot be.

    Source: Black and Rogaway, Ciphers with arbitrary finite domains (2002), section 4 (cycle walking).
    """

    def __init__(self, n: int, *key: int) -> None:
        if not 1 <= n <= MAX_SIZE:
            raise ValueError(f"n = {n}; a permutation has 1 to 2^62 places; a number in between")
        self.n = n
        self._half = np.uint64(max(1, -(-(n - 1).bit_length() // 2)))
        self._low = np.uint64((1 << int(self._half)) - 1)
        self._keys = np.random.SeedSequence(list(key)).generate_state(N_ROUNDS, np.uint64)

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """What stands at some places, int64 of the same shape.

        Args:
            places: int64, each from 0 to n-1.
        """
        assert places.size == 0 or places.min() >= 0 and places.max() < self.n, "a place outside of the permutation"
        value = self._network(places.astype(np.uint64))
        while (is_outside := value >= self.n).any():
            value[is_outside] = self._network(value[is_outside])
        return value.astype(np.int64)

    def _network(self, value: np.ndarray) -> np.ndarray:
        left, right = value >> self._half, value & self._low
        for key in self._keys:
            left, right = right, left ^ (_mixed(right + key) & self._low)
        return left << self._half | right


def _mixed(value: np.ndarray) -> np.ndarray:
    """64 bits, each of which depends on all bits of the value. Source: Steele et al., SplitMix (2014), the finaliser of variant 13."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
