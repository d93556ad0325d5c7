"""What sharded layers hold for a while: whole parameters that come and go."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from illada_lab.planner.ledger import FLOAT32, Ledger


class Gathered:
    """Books what FSDP2 holds of layers while they run: whole parameters that come and go, and whole gradients on their way.

    In a pass: the parameters of the layer in use, of the one that arrives, and the buffer that they arrive in; behind the layers, where the
    head computes, the last buffer alone. In the backward pass also the gradient, in float32, of the layer before on its way; where a
    layer is through, and has let go of its activations, its own gradient in both precisions.

    Args:
        ledger: books.
        label: under which this is booked.
        n_parameters: of a layer.
        n_bytes: of each as it arrives; gradients are sent in float32.

    Source: torch.distributed.fsdp.fully_shard (implicit prefetching of one layer); `training.distributed.sharding` for the units.
    """

    def __init__(self, ledger: Ledger, label: str, n_parameters: int, n_bytes: int) -> None:
        self.ledger, self.label = ledger, label
        arriving, sent = n_parameters * n_bytes, n_parameters * FLOAT32
        self.between, self.behind = arriving, sent
        self.in_use, self.through = 3 * arriving, 4 * arriving + sent
        self.held: Tensor | None = None

    def watch(self, layers: nn.ModuleList) -> None:
        """Follow the passes through some layers."""
        for number, layer in enumerate(layers):
            layer.register_forward_pre_hook(partial(self._enter, is_first=number == 0))
            layer.register_forward_hook(partial(self._leave, is_last=number == len(layers) - 1))

    def _enter(self, layer: nn.Module, inputs: tuple[Any, ...], *, is_first: bool) -> None:
        self._hold(self.in_use)
        if is_first:
            inputs[0].register_hook(lambda _: self._hold(self.through, self.behind))

    def _leave(self, layer: nn.Module, inputs: tuple[Any, ...], out: Tensor, *, is_last: bool) -> None:
        self._hold(self.between)
        # This gradient is whole where the layer behind is through, and this one's backward pass begins.
        out.register_hook(
            lambda _: self._hold(*([] if is_last else [self.through]), self.in_use + self.behind * (not is_last))
        )

    def _hold(self, *n_bytes: int) -> None:
        """So many bytes, and then so many: the last of them from here on."""
        label, self.ledger.label = self.ledger.label, self.label
        for n in n_bytes:
            self.held = None
            self.held = torch.empty(n, dtype=torch.uint8)
        self.ledger.label = label
