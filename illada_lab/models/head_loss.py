"""Cross-entropy behind a large vocabulary, without the logits of all positions in memory."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from illada_lab.models.linear import linear

# Logits alive at once, in entries: 2^25 float32 entries are 128 MiB. Our choice: a slice of the vocabulary that keeps a GPU busy, and
# small beside the activations of any model whose vocabulary makes slices necessary.
MAX_LOGITS = 2**25
# Slices are as wide as a multiple of this: products whose rows do not start at multiples of 16 bytes go to slow kernels of a GPU.
# H200, bf16, vocabulary 155,136, 3,472 to 3,671 positions of width 4096: slices of 9,664 tokens 31 ms, of 9,578 or 9,140 74 to 84 ms.
WIDTH_OF_SLICES = 64


def sliced_losses(
    h: Float[Tensor, "M D"],
    head_weight: Float[Tensor, "V D"],
    targets: Int[Tensor, " M"],
    max_logits: int = MAX_LOGITS,
    is_compiled: bool = False,
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
        is_compiled: what happens to the logits of a slice is one kernel instead of ten. On an H200 launching the ten took longer than
            running them.

    Returns:
        Losses, float32. They can be differentiated once.

    Source: our choice. `torch.nn.functional.linear_cross_entropy` (torch 2.13) with `reduction="none"` rounds each loss to the precision
        of its input, and older versions lack it; Liger's fused loss scales all gradients by one number, but ours have a weight each.
    """
    device = h.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else h.dtype
    size = max(1, max_logits // max(1, len(targets)))
    size -= size % WIDTH_OF_SLICES if size > WIDTH_OF_SLICES else 0
    return _SlicedLosses.apply(h, head_weight, targets, size, dtype, is_compiled)  # type: ignore[return-value]


class _SlicedLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h: Tensor, weight: Tensor, targets: Tensor, size: int, dtype: torch.dtype, is_compiled: bool
    ) -> Tensor:
        cast, sum_up = h.to(dtype), _compiled(_sum_up) if is_compiled else _sum_up
        log_sum = torch.full(targets.shape, -torch.inf, device=h.device)
        picked = torch.zeros(targets.shape, device=h.device)
        for start, part in slices(weight, size, dtype):
            place, is_inside = _places(targets, start, len(part))
            of_slice, at_place = sum_up(cast, part, place)
            log_sum = torch.logaddexp(log_sum, of_slice)
            picked = torch.where(is_inside, at_place, picked)
        ctx.save_for_backward(h, weight, targets, log_sum)
        ctx.size, ctx.dtype, ctx.is_compiled = size, dtype, is_compiled
        return log_sum - picked

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        h, weight, targets, log_sum = ctx.saved_tensors
        cast, shares = h.to(ctx.dtype), _compiled(_shares) if ctx.is_compiled else _shares
        of_h = torch.zeros_like(h, dtype=torch.float32) if ctx.needs_input_grad[0] else None
        of_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        for start, part in slices(weight, ctx.size, ctx.dtype):
            place, is_inside = _places(targets, start, len(part))
            share = shares(cast, part, log_sum, place, is_inside, gradient)
            if of_h is not None:
                of_h += linear(share, part.t())
            if of_weight is not None:
                of_weight[start : start + len(part)] = linear(share.t(), cast.t())
        return None if of_h is None else of_h.to(h.dtype), of_weight, None, None, None, None


def _sum_up(cast: Tensor, part: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """log sum exp of the logits of a slice, and the logits at the places."""
    logits = linear(cast, part).float()
    at_place = logits.gather(1, place[:, None])[:, 0]
    highest = logits.amax(1)
    return logits.sub_(highest[:, None]).exp_().sum(1).log_().add_(highest), at_place


def _shares(cast: Tensor, part: Tensor, log_sum: Tensor, place: Tensor, is_inside: Tensor, gradient: Tensor) -> Tensor:
    """d loss / d logit = p - 1[target], times the gradient of the loss; in the precision of the products."""
    share = linear(cast, part).float().sub_(log_sum[:, None]).exp_()
    if torch.compiler.is_compiling():  # a scatter would be a kernel of its own, and keep the others apart
        is_target = (torch.arange(len(part), device=place.device) == place[:, None]) & is_inside[:, None]
        share = share - is_target.float()
    else:
        share.scatter_add_(1, place[:, None], -is_inside[:, None].float())
    return share.mul_(gradient[:, None]).to(cast.dtype)


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    # For any number of positions, which differs from step to step, and slices as wide as these leave room for.
    return torch.compile(function, dynamic=True)


def slices(weight: Tensor, size: int, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
    """First token of each slice of the vocabulary, and its weights."""
    for start in range(0, len(weight), size):
        yield start, weight[start : start + size].to(dtype)


def _places(targets: Tensor, start: int, size: int) -> tuple[Tensor, Tensor]:
    """Place of each target in a slice (any, where it is not in it), and whether it is in it."""
    place = targets - start
    return place.clamp(0, size - 1), (place >= 0) & (place < size)
