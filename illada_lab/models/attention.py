"""Grouped-query attention: the layer part around the kernels of `illada_lab.models.kernels`."""

from torch import Tensor, nn

from illada_lab.models.cache import LayerCache
from illada_lab.models.kernels import View
from illada_lab.models.linear import Linear
from illada_lab.models.norm import RMSNorm
from illada_lab.models.rope import rotate
from illada_lab.models.spec import ModelSpec

Table = tuple[Tensor, Tensor]


class Attention(nn.Module):
    """Grouped-query attention with rotary positions and no biases.

    Args:
        spec: sizes; `n_kv_heads` key/value heads serve `n_heads` query heads.

    Source: iLLaDA, Table 1: 8 instead of LLaDA's 32 key/value heads, so that a cache is four times smaller.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.head_size = spec.head_size
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
        view: View,
        cache: LayerCache | None = None,
        start: int | Tensor = 0,
        columns: slice | None = None,
    ) -> Tensor:
        """Mix positions.

        Args:
            h: [B, L, D]: rows, or packed segments as one row [1, N, D]; with a cache a window [B, W, D] of the rows.
            table: cosines and sines [L, E] (a window's: [W, E]).
            view: attention among the positions that see each other.
            cache: keys and values of whole rows; those of the window are replaced in it, and all of them are attended to.
            start: first position of the window.
            columns: of `h`, that ask (`view` is that of these queries); all of it is attended to. None: all ask.
        """
        own, own_table = h, table
        if columns is not None:
            own, own_table = h[:, columns], (table[0][columns], table[1][columns])
        # Heads before positions: [B, heads, L, E].
        q, k, v = (
            proj(source).unflatten(-1, (-1, self.head_size)).transpose(1, 2)
            for proj, source in ((self.q_proj, own), (self.k_proj, h), (self.v_proj, h))
        )
        q, k = rotate(self.q_norm(q), *own_table), rotate(self.k_norm(k), *table)
        if cache is not None:
            cache.write(start, k, v)
            k, v = cache.keys, cache.values
        return self.o_proj(view(q, k, v).transpose(1, 2).flatten(-2))
