"""From logits to tokens."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from illada_lab.samplers.noise import Noise


def draw(
    logits: Float[Tensor, "M V"],
    temperature: float,
    noise: Noise | None,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Int[Tensor, " M"]:
    """Argmax at temperature 0, else a sample of softmax(logits / temperature), cut to its likeliest tokens where wanted.

    Sampled by the Gumbel-max rule in float64: in float32 the noise is cut off and the draw becomes too sharp.

    Args:
        logits: -inf for what cannot be drawn.
        temperature: 0 or more.
        noise: randomness of the M predictions (`RowNoise.at`); at temperature 0 None will do.
        top_k: keep the k likeliest, of equal ones the first; None: all.
        top_p: keep the likeliest tokens whose probabilities, at this temperature, first reach p together; None: all.

    Source: LLaDA's published sampler; Zheng et al. 2024 on the precision of Gumbel draws.
    """
    if temperature == 0:
        return logits.argmax(1)
    scaled = logits.double() / temperature
    if top_k is not None and top_k < scaled.shape[1]:
        least = scaled.topk(top_k, dim=1).values[:, -1:]
        # Not topk's own choice: which of equal ones it takes differs between devices.
        is_equal = scaled == least
        n_room = top_k - (scaled > least).sum(1, keepdim=True)
        is_cut = (scaled < least) | (is_equal & (is_equal.cumsum(1) > n_room))
        scaled = scaled.masked_fill(is_cut, -torch.inf)
    if top_p is not None and top_p < 1:
        value, order = scaled.sort(dim=1, descending=True, stable=True)
        p = value.softmax(1)
        # What stands before a token decides, so the likeliest one is always kept.
        is_cut = p.cumsum(1) - p >= top_p
        scaled = scaled.masked_fill(torch.zeros_like(is_cut).scatter(1, order, is_cut), -torch.inf)
    assert noise is not None, "a draw needs noise"
    uniform = noise(logits.shape[1])
    return (scaled - torch.log(-torch.log(uniform.clamp(min=1e-300)))).argmax(1)
