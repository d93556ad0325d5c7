"""Sizes of a mask predictor: what can be known of a model before it exists."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Shape of a mask predictor and what follows from it.

    Args:
        vocab_size: V, rows of the embedding.
        d_model: D, width of the residual stream.
        n_layers: number of layers.
        n_heads: H, query heads; the head size is E = D / H.
        n_kv_heads: K, key/value heads (grouped-query attention where K < H).
        d_ffn: inner width of the SwiGLU feed-forward part.
        max_length: longest sequence, in tokens.
        is_tied: the head shares the embedding's weights.
        rope_theta: base of the rotary angles.
        norm_eps: epsilon inside RMSNorm.
        has_qk_norm: RMSNorm over each query and key head (neither paper has it; LLaDA-MoE does).
        is_causal: attend only backwards; true for the autoregressive twin, never for a mask predictor.
        init_std: standard deviation of the initial weights.

    Raises:
        ValueError: the numbers do not fit together; all problems in one message.

    Source: iLLaDA, Table 1 (which sizes exist); the twin is our choice: one network with one flag differs in nothing else.
    """

    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_ffn: int
    max_length: int
    is_tied: bool
    rope_theta: float
    norm_eps: float
    has_qk_norm: bool = False
    is_causal: bool = False
    init_std: float = 0.02

    def __post_init__(self) -> None:
        if problems := self.problems(asdict(self)):
            raise ValueError("; ".join(problems))

    @staticmethod
    def problems(values: dict[str, Any]) -> list[str]:
        """What is wrong with a set of sizes, one sentence each; sizes that are None (not known yet) are passed over."""
        found = []
        for key in ("vocab_size", "d_model", "n_layers", "n_heads", "n_kv_heads", "d_ffn", "max_length"):
            size = values.get(key)
            if size is not None and size < 1:
                found.append(f"{key} = {size}; a size is a whole number; 1 or more")
        d_model, n_heads, n_kv_heads = (values.get(key) or 0 for key in ("d_model", "n_heads", "n_kv_heads"))
        if found or not (d_model and n_heads and n_kv_heads):
            return found
        if d_model % n_heads or (d_model // n_heads) % 2:
            legal = [h for h in range(1, d_model // 2 + 1) if d_model % h == 0 and (d_model // h) % 2 == 0]
            nearest: Any = sorted(sorted(legal, key=lambda h: abs(h - n_heads))[:3])
            if not legal:  # an odd width
                nearest = f"none; d_model={max(1, round(d_model / (2 * n_heads))) * 2 * n_heads} goes with {n_heads}"
            found.append(
                f"n_heads = {n_heads}; d_model = {d_model} must split into heads of one even size (RoPE turns pairs); "
                f"nearest: {nearest}"
            )
        if n_heads % n_kv_heads:
            legal = [k for k in range(1, n_heads + 1) if n_heads % k == 0]
            found.append(f"n_kv_heads = {n_kv_heads}; must divide n_heads = {n_heads}; one of {legal}")
        for key, usual in (("rope_theta", 10_000.0), ("norm_eps", 1e-6), ("init_std", 0.02)):
            value = values.get(key)
            if value is not None and value <= 0:
                found.append(f"{key} = {value}; must be positive; for example {usual}")
        return found

    @property
    def head_size(self) -> int:
        """E, entries of one attention head."""
        return self.d_model // self.n_heads

    @property
    def n_layer_parameters(self) -> int:
        """Parameters of one layer: four attention matrices, three of the SwiGLU, the norms."""
        attention = self.d_model * self.head_size * 2 * (self.n_heads + self.n_kv_heads)
        norms = 2 * self.d_model + (2 * self.head_size if self.has_qk_norm else 0)
        return attention + 3 * self.d_model * self.d_ffn + norms

    @property
    def n_parameters(self) -> int:
        """All parameters; a tied head counts once."""
        return self.vocab_size * self.d_model * (1 if self.is_tied else 2) + self.n_non_embedding_parameters

    @property
    def n_non_embedding_parameters(self) -> int:
        """Parameters outside of the embedding and the head, the N of the papers' 6 N D."""
        return self.n_layers * self.n_layer_parameters + self.d_model

    @property
    def cache_values_per_token(self) -> int:
        """Numbers that a key/value cache holds per token: 65,536 for iLLaDA 8B, four times that for LLaDA 8B."""
        return 2 * self.n_layers * self.n_kv_heads * self.head_size

    @property
    def share_predicted(self) -> float:
        """Share of the positions the head is applied to in training: the masked ones, E[t] = 1/2; the twin's objective takes all."""
        return 1.0 if self.is_causal else 0.5

    def flops_per_token(self, length: int, share_predicted: float | None = None, *, is_frozen: bool = False) -> float:
        """Floating-point operations of one training step (forward and backward), per token.

        Args:
            length: tokens that see each other, for the two products inside attention.
            share_predicted: share of the positions the head is applied to; None: the model's own.
            is_frozen: only adapters are trained; their own products, about a hundredth, are left out.

        Returns:
            6 per matrix weight and token (4 where it is frozen and has no gradient), plus 12 D L per layer for attention (each of its two
            products costs 2 D L forward; half of it where a position sees only what stands before it).
            Source: the 6 N D rule of the papers; attention and the head are counted because at toy size they are not small.
        """
        share = self.share_predicted if share_predicted is None else share_predicted
        matrices = self.n_layers * (self.n_layer_parameters - 2 * self.d_model)
        attention = 12 * self.n_layers * self.d_model * length * (0.5 if self.is_causal else 1.0)
        return (4.0 if is_frozen else 6.0) * (matrices + share * self.vocab_size * self.d_model) + attention
