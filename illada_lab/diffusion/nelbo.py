"""The negative evidence lower bound and its normalisations."""

import math

from jaxtyping import Bool, Float, Int
from torch import Tensor

LN2 = math.log(2.0)


def nelbo(
    cross_entropy: Float[Tensor, "B L"], is_masked: Bool[Tensor, "B L"], weight: Float[Tensor, "B L"]
) -> Float[Tensor, " B"]:
    """One-sample estimate of the bound on -log p(x0), in nats per sequence.

        sum_i 1[xt^i = MASK] * w(t) * -log p(x0^i | xt),   w(t) = 1/t for iLLaDA's schedule

    Its mean over t and the masks is an upper bound on -log p(x0); a uniform predictor gives exactly L log V.

    Args:
        cross_entropy: -log p(x0^i | xt) at every position, nats; anything (also inf) where nothing is masked.
        is_masked: positions that are [MASK] in xt.
        weight: weight of a masked position, `Schedule.weight(t)`.

    Source: iLLaDA, objective.
    """
    return (cross_entropy.float() * weight).masked_fill(~is_masked, 0.0).sum(-1)


def per_token(nelbo: Float[Tensor, " B"], is_maskable: Bool[Tensor, "B L"]) -> Float[Tensor, ""]:
    """Bound in nats per token: divided by the tokens that could have been masked, not by those that were.

    Dividing by the masked ones on top of the weight counts t twice, an error several public trainers make.

    Args:
        nelbo: nats per sequence.
        is_maskable: positions that could have been masked.

    Source: iLLaDA, objective (the whole sequence); LLaDA's fine-tuning divides by the response length.
    """
    return nelbo.sum() / is_maskable.sum().clamp(min=1)


def bits_per_byte(nelbo: Float[Tensor, " B"], n_bytes: Int[Tensor, " B"]) -> Float[Tensor, ""]:
    """Bound in bits per UTF-8 byte of the text, which compares models with different tokenizers."""
    return nelbo.sum() / (LN2 * n_bytes.sum())
