"""How many predictions are revealed at each step, and which."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def transfer_counts(n_masked: Int[Tensor, " B"], n_steps: int) -> Int[Tensor, "B S"]:
    """Fixed quota: masks spread evenly over the steps, the remainder going to the first ones.

    Args:
        n_masked: masks of each row at the start of a block.
        n_steps: steps of the block.

    Source: LLaDA's published sampler.
    """
    base, rest = n_masked // n_steps, n_masked % n_steps
    is_early = torch.arange(n_steps, device=n_masked.device)[None, :] < rest[:, None]
    return base[:, None] + is_early.long()


def most_confident(confidence: Float[Tensor, "B L"], counts: Int[Tensor, " B"]) -> Bool[Tensor, "B L"]:
    """The `counts` most confident positions of each row; of equal ones the first.

    Args:
        confidence: -inf where nothing can be revealed.
        counts: how many per row, never more than are eligible.
    """
    order = confidence.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return (rank < counts[:, None]) & (confidence > -torch.inf)
