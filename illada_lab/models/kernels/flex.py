"""FlexAttention: one kernel for every pattern of who sees whom, blocks of pairs that nobody sees left out."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._dynamo import config as dynamo_config
from torch._dynamo.exc import FailOnRecompileLimitHit
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from illada_lab.models.kernels.kernel import Need, View, outside_of_graphs
from illada_lab.models.kernels.say import say_once
from illada_lab.models.kernels.sight import Sight

# torch's own limit of 8 is soon reached by prompts of many lengths; each program takes seconds to make. Our choice.
MAX_SHAPES = 64


@dataclass(frozen=True)
class Blocks:
    """Attention under a block mask.

    Attributes:
        block_mask: which pairs of blocks are seen wholly, in part, or not at all; None: all wholly.
    """

    block_mask: BlockMask | None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[B, heads, L, E] each -> [B, H, L, E]."""
        given = (q.to(v.dtype), k.to(v.dtype), v, self.block_mask, q.shape[1] != k.shape[1])
        # In a layer that is compiled it is a part of that.
        return _attend(*given) if torch.compiler.is_compiling() else _attend_compiled(*given)


class Flex:
    """torch's `flex_attention`; compiled, so it needs a compiler (CUDA: triton)."""

    name = "flex"

    def problem(self, need: Need) -> str | None:
        """Devices and head sizes it has no kernel for."""
        if need.device.type not in ("cuda", "cpu"):
            return f"runs on CUDA devices and CPUs, not on {need.device.type}"
        if need.device.type == "cpu" and need.needs_gradient:
            return "has no backward pass on a CPU"
        if need.device.type == "cuda" and need.head_size < 16:
            return f"takes head sizes from 16 on, not {need.head_size}"
        return None

    def view(self, sight: Sight) -> View:
        """See `Kernel`; the block mask is made once, for all layers of a pass."""
        ids, blocks = sight.segment_ids, sight.block_ids
        if ids is None:
            return _whole_causal if sight.causal_block == 1 else Blocks(None)
        # Lambdas: the shape checks of the tests wrap functions, and torch counts the arguments of what it is given.
        is_seen = lambda b, h, i, j: ids[b, i] == ids[b, j]  # noqa: E731
        if blocks is not None:
            is_seen = lambda b, h, i, j: (ids[b, i] == ids[b, j]) & (blocks[b, i] >= blocks[b, j])  # noqa: E731
        return Blocks(_block_mask(is_seen, ids.shape[0], ids.shape[1], ids.device))


def _whole_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return Blocks(_block_mask(lambda b, h, i, j: i >= j, None, q.shape[2], q.device))(q, k, v)


@outside_of_graphs
def _block_mask(rule: Callable[..., Tensor], n_rows: int | None, length: int, device: torch.device) -> BlockMask:
    return create_block_mask(rule, n_rows, None, length, length, device=str(device))


def _attend(q: Tensor, k: Tensor, v: Tensor, block_mask: BlockMask | None, is_grouped: bool) -> Tensor:
    out: Any = flex_attention(q, k, v, block_mask=block_mask, enable_gqa=is_grouped)
    return out


def _attend_compiled(*given: Any) -> Tensor:
    """A program per shape of a batch; behind the last that torch would keep one says so, which torch itself leaves to its log."""
    try:
        with dynamo_config.patch(recompile_limit=MAX_SHAPES):
            return _compiled()(*given)
    except FailOnRecompileLimitHit:
        say_once(
            f"attention = flex; batches of more than {MAX_SHAPES} shapes; further ones run uncompiled, slower and with all scores "
            "in memory; rows of one length, or attention=varlen"
        )
        return _attend(*given)


@cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(_attend, dynamic=False, fullgraph=True)
