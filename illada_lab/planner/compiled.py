"""Layers as `torch.compile` runs them, on tensors without data: what a compiled layer keeps for the backward pass."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from functorch.compile import aot_function, min_cut_rematerialization_partition
from torch import Tensor, nn
from torch._inductor.decomposition import select_decomp_table
from torch.autograd import Function
from torch.func import functional_call
from torch.fx import GraphModule, Interpreter

from illada_lab.models import MaskPredictor
from illada_lab.models.kernels import Dense
from illada_lab.models.layer import Layer
from illada_lab.models.linear import linear
from illada_lab.models.mask_predictor import MIN_COMPILED_VOCABULARY


def as_compiled(predictor: MaskPredictor) -> None:
    """Let layers and loss keep what they keep when compiled; before `recompute`.

    A compiled layer keeps the inputs and outcomes of its matrix products, copies of weights in another precision among them, and computes
    what lies between them again. Where it is cut into a forward and a backward pass is the compiler's own choice; kernels are not fused
    here, so their temporaries count, which is on the safe side.

    Args:
        predictor: its layers are all alike.

    Source: the partitioner that inductor uses, `torch._functorch.partitioners.min_cut_rematerialization_partition`; checked against
        training on a CPU and on an H200, see benchmarks/README.md.
    """
    inner = _Inner(predictor.layers[0])
    names = [name for name, _ in inner.named_parameters()]

    def run(kind: Dense, *inputs: Any) -> Tensor:
        *parameters, h, cos, sin, mask = inputs
        view = replace(kind, is_visible=mask)
        return functional_call(inner, dict(zip(names, parameters, strict=True)), (h, (cos, sin), view))

    compiled: dict[Dense, Callable[..., Tensor]] = {}

    def forward(
        layer: nn.Module, h: Tensor, table: tuple[Tensor, Tensor], view: Any, columns: slice | None = None
    ) -> Tensor:
        assert isinstance(view, Dense) and columns is None, "a rehearsal trains on whole rows"
        kind = replace(view, is_visible=None)
        if kind not in compiled:
            compiled[kind] = _cut(partial(run, kind))
        return compiled[kind](*layer.parameters(), h, *table, view.is_visible)

    for layer in predictor.layers:
        layer.forward = partial(forward, layer)
    if predictor.spec.vocab_size >= MIN_COMPILED_VOCABULARY:
        predictor._token_losses = _FusedLosses.apply  # type: ignore[assignment]


class _FusedLosses(Function):
    """What a fused loss keeps: the logits in the precision of their product, and in the backward pass their gradient beside them.

    As operations one by one it would hold up to three copies of the logits in float32.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, head_weight: Tensor, targets: Tensor) -> Tensor:
        """Losses in float32, of what shape they are."""
        logits = linear(h, head_weight)
        ctx.save_for_backward(h, head_weight, logits)
        return torch.empty(len(targets), dtype=torch.float32, device=h.device)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, Tensor, None]:
        """Gradients of hidden states and head."""
        h, head_weight, logits = ctx.saved_tensors
        grad = torch.empty_like(logits)
        return (grad @ head_weight.to(grad.dtype)).to(h.dtype), (grad.T @ h.to(grad.dtype)).to(head_weight.dtype), None


class _Inner(nn.Module):
    """A layer whose own `forward` is about to be another."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *arguments: Any) -> Tensor:
        return Layer.forward(self.layer, *arguments)  # type: ignore[arg-type]


def _run(gm: GraphModule, example_inputs: Any) -> Any:
    """A graph that lets go of what it is given as soon as it is used, as the compiler's code does."""

    def run(arguments: list[Any]) -> Any:
        return Interpreter(gm).boxed_run(arguments)

    run._boxed_call = True  # type: ignore[attr-defined]  # how AOT autograd knows that a list is wanted
    return run


def _cut(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function as a forward and a backward graph, which run operation by operation."""
    return aot_function(
        function,
        fw_compiler=_run,
        bw_compiler=_run,
        partition_fn=min_cut_rematerialization_partition,
        decompositions=select_decomp_table(),
    )
