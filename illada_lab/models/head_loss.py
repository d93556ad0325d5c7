"""Cross-entropy behind a large vocabulary, without the logits of all positions in memory."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from illada_lab.models.linear import linear

# Logits alive at once, in entries: 2^25 float32 entries are 128 MiB. Our choice: a slice of the vocabulary that keeps a GPU busy, and
# small beside the activations of any model whose vocabulary makes slices necessary.
MAX_LOGITS = 2**25


def sliced_losses(
    h: Float[Tensor, "M D"], head_weight: Float[Tensor, "V D"], targets: Int[Tensor, " M"], max_logits: int = MAX_LOGITS
) -> Float[Tensor, " M"]:
    """-log p(target) = log sum_v exp(h w_v) - h w_target in nats, the sum running over slices of the vocabulary.

    The logits of a slice are dropped and computed again in the backward pass. Products in the precision of autocast, or of `h`; all
    else in float32. Slices of the vocabulary, not of the positions: each row of the weight's gradient is written once, where slices of
    the positions would add up one [V, D] gradient each.

    Args:
        h: hidden states of the predicted positions.
        head_weight: of the head.
        targets: tokens to predict.
        max_logits: entries alive at once; decides the slices, not the result.

    Returns:
        Losses, float32. They can be differentiated once.

    Source: our choice. `torch.nn.functional.linear_cross_entropy` (torch 2.13) with `reduction="none"` rounds each loss to the precision
        of its input, and older versions lack it; Liger's fused loss scales all gradients by one number, but ours have a weight each.
    """
    device = h.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else h.dtype
    size = max(1, max_logits // max(1, len(targets)))
    return _SlicedLosses.apply(h, head_weight, targets, size, dtype)  # type: ignore[return-value]


class _SlicedLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, targets: Tensor, size: int, dtype: torch.dtype) -> Tensor:
        cast = h.to(dtype)
        log_sum = torch.full(targets.shape, -torch.inf, device=h.device)
        picked = torch.zeros(targets.shape, device=h.device)
        for start, part in _slices(weight, size, dtype):
            logits = linear(cast, part).float()
            place, is_inside = _places(targets, start, len(part))
            picked = torch.where(is_inside, logits.gather(1, place[:, None])[:, 0], picked)
            highest = logits.amax(1)
            summed = logits.sub_(highest[:, None]).exp_().sum(1)
            log_sum = torch.logaddexp(log_sum, summed.log_().add_(highest))
        ctx.save_for_backward(h, weight, targets, log_sum)
        ctx.size, ctx.dtype = size, dtype
        return log_sum - picked

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        h, weight, targets, log_sum = ctx.saved_tensors
        cast = h.to(ctx.dtype)
        of_h = torch.zeros_like(h, dtype=torch.float32) if ctx.needs_input_grad[0] else None
        of_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        for start, part in _slices(weight, ctx.size, ctx.dtype):
            # d loss / d logit = p - 1[target], times the gradient of the loss
            share = linear(cast, part).float().sub_(log_sum[:, None]).exp_()
            place, is_inside = _places(targets, start, len(part))
            share.scatter_add_(1, place[:, None], -is_inside[:, None].float())
            share = share.mul_(gradient[:, None]).to(ctx.dtype)
            if of_h is not None:
                of_h += linear(share, part.t())
            if of_weight is not None:
                of_weight[start : start + len(part)] = linear(share.t(), cast.t())
        return None if of_h is None else of_h.to(h.dtype), of_weight, None, None, None


def _slices(weight: Tensor, size: int, dtype: torch.dtype) -> Any:
    """First token of each slice of the vocabulary, and its weights."""
    for start in range(0, len(weight), size):
        yield start, weight[start : start + size].to(dtype)


def _places(targets: Tensor, start: int, size: int) -> tuple[Tensor, Tensor]:
    """Place of each target in a slice (any, where it is not in it), and whether it is in it."""
    place = targets - start
    return place.clamp(0, size - 1), (place >= 0) & (place < size)
