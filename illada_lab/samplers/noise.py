"""Randomness of sampling as a function of (row, pass, position, token), so that a row's text does not depend on its batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

# noise(n): the next n uniform numbers on [0, 1) of every prediction, float64 [M, n].
Noise = Callable[[int], Float[Tensor, "M n"]]
Generators = torch.Generator | Sequence[torch.Generator] | None

# Steele, Lea & Flood 2014, SplitMix64: increment and multipliers, as signed numbers of 64 bits.
_INCREMENT, _FIRST, _SECOND = -7046029254386353131, -4658895280553007687, -7723592293110705685


@dataclass(frozen=True)
class RowNoise:
    """Random numbers of the rows of a batch; counter-based: nothing is drawn in sequence, so nothing depends on who else draws.

    Attributes:
        keys: one random number per row.

    Source: our choice, from Salmon et al. 2011 (counter-based generators). Computed where the logits are: no copy, no wait.
    """

    keys: Int[Tensor, " B"]

    @classmethod
    def start(cls, generator: Generators, n_rows: int, device: torch.device | str = "cpu") -> "RowNoise":
        """Draw the keys.

        Args:
            generator: one for the batch, one per row (then each row is what it would be alone with its own), or None: torch's
                global one. CPU generators.
            n_rows: B.
            device: where the numbers are wanted.

        Raises:
            ValueError: a number of generators that is not the number of rows.
        """
        if generator is None or isinstance(generator, torch.Generator):
            keys = [_key(generator) for _ in range(n_rows)]
        elif len(generator) == n_rows:
            keys = [_key(one) for one in generator]
        else:
            raise ValueError(f"generator = {len(generator)} of them; one for all rows or one per row; 1 or {n_rows}")
        return cls(torch.tensor(keys, dtype=torch.int64, device=device))

    def at(self, rows: Int[Tensor, " M"], passes: Int[Tensor, " M"], positions: Int[Tensor, " M"]) -> Noise:
        """Noise of M predictions.

        Args:
            rows: row of each prediction.
            passes: passes that row has had; makes each pass draw anew.
            positions: place of each prediction, counted so that it does not depend on padding.
        """
        key = _mix(_mix(self.keys[rows] + passes * _INCREMENT) + positions * _INCREMENT)
        n_drawn = 0

        def noise(n: int) -> Tensor:
            nonlocal n_drawn
            counter = torch.arange(n_drawn + 1, n_drawn + n + 1, device=key.device)
            n_drawn += n
            bits = _mix(key[:, None] + counter * _INCREMENT)
            return _shift(bits, 11).double() * 2.0**-53

        return noise


def _key(generator: torch.Generator | None) -> int:
    return int(torch.randint(-(2**63), 2**63 - 1, (), generator=generator))


def _shift(x: Tensor, n: int) -> Tensor:
    """Logical shift to the right: torch's own keeps the sign."""
    return (x >> n) & ((1 << (64 - n)) - 1)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser: flips about half of the bits for each bit flipped. Products wrap around."""
    x = (x ^ _shift(x, 30)) * _FIRST
    x = (x ^ _shift(x, 27)) * _SECOND
    return x ^ _shift(x, 31)
