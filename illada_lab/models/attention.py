"""Scaled dot-product attention for padded rows and for packed segments, and the layer part around it."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from illada_lab.models.cache import LayerCache
from illada_lab.models.linear import Linear
from illada_lab.models.norm import RMSNorm
from illada_lab.models.rope import rotate
from illada_lab.models.segments import PackedSegments
from illada_lab.models.spec import ModelSpec

Table = tuple[Tensor, Tensor]
# Attention scores that are held in memory where that is faster (see `attend`): 2^25 take 128 MiB a layer in float32. Our choice.
MAX_SCORES = 2**25


def attend(
    q: Float[Tensor, "B H L E"],
    k: Float[Tensor, "B K M E"],
    v: Float[Tensor, "B K M E"],
    is_visible: Bool[Tensor, "B 1 #L M"] | None = None,
    is_causal: bool = False,
) -> Float[Tensor, "B H L E"]:
    """Attention inside padded rows: softmax(q k' / sqrt(E)) v over the visible keys.

    Args:
        q: queries.
        k: keys, of the same positions or of more; query head i reads key/value head i // (H / K).
        v: values.
        is_visible: which key each query sees; None: all of the row (or all before it where `is_causal`).
        is_causal: only without `is_visible`, which already says it.
    """
    is_grouped = q.shape[1] != k.shape[1]
    is_causal = is_causal and is_visible is None
    if v.device.type == "cpu" and v.dtype == torch.bfloat16:
        n_scores = q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2]
        if torch.compiler.is_compiling() and n_scores <= MAX_SCORES:
            return _attend_plainly(q, k, v, is_visible, is_causal)
        # The fused bf16 kernel's backward pass takes 2.5 times as long as the float32 one on processors without bf16 matrix units.
        # Autocast is off because it would undo the cast.
        with torch.autocast("cpu", enabled=False):
            q, k, v32 = q.float(), k.float(), v.float()
            out = F.scaled_dot_product_attention(q, k, v32, is_visible, is_causal=is_causal, enable_gqa=is_grouped)
        return out.to(v.dtype)
    return F.scaled_dot_product_attention(q, k, v, is_visible, is_causal=is_causal, enable_gqa=is_grouped)


def _attend_plainly(q: Tensor, k: Tensor, v: Tensor, is_visible: Tensor | None, is_causal: bool) -> Tensor:
    """The same with all scores in memory: two bf16 products, what is between them in float32 and fused by the compiler."""
    if q.shape[1] != k.shape[1]:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = (q.to(v.dtype) @ k.to(v.dtype).transpose(-1, -2)).float() * q.shape[-1] ** -0.5
    if is_causal:
        is_visible = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
    if is_visible is not None:
        scores = scores.masked_fill(~is_visible, -torch.inf)
    return scores.softmax(-1).to(v.dtype) @ v


def attend_packed(
    q: Float[Tensor, "N H E"],
    k: Float[Tensor, "N K E"],
    v: Float[Tensor, "N K E"],
    segments: PackedSegments,
    is_causal: bool = False,
) -> Float[Tensor, "N H E"]:
    """Attention inside packed segments, none across: segments of equal length become one dense batch each.

    Args:
        q: queries of all segments, one after the other.
        k: keys.
        v: values.
        segments: where the segments lie.
        is_causal: no position sees a later one of its segment.
    """
    out = torch.empty_like(q)
    for index in segments.groups:
        group = (tensor[index].transpose(1, 2) for tensor in (q, k, v))  # [S_group, heads, length, E]
        out[index] = attend(*group, is_causal=is_causal).transpose(1, 2)
    return out


class Attention(nn.Module):
    """Grouped-query attention with rotary positions and no biases.

    Args:
        spec: sizes; `n_kv_heads` key/value heads serve `n_heads` query heads.

    Source: iLLaDA, Table 1: 8 instead of LLaDA's 32 key/value heads, so that a cache is four times smaller.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.head_size, self.is_causal = spec.head_size, spec.is_causal
        d_kv = spec.n_kv_heads * spec.head_size
        self.q_proj = Linear(spec.d_model, spec.d_model)
        self.k_proj = Linear(spec.d_model, d_kv)
        self.v_proj = Linear(spec.d_model, d_kv)
        self.o_proj = Linear(spec.d_model, spec.d_model)
        if spec.has_qk_norm:
            self.q_norm = RMSNorm(spec.head_size, eps=spec.norm_eps)
            self.k_norm = RMSNorm(spec.head_size, eps=spec.norm_eps)
        else:
            self.q_norm = self.k_norm = nn.Identity()

    def forward(
        self,
        h: Tensor,
        table: Table,
        visible: Tensor | PackedSegments | None,
        cache: LayerCache | None = None,
        start: int = 0,
        columns: slice | None = None,
    ) -> Tensor:
        """Mix positions.

        Args:
            h: [B, L, D] padded rows, or [N, D] packed segments; with a cache a window [B, W, D] of the rows.
            table: cosines and sines [L, E] (packed: [N, E]; a window's: [W, E]).
            visible: bool [B, 1, L, L], None (all), or the segments of a packed batch; of a window [B, 1, 1, L].
            cache: keys and values of whole rows; those of the window are replaced in it, and all of them are attended to.
            start: first position of the window.
            columns: of `h` (not packed), that ask; all of it is attended to. None: all ask.
        """
        own, own_table = h, table
        if columns is not None:
            own, own_table = h[:, columns], (table[0][columns], table[1][columns])
            if isinstance(visible, Tensor) and visible.shape[2] > 1:
                visible = visible[:, :, columns]
        # One head axis behind the positions: [..., heads, E]; transposed so that positions and entries are last for RoPE.
        q, k, v = (
            proj(source).unflatten(-1, (-1, self.head_size)).transpose(-3, -2)
            for proj, source in ((self.q_proj, own), (self.k_proj, h), (self.v_proj, h))
        )
        q, k = rotate(self.q_norm(q), *own_table), rotate(self.k_norm(k), *table)
        if cache is not None:
            cache.write(start, k, v)
            k, v = cache.keys, cache.values
        if isinstance(visible, PackedSegments):
            out = attend_packed(*(x.transpose(-3, -2) for x in (q, k, v)), segments=visible, is_causal=self.is_causal)
        else:
            out = attend(q, k, v, visible, self.is_causal).transpose(-3, -2)
        return self.o_proj(out.flatten(-2))
