"""Keys and values of every layer, kept between passes over the same canvas."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass
class LayerCache:
    """Rotated keys and values of one layer, at every position of the canvas.

    Attributes:
        keys, values: [B, K, L, E]. With K key/value heads, not H: a cache of iLLaDA's is four times smaller than LLaDA's.
    """

    keys: Float[Tensor, "B K L E"]
    values: Float[Tensor, "B K L E"]

    def write(self, start: int | Tensor, keys: Float[Tensor, "B K W E"], values: Float[Tensor, "B K W E"]) -> None:
        """Replace what is kept of the positions from `start` on; a tensor on the device is read there, when a recorded pass is replayed."""
        if isinstance(start, Tensor):
            place = start + torch.arange(keys.shape[2], device=keys.device)
            self.keys.index_copy_(2, place, keys.to(self.keys.dtype))
            self.values.index_copy_(2, place, values.to(self.values.dtype))
        else:
            window = slice(start, start + keys.shape[2])
            self.keys[:, :, window], self.values[:, :, window] = keys, values


@dataclass
class Cache:
    """What a bidirectional model remembers of a full pass.

    Keys and values depend on the whole canvas, so those of unchanged positions go stale when others change: an approximation, exact again
    after the next full pass.

    Attributes:
        layers: one each.

    Source: Fast-dLLM (arXiv 2505.22618), approximate key/value cache of bidirectional models.
    """

    layers: list[LayerCache]

    def rows(self, chosen: Int[Tensor, " b"]) -> "Cache":
        """Some rows of the batch."""
        return Cache([LayerCache(layer.keys[chosen], layer.values[chosen]) for layer in self.layers])

    @property
    def n_bytes(self) -> int:
        """Memory held."""
        return sum(t.numel() * t.element_size() for layer in self.layers for t in (layer.keys, layer.values))
