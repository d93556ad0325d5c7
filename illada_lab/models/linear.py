"""The linear map every part of the model is made of, in float32 by the library that is fast on this processor."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

# Floating-point operations below which oneDNN's longer call (about 10 microseconds more) eats what it saves. Measured, see `onednn_pays`.
MIN_OPERATIONS = 4_000_000
_is_torch_only: ContextVar[bool] = ContextVar("_is_torch_only", default=False)


@functools.cache
def onednn_pays() -> bool:
    """Whether float32 products go to oneDNN instead of MKL, PyTorch's own choice.

    MKL runs its AVX2 code on processors with AVX-512 that Intel has not made; oneDNN, which PyTorch brings too and uses for bf16,
    takes what is there. Same precision, sums in another order. Decided by what the processor is and not by a measurement, so that
    a run repeated on the same machine gives the same bits.

    Source: our choice. AMD EPYC with AVX-512, torch 2.13.0, 2 threads, 4096 x 384 times 384 x 1024: 206 GFLOP/s with MKL, 463 with
        oneDNN; 20 x 160 times 160 x 160: 10 and 16 microseconds.
    """
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.mkl.is_available()
        and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        and not _is_intel()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def linear(x: Float[Tensor, "... I"], weight: Float[Tensor, "O I"]) -> Float[Tensor, "... O"]:
    """x weight', without bias: `torch.nn.functional.linear`, faster where `onednn_pays`.

    Args:
        x: inputs.
        weight: rows are outputs.
    """
    if not _is_for_onednn(x, weight):
        return F.linear(x, weight)
    flat = x.reshape(-1, x.shape[-1])
    if torch.compiler.is_compiling():
        return _in_graph(flat, weight).unflatten(0, x.shape[:-1])
    has_gradient = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    y = _Linear.apply(flat, weight) if has_gradient else _product(flat, weight)
    return y.unflatten(0, x.shape[:-1]) if x.ndim != 2 else y  # type: ignore[union-attr]


@contextmanager
def torch_products() -> Iterator[None]:
    """PyTorch's own products inside of it: the baseline of benchmarks, and the sums of other processors."""
    before = _is_torch_only.set(True)
    try:
        yield
    finally:
        _is_torch_only.reset(before)


class Linear(nn.Linear):
    """`torch.nn.Linear` without bias, computed by `linear`."""

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__(n_inputs, n_outputs, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """[..., I] -> [..., O]."""
        return linear(input, self.weight)


class _Linear(torch.autograd.Function):
    """The three products of a linear map and its gradients; each is one of the same kind."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        needs_x, needs_weight = ctx.needs_input_grad  # type: ignore[attr-defined]
        return (
            _product(grad, weight.t()) if needs_x else None,
            _product(grad.t(), x.t()) if needs_weight else None,
        )


def _product(x: Tensor, weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


@torch.library.custom_op("illada_lab::onednn_product", mutates_args=())
def _in_graph(x: Tensor, weight: Tensor) -> Tensor:
    """`_product` as one node of a compiled graph: the compiler's own form of it takes frozen weights only."""
    return _product(x, weight)


@_in_graph.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    x, weight = ctx.saved_tensors
    return _in_graph(grad, weight.t()), _in_graph(grad.t(), x.t())


_in_graph.register_autograd(_gradients, setup_context=_keep)


def _is_for_onednn(x: Tensor, weight: Tensor) -> bool:
    """Plain float32 CPU tensors, large enough; autocast and sharded weights keep PyTorch's own product."""
    is_float32_here = (
        x.dtype == torch.float32
        and weight.dtype == torch.float32
        and x.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and type(x) in (Tensor, nn.Parameter)
        and type(weight) in (Tensor, nn.Parameter)
    )
    if torch.compiler.is_compiling():  # nothing of what follows: a graph of any size would be compiled again for each
        return is_float32_here and _pays_in_graphs()
    return (
        is_float32_here
        and x.numel() * weight.shape[0] * 2 >= MIN_OPERATIONS
        and onednn_pays()
        and not _is_torch_only.get()
    )


@torch.compiler.assume_constant_result
def _pays_in_graphs() -> bool:
    return onednn_pays()


def _is_intel() -> bool:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return "GenuineIntel" in file.read(4096)
    except OSError:
        return True  # not Linux: unknown, so PyTorch's own choice stands
