"""What sharded layers hold for a while: whole parameters that come and go."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from illada_lab.planner.ledger import FLOAT32, Ledger


class Gathered:
    """Books what FSDP2 holds of layers while they run: whole parameters that come and go, and whole gradients on their way.

    In a pass: the parameters of the layer in use, of the one that arrives, and the buffer that they arrive in. In the backward pass
    also the layer's own gradient, and one of them in float32 on its way. Behind the layers, where the head computes, the last
    buffer alone.

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
        self.forward, self.backward = 3 * arriving, 4 * arriving + sent
        self.held: Tensor | None = None

    def watch(self, layers: nn.ModuleList) -> None:
        """Follow the passes through some layers."""
        for number, layer in enumerate(layers):
            layer.register_forward_pre_hook(partial(self._enter, is_first=number == 0))
            layer.register_forward_hook(self._leave)

    def _enter(self, layer: nn.Module, inputs: tuple[Any, ...], *, is_first: bool) -> None:
        self._hold(self.forward)
        # The input's gradient is whole when the layer's backward pass is over.
        inputs[0].register_hook(lambda _: self._hold(self.behind if is_first else self.backward))

    def _leave(self, layer: nn.Module, inputs: tuple[Any, ...], out: Tensor) -> None:
        self._hold(self.between)
        out.register_hook(lambda _: self._hold(self.backward))

    def _hold(self, n_bytes: int) -> None:
        self.held = None
        label, self.ledger.label = self.ledger.label, self.label
        self.held = torch.empty(n_bytes, dtype=torch.uint8)
        self.ledger.label = label
