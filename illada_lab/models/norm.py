"""RMSNorm."""

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Scale a vector to unit root mean square, then by a learnt weight.

    y = w * cast(x / sqrt(mean(x^2) + eps)), the inner part in float32 and cast back *before* the weight, in this order because
    the published models do so and bf16 results depend on it.

    Args:
        size: entries of the normalised (last) axis.
        eps: added to the mean square.

    Source: LLaDA's and iLLaDA's released model code.
    """

    def __init__(self, size: int, *, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis of `x`, any leading shape."""
        x32 = x.float()
        x32 = x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * x32.to(x.dtype)
