"""Kernels that take a dense mask: torch's fused attention, and plain arithmetic."""

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from illada_lab.models.kernels.kernel import Need, View
from illada_lab.models.kernels.sight import Sight
from illada_lab.models.segments import PackedSegments

# Scores that are held in memory where that is faster: 2^25 take 64 MiB a layer in bf16. Our choice.
MAX_SCORES = 2**25


@dataclass(frozen=True)
class Dense:
    """Attention with a dense mask.

    Attributes:
        is_visible: which key each query sees; None: all of the row (or all before it where `is_causal`).
        is_causal: only without `is_visible`, which already says it.
        is_plain: plain arithmetic instead of torch's fused kernel; None: where its scores fit into `MAX_SCORES`.
    """

    is_visible: Bool[Tensor, "B 1 #L M"] | None = None
    is_causal: bool = False
    is_plain: bool | None = False

    @classmethod
    def of_columns(cls, sight: Sight, columns: slice, *, is_plain: bool = False) -> "Dense":
        """The view of some columns of the rows: fewer queries than keys, which only a mask can say of a causal one."""
        if sight.causal_block is None and sight.is_whole:
            return cls(is_plain=is_plain)
        assert sight.segment_ids is not None, "rows without segment numbers are not causal here"
        return cls(sight.mask_of(columns), is_plain=is_plain)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries [B, H, L, E], keys and values [B, K, M, E] -> [B, H, L, E]."""
        n_scores = q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2]
        is_plain = n_scores <= MAX_SCORES if self.is_plain is None else self.is_plain
        function = plain if is_plain else fused
        return function(q, k, v, self.is_visible, self.is_causal)


@dataclass(frozen=True)
class PerSegment:
    """Attention inside packed segments: segments of equal length become one dense batch each, so no pair is computed that is not seen.

    Attributes:
        segments: where they lie on the single row.
        is_causal: no position sees a later one of its segment.
    """

    segments: PackedSegments
    is_causal: bool = False

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[1, heads, N, E] each -> [1, H, N, E]."""
        out = torch.empty_like(q, dtype=v.dtype)
        for index in self.segments.groups:
            group = (x[0, :, index].transpose(0, 1) for x in (q, k, v))  # [S_group, heads, length, E]
            out[0, :, index] = fused(*group, is_causal=self.is_causal).transpose(0, 1)
        return out


class Sdpa:
    """torch's `scaled_dot_product_attention`: everywhere; a mask for padded rows, dense batches for packed segments."""

    name = "sdpa"

    def problem(self, need: Need) -> str | None:
        """It runs everywhere."""
        return None

    def view(self, sight: Sight) -> View:
        """See `Kernel`."""
        if sight.packed is not None and sight.causal_block in (None, 1):
            return PerSegment(sight.packed, is_causal=sight.causal_block == 1)
        return _masked(sight, is_plain=False)


class Plain:
    """Two products and a softmax, all scores in memory: the reference the others are held against."""

    name = "plain"

    def problem(self, need: Need) -> str | None:
        """It runs everywhere."""
        return None

    def view(self, sight: Sight) -> View:
        """See `Kernel`."""
        return _masked(sight, is_plain=True)


class BySize:
    """Plain arithmetic as long as all scores fit into `MAX_SCORES`, torch's kernel for what is longer: the fastest in bf16 on a CPU.

    Source: our measurement on a processor with bf16 units (AVX-512, 2 threads; 8 rows of 512, 6 heads of 64; forward and backward pass):
        plain 38 ms, compiled 31; torch's kernel 67, in float32 82.
    """

    name = "plain, sdpa for long rows"

    def problem(self, need: Need) -> str | None:
        """It runs everywhere."""
        return None

    def view(self, sight: Sight) -> View:
        """See `Kernel`."""
        return _masked(sight, is_plain=None)


def _masked(sight: Sight, is_plain: bool | None) -> Dense:
    """Without a mask where nothing is to be kept apart: a mask costs a CPU half as much again."""
    if sight.causal_block in (None, 1) and sight.is_whole:
        return Dense(None, sight.causal_block == 1, is_plain)
    return Dense(sight.mask, False, is_plain)


def fused(q: Tensor, k: Tensor, v: Tensor, is_visible: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """Attention by torch's fused kernel, keys and values of grouped queries not expanded."""
    q, k = q.to(v.dtype), k.to(v.dtype)
    is_grouped, is_causal = q.shape[1] != k.shape[1], is_causal and is_visible is None
    if is_grouped and q.is_cuda and (v.dtype == torch.float32 or (is_visible is not None and not _has_cudnn(q.device))):
        return in_turn(q, k, v, is_visible, is_causal)
    return F.scaled_dot_product_attention(q, k, v, is_visible, is_causal=is_causal, enable_gqa=is_grouped)


def in_turn(q: Tensor, k: Tensor, v: Tensor, is_visible: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """Attention by torch's fused kernel, one query of each group after the other, so that each call has as many keys as queries.

    For GPUs where torch takes grouped queries in FlashAttention only, which has neither masks nor float32: its next kernel that does
    holds all scores in memory and expands keys and values. A group's queries stood before their key in one row would need the mask
    as many times.
    """
    n_group = q.shape[1] // k.shape[1]
    out = [
        F.scaled_dot_product_attention(q[:, i::n_group], k, v, is_visible, is_causal=is_causal) for i in range(n_group)
    ]
    return torch.stack(out, 2).flatten(1, 2)


@functools.cache
def _has_cudnn(device: torch.device) -> bool:
    """Whether torch prefers cuDNN's attention, which takes grouped queries and masks."""
    return torch.cuda.get_device_capability(device) >= (9, 0)


def plain(q: Tensor, k: Tensor, v: Tensor, is_visible: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """The same with all scores in memory: two products in the values' precision, the softmax between them in float32."""
    n_rows, n_heads, length, head_size = q.shape
    n_kv_heads, n_keys = k.shape[1:3]
    # The queries of a group stand one after the other before their one key head: nothing is expanded.
    grouped = q.to(v.dtype).reshape(n_rows, n_kv_heads, -1, head_size)  # [B, K, (H / K) L, E]
    scores = (grouped @ k.to(v.dtype).transpose(-1, -2)).view(n_rows, n_heads, length, n_keys).float() * head_size**-0.5
    if is_causal and is_visible is None:
        is_visible = torch.ones(length, n_keys, dtype=torch.bool, device=q.device).tril()
    if is_visible is not None:
        # Added in place, which has no backward pass, where filling would copy all scores twice: the same to the bit of finite scores, the
        # softmax of -inf has no gradient. A compiler fuses it, and is given nothing in place: its layers may be computed again.
        hidden = torch.zeros(is_visible.shape, device=q.device).masked_fill(~is_visible, -torch.inf)
        scores = scores + hidden if torch.compiler.is_compiling() else scores.add_(hidden)
    shares = scores.softmax(-1).to(v.dtype).view(n_rows, n_kv_heads, -1, n_keys)
    return (shares @ v).view(n_rows, n_heads, length, head_size)
