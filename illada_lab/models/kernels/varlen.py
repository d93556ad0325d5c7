"""Kernels for segments of any length given by offsets: FlashAttention 2 and 3, and torch's own. CUDA, half precision."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from illada_lab.extras import how_to_install
from illada_lab.models.kernels.dense import Sdpa, fused
from illada_lab.models.kernels.kernel import Need, View, outside_of_graphs
from illada_lab.models.kernels.say import say_once
from illada_lab.models.kernels.sight import Sight

Varlen = Callable[[Tensor, Tensor, Tensor, Tensor, int, bool], Tensor]
"""(q [N, H, E], k and v [N, K, E], offsets int32, longest segment, is_causal) -> [N, H, E]."""


@dataclass
class Offsets:
    """Attention inside segments that lie one after the other on the axis of all B * L positions.

    Attributes:
        kernel: what computes it.
        sight: who sees whom.
    """

    kernel: Varlen
    sight: Sight
    _offsets: Int[Tensor, " S_plus_1"] | None = None
    _longest: int = 0

    # The number of segments differs from batch to batch: compiled into a layer it would compile it again and again.
    @outside_of_graphs
    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[B, heads, L, E] each -> [B, H, L, E]."""
        n_rows, _, length, _ = q.shape
        if self._offsets is None:  # the first layer of a pass works them out for all
            self._offsets = self.sight.offsets(n_rows, length, q.device)
            self._longest = int(self._offsets.diff().max())
        q, k, v = (x.to(v.dtype).transpose(1, 2).flatten(0, 1) for x in (q, k, v))  # [N, heads, E]
        out = self.kernel(q, k, v, self._offsets, self._longest, self.sight.causal_block == 1)
        return out.unflatten(0, (n_rows, length)).transpose(1, 2)


class OnCuda:
    """What the kernels of CUDA devices have in common."""

    name: str
    module: str
    min_capability = (8, 0)
    max_head_size = 256

    def problem(self, need: Need) -> str | None:
        """A missing package, another device, precision, head size or sight than it takes."""
        if need.device.type != "cuda":
            return f"runs on CUDA devices, not on {need.device.type}"
        if not _is_there(self.module):
            return f"{self.module} is not installed ({how_to_install(self.module)})"
        capability = torch.cuda.get_device_capability(need.device)
        if capability < self.min_capability:
            return f"needs compute capability {_dotted(self.min_capability)}, this device has {_dotted(capability)}"
        if need.dtype not in (torch.bfloat16, torch.float16):
            return f"takes bf16 and float16, not {str(need.dtype).removeprefix('torch.')}"
        if need.head_size > self.max_head_size or need.head_size % 8:
            return f"takes head sizes that are multiples of 8 up to {self.max_head_size}, not {need.head_size}"
        if need.causal_block not in (None, 1):
            return f"has no block-causal attention (causal_block = {need.causal_block})"
        return None

    def view(self, sight: Sight) -> View:
        """See `Kernel`."""
        if sight.is_split:
            say_once(
                f"attention = {self.name}; a segment of this batch lies in several pieces; sdpa is used for such batches"
            )
            return Sdpa().view(sight)
        return Offsets(self.run, sight)

    def run(self, q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, longest: int, is_causal: bool) -> Tensor:
        """See `Varlen`."""
        raise NotImplementedError


class Flash2(OnCuda):
    """FlashAttention 2 (`flash-attn`). Source: iLLaDA, packed segments with a variable-length kernel; Dao 2023."""

    name, module = "flash 2", "flash_attn"

    def run(self, q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, longest: int, is_causal: bool) -> Tensor:
        """See `Varlen`."""
        function = import_module(self.module).flash_attn_varlen_func
        return function(q, k, v, offsets, offsets, longest, longest, causal=is_causal)


class Flash3(OnCuda):
    """FlashAttention 3, whose package is `flash_attn_interface`: Hopper only. Source: Shah et al. 2024."""

    name, module = "flash 3", "flash_attn_interface"
    min_capability = (9, 0)

    def problem(self, need: Need) -> str | None:
        """As the others, and only the generation it was written for."""
        if (found := super().problem(need)) is not None:
            return found
        capability = torch.cuda.get_device_capability(need.device)
        return None if capability[0] == 9 else f"is for compute capability 9.x, this device has {_dotted(capability)}"

    def run(self, q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, longest: int, is_causal: bool) -> Tensor:
        """See `Varlen`."""
        function = import_module(self.module).flash_attn_varlen_func
        out: Any = function(q, k, v, offsets, offsets, longest, longest, causal=is_causal)
        # Its early versions return the log of the softmax's denominators as well.
        return out[0] if isinstance(out, tuple) else out


class TorchVarlen(OnCuda):
    """torch's own `varlen_attn`: FlashAttention 2 that comes with torch."""

    name, module = "varlen", "torch.nn.attention.varlen"

    def run(self, q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, longest: int, is_causal: bool) -> Tensor:
        """See `Varlen`."""
        function: Any = import_module(self.module).varlen_attn
        window = (-1, 0) if is_causal else (-1, -1)
        grouped = {"enable_gqa": q.shape[1] != k.shape[1]} if "enable_gqa" in _parameters(function) else {}
        return function(q, k, v, offsets, offsets, longest, longest, window_size=window, **grouped)


@cache
def _parameters(function: Callable[..., Tensor]) -> frozenset[str]:
    """torch 2.12 asks for grouped queries to be announced; before it takes them as they come."""
    return frozenset(signature(function).parameters)


@dataclass
class ByRows:
    """Attention of a batch whose whole rows are dense, and whose other rows lie on one axis.

    Attributes:
        whole, others: numbers of the rows of either kind.
        view: of the other rows.
    """

    whole: Int[Tensor, " w"]
    others: Int[Tensor, " o"]
    view: View

    @outside_of_graphs
    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[B, heads, L, E] each -> [B, H, L, E]."""
        dense = fused(q[self.whole], k[self.whole], v[self.whole])
        parts = torch.cat((dense, self.view(q[self.others], k[self.others], v[self.others])))
        return parts[torch.cat((self.whole, self.others)).argsort()]


@dataclass(frozen=True)
class WholeRowsDense:
    """Whole rows by torch's fused attention, which has cuDNN's kernel for them, the others by a variable-length kernel.

    Attributes:
        varlen: for the others.

    Source: our measurement on an H200 (torch 2.11, bf16, 8192 positions, 32 query and 8 key/value heads of 128, forward and backward
        pass): varlen 12.7 ms, 39 % of the matmul rate; sdpa 6.5 ms, 76 %. FlashAttention 3 was not there to be measured.
    """

    varlen: OnCuda

    @property
    def name(self) -> str:
        """Both."""
        return f"sdpa for whole rows, {self.varlen.name} for others"

    def problem(self, need: Need) -> str | None:
        """What the variable-length kernel does not take."""
        return self.varlen.problem(need)

    def view(self, sight: Sight) -> View:
        """See `Kernel`; asks the device which rows are whole, once for all layers of a pass."""
        ids = sight.segment_ids
        if ids is None:
            return Sdpa().view(sight)
        is_whole = (ids == ids[:, :1]).all(1)
        whole, others = is_whole.nonzero()[:, 0], (~is_whole).nonzero()[:, 0]
        if not len(others):
            return Sdpa().view(Sight(None, sight.causal_block))
        if not len(whole) or sight.causal_block is not None:
            return self.varlen.view(sight)
        return ByRows(whole, others, self.varlen.view(Sight(ids[others])))


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
