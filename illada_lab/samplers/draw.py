"""From logits to tokens."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def draw(logits: Float[Tensor, "M V"], temperature: float, generator: torch.Generator | None) -> Int[Tensor, " M"]:
    """Argmax at temperature 0, else a sample of softmax(logits / temperature).

    Sampled by the Gumbel-max rule in float64: in float32 the noise is cut off and the draw becomes too sharp.

    Source: LLaDA's published sampler; Zheng et al. 2024 on the precision of Gumbel draws.
    """
    if temperature == 0:
        return logits.argmax(1)
    uniform = torch.rand(logits.shape, dtype=torch.float64, generator=generator).to(logits.device)
    return (logits.double() / temperature - torch.log(-torch.log(uniform.clamp(min=1e-300)))).argmax(1)
