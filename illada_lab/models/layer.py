"""One transformer layer."""

import torch.nn.functional as F
from torch import Tensor, nn

from illada_lab.models.attention import Attention, Table
from illada_lab.models.cache import LayerCache
from illada_lab.models.kernels import View
from illada_lab.models.linear import Linear
from illada_lab.models.norm import RMSNorm
from illada_lab.models.spec import ModelSpec


class SwiGLU(nn.Module):
    """Gated feed-forward part: down(silu(gate(h)) * up(h)), no biases."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.gate_proj = Linear(spec.d_model, spec.d_ffn)
        self.up_proj = Linear(spec.d_model, spec.d_ffn)
        self.down_proj = Linear(spec.d_ffn, spec.d_model)

    def forward(self, h: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return self.down_proj(F.silu(self.gate_proj(h)) * self.up_proj(h))


class Layer(nn.Module):
    """Pre-norm layer: h + attention(norm(h)), then h + swiglu(norm(h)). Module names are those of the released iLLaDA files."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(spec.d_model, eps=spec.norm_eps)
        self.self_attn = Attention(spec)
        self.post_attention_layernorm = RMSNorm(spec.d_model, eps=spec.norm_eps)
        self.mlp = SwiGLU(spec)

    def forward(
        self,
        h: Tensor,
        table: Table,
        view: View,
        cache: LayerCache | None = None,
        start: int | Tensor = 0,
        columns: slice | None = None,
    ) -> Tensor:
        """[B, L, D] (packed: [1, N, D]; with a cache a window [B, W, D]) -> the same shape, or that of the columns asked for."""
        mixed = self.self_attn(self.input_layernorm(h), table, view, cache, start, columns)
        h = (h if columns is None else h[:, columns]) + mixed
        return h + self.mlp(self.post_attention_layernorm(h))
