"""Randomness of masking as a function of (seed, sample), so that it survives resuming and other world sizes."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

# Keys of the streams that one sample draws from; new uses get new numbers, so that old runs stay as they were.
ROWS, GROUPS, TIMES = 0, 1, 2
MOST = 2**60  # of a seed: with the number of a stream it is one key of 64 bits


def _stream(seed: int, purpose: int, number: int) -> np.random.Generator:
    """A generator that depends on its three arguments and on nothing else."""
    return np.random.Generator(np.random.Philox(key=np.array([seed * 8 + purpose, number], dtype=np.uint64)))


class RowRandom:
    """Random numbers of the rows of a batch, one counter-based stream (Philox) per row.

    What a row draws depends on the seed and on the row's number in the data stream, not on the batch it came in: the same
    masks for every world size, micro-batch, device, and after a resume. Drawn on the CPU and moved, which costs little
    beside a training step.

    Args:
        seed: seed of the run, 0 to 2^60.
        index: number of each row in the data stream, int64 [B].

    Raises:
        ValueError: a seed out of this range.

    Source: our choice: no peer has it, and `resumed = uninterrupted` cannot hold bit for bit without it.
    """

    def __init__(self, seed: int, index: Int[Tensor, " B"]) -> None:
        if not 0 <= seed <= MOST:
            raise ValueError(f"seed = {seed}; of the masks; 0 to {MOST}")
        self.seed, self.device = seed, index.device
        self.index = index.cpu().numpy()
        self._streams: dict[int, list[np.random.Generator]] = {}

    def uniform(self, n: int, purpose: int = ROWS) -> Float[Tensor, "B n"]:
        """The next `n` numbers of every row, uniform on [0, 1), float64; each purpose has a stream of its own."""
        if purpose not in self._streams:
            self._streams[purpose] = [_stream(self.seed, purpose, int(i)) for i in self.index]
        return torch.from_numpy(np.stack([row.random(n) for row in self._streams[purpose]])).to(self.device)

    def group_uniform(self, group_size: int) -> Float[Tensor, "B 1"]:
        """One number per row, shared by the `group_size` rows whose indices have the same quotient by it."""
        groups = self.index // group_size
        drawn = {int(g): _stream(self.seed, GROUPS, int(g)).random() for g in np.unique(groups)}
        return torch.tensor([[drawn[int(g)]] for g in groups], dtype=torch.float64, device=self.device)
