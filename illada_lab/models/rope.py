"""Rotary position embedding, half-rotate."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def rotary_table(
    positions: Int[Tensor, " L"], head_size: int, theta: float
) -> tuple[Float[Tensor, "L E"], Float[Tensor, "L E"]]:
    """Cosines and sines for a list of positions, in float32.

    Angle of pair j at position p: p * theta^(-2j/E). The pair is (entry j, entry j + E/2), so both halves hold the same angles.

    Args:
        positions: place of each token inside its segment, counted from 0.
        head_size: E, even.
        theta: base of the angles.

    Source: half-rotate (GPT-NeoX) layout, as in the released LLaDA and iLLaDA code; not the interleaved one.
    """
    exponents = torch.arange(0, head_size, 2, device=positions.device, dtype=torch.float32) / head_size
    angles = positions.float()[:, None] * (theta**-exponents)[None, :]
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(
    x: Float[Tensor, "... L E"], cos: Float[Tensor, "L E"], sin: Float[Tensor, "L E"]
) -> Float[Tensor, "... L E"]:
    """Turn queries or keys by their positions; computed in float32, cast back.

    Source: LLaDA's `rope_full_precision`. Our choice for iLLaDA too, whose released class rotates in the precision of the activations:
        the same in float32, in bf16 other roundings of the same numbers.
    """
    x32 = x.float()
    first, second = x32.chunk(2, dim=-1)
    return (x32 * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)
