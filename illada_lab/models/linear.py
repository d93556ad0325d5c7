"""The linear map every part of the model is made of, in float32 by the library that is fast on this processor."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

# Floating-point operations below which oneDNN's longer call (about 10 microseconds more) eats what it saves. Measured, see `onednn_pays`.
MIN_OPERATIONS = 4_000_000
# Uses of a weight before it is packed: bringing 3 MB into blocks costs what about ten products with 32 rows save.
USES_BEFORE_PACKING = 4
# Bytes of packed weights at most, in all. Our choice: a second copy of a model that fills the memory would be one too many.
MAX_PACKED_BYTES = 2**30
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
    return _has_wide_onednn() and torch.backends.mkl.is_available() and not _is_intel()


@functools.cache
def _has_wide_onednn() -> bool:
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


def linear(x: Float[Tensor, "... I"], weight: Float[Tensor, "O I"]) -> Float[Tensor, "... O"]:
    """x weight', without bias: `torch.nn.functional.linear`, faster where `onednn_pays`.

    Args:
        x: inputs.
        weight: rows are outputs.
    """
    if (packed := _packed(x, weight)) is not None:
        return _product(x.reshape(-1, x.shape[-1]), packed).unflatten(0, x.shape[:-1])
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


@contextmanager
def packed_weights() -> Iterator[None]:
    """For calls that use the same weights many times and change none: those of large products are kept in oneDNN's own layout as well.

    A product otherwise brings its weights into that layout each time. For a few dozen rows, one block of a response, this is a
    quarter of its time. The copies go when the outermost of these contexts ends. Float32 on processors with AVX-512 only, without
    gradients; everywhere else it changes nothing.

    Source: our choice. Intel Xeon with AVX-512, torch 2.13.0, 2 threads, 1536 x 512 and more of them than the caches hold: 113 to 119
        GFLOP/s with MKL, 150 to 168 packed for 32 rows; 236 to 250 and 282 to 290 for 256 rows.
    """
    if _packs.get() is not None:
        yield
        return
    before = _packs.set(_Packs())
    try:
        yield
    finally:
        _packs.reset(before)


class Linear(nn.Linear):
    """`torch.nn.Linear` without bias, computed by `linear`."""

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__(n_inputs, n_outputs, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """[..., I] -> [..., O]."""
        return linear(input, self.weight)


@dataclass
class _Packs:
    """Packed weights by the identity of the plain ones, which are kept, so that it stays theirs; and how often each was used."""

    uses: dict[int, int] = field(default_factory=dict)
    packed: dict[int, tuple[nn.Parameter, Tensor]] = field(default_factory=dict)
    n_bytes: int = 0

    def find(self, weight: nn.Parameter) -> Tensor | None:
        """The packed weight, from the use on after which it pays."""
        if (found := self.packed.get(id(weight))) is not None:
            return found[1]
        self.uses[id(weight)] = n_uses = self.uses.get(id(weight), 0) + 1
        if n_uses <= USES_BEFORE_PACKING or self.n_bytes + weight.nbytes > MAX_PACKED_BYTES:
            return None
        packed = _packed_by_onednn(weight.detach())
        self.packed[id(weight)] = weight, packed
        self.n_bytes += weight.nbytes
        return packed


_packs: ContextVar[_Packs | None] = ContextVar("_packs", default=None)


def _packed(x: Tensor, weight: Tensor) -> Tensor | None:
    """The packed form of a weight where `packed_weights` is on and it pays."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or (packs := _packs.get()) is None:
        return None
    is_large = x.numel() * weight.shape[0] * 2 >= MIN_OPERATIONS
    if not (is_large and _is_plain_float32(x, weight) and _has_wide_onednn() and not _is_torch_only.get()):
        return None
    return packs.find(weight) if isinstance(weight, nn.Parameter) else None


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


def _packed_by_onednn(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight, None)


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
    is_plain = _is_plain_float32(x, weight)
    if torch.compiler.is_compiling():  # nothing of what follows: a graph of any size would be compiled again for each
        return is_plain and _pays_in_graphs()
    is_large = x.numel() * weight.shape[0] * 2 >= MIN_OPERATIONS
    # A part of a matrix sends oneDNN to a kernel that is hundreds of times slower.
    is_whole = weight.is_contiguous() or weight.t().is_contiguous()
    return is_plain and is_large and is_whole and onednn_pays() and not _is_torch_only.get()


def _is_plain_float32(x: Tensor, weight: Tensor) -> bool:
    return (
        x.dtype == torch.float32
        and weight.dtype == torch.float32
        and x.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and type(x) in (Tensor, nn.Parameter)
        and type(weight) in (Tensor, nn.Parameter)
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
