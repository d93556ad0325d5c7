"""What a kernel is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from illada_lab.models.kernels.sight import Sight

View = Callable[
    [Float[Tensor, "B H L E"], Float[Tensor, "B K L E"], Float[Tensor, "B K L E"]], Float[Tensor, "B H L E"]
]
"""softmax(q k' / sqrt(E)) v over the visible keys; query head i reads key/value head i // (H / K). Packed segments: B = 1, L = N."""


@dataclass(frozen=True)
class Need:
    """What a kernel must be able to take.

    Attributes:
        device: where the batch is.
        dtype: of queries, keys and values.
        head_size: E.
        causal_block: see `Sight`.
        needs_gradient: a backward pass follows.
    """

    device: torch.device
    dtype: torch.dtype
    head_size: int
    causal_block: int | None = None
    needs_gradient: bool = True


Function = TypeVar("Function", bound=Callable[..., Any])


def outside_of_graphs(function: Function) -> Function:
    """`torch.compile` leaves this function to Python and calls it between two graphs."""
    disabled: Any = torch.compiler.disable(function)
    return disabled


@runtime_checkable
class Kernel(Protocol):
    """A way to compute attention."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    def problem(self, need: Need) -> str | None:
        """Why it cannot be used for this need; None: nothing is known to be in its way."""
        ...

    def view(self, sight: Sight) -> View:
        """Attention for batches of this sight."""
        ...
