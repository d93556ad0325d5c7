"""Arithmetic of a training run: FLOPs per token, and of a budget of tokens."""

from dataclasses import dataclass

from illada_lab.models import ModelSpec

# iLLaDA's pre-training (arXiv 2606.25331): Table 1 and the recipe.
PAPER = ModelSpec(
    vocab_size=155_136,
    d_model=4096,
    n_layers=32,
    n_heads=32,
    n_kv_heads=8,
    d_ffn=14_336,
    max_length=8192,
    is_tied=True,
    rope_theta=500_000.0,
    norm_eps=1e-6,
)
PAPER_LENGTH, PAPER_TOKENS = 8192, 12e12


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of training, forward and backward, per token.

    Attributes:
        matrices: 6 N, N the weights inside the layers: 2 forward, 4 backward; 4 N where they are frozen, which have no gradient.
        head: 6 V D at half of the positions, which is how many are masked on average; at all of them for the autoregressive twin.
        attention: 12 D L in each layer: two products of 2 D L, three times (half of it where attention is causal).
    """

    matrices: float
    head: float
    attention: float

    @property
    def total(self) -> float:
        """All of it; `ModelSpec.flops_per_token`, taken apart."""
        return self.matrices + self.head + self.attention

    def times(self, n_tokens: int | float) -> "Flops":
        """FLOPs of that many tokens."""
        return Flops(self.matrices * n_tokens, self.head * n_tokens, self.attention * n_tokens)


def flops_per_token(spec: ModelSpec, length: int, *, is_frozen: bool = False) -> Flops:
    """FLOPs of one token in rows of a length; rows that are cut (iLLaDA: 30 %) cost less attention, which is not counted.

    Args:
        spec: the model.
        length: tokens per row.
        is_frozen: only adapters are trained; their own products, about a hundredth, are left out.

    Source: 6 N D as in the papers (Kaplan et al. 2020), attention after PaLM (arXiv 2204.02311, Appendix B).
    """
    total = spec.flops_per_token(length, is_frozen=is_frozen)
    matrices = spec.flops_per_token(0, share_predicted=0.0, is_frozen=is_frozen)
    head = spec.flops_per_token(0, is_frozen=is_frozen) - matrices
    return Flops(matrices=matrices, head=head, attention=total - matrices - head)


def paper_budget() -> dict[str, float]:
    """iLLaDA's own pre-training on paper: 6 N D with its non-embedding N, and what attention and the head add."""
    n, flops = PAPER.n_non_embedding_parameters, flops_per_token(PAPER, PAPER_LENGTH).times(PAPER_TOKENS)
    six_nd = 6 * n * PAPER_TOKENS
    return {
        "non_embedding_parameters": float(n),
        "tokens": PAPER_TOKENS,
        "six_n_d": six_nd,
        "attention": flops.attention,
        "head": flops.head,
        "total": six_nd + flops.attention + flops.head,
    }
