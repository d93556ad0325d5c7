"""The forward process: tokens turn into [MASK] independently."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from illada_lab.shapes import Positions, Tokens


def mask_tokens(
    x0: Tokens,
    mask_probability: Float[Tensor, "B L"],
    noise: Float[Tensor, "B L"],
    mask: int,
    is_maskable: Positions | None = None,
) -> tuple[Tokens, Bool[Tensor, "B L"]]:
    """q(xt | x0): replace each token by [MASK] with the given probability, independently.

    Args:
        x0: clean tokens.
        mask_probability: of each position, in [0, 1].
        noise: uniform on [0, 1); a position is masked where it lies below the probability. Passed in, not drawn, so that the
            same noise at a larger t masks a superset.
        mask: id of [MASK].
        is_maskable: positions that may be masked; None: all.

    Returns:
        xt [B, L] and is_masked [B, L].

    Source: iLLaDA, objective (forward process).
    """
    is_masked = noise < mask_probability
    if is_maskable is not None:
        is_masked &= is_maskable
    return torch.where(is_masked, mask, x0), is_masked
