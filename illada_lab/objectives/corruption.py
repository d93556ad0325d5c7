"""From a clean batch to a masked one: one t per segment, then independent masking."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from illada_lab.diffusion.forward_process import mask_tokens
from illada_lab.diffusion.randomness import RowRandom
from illada_lab.diffusion.schedule import Schedule
from illada_lab.diffusion.times import Times
from illada_lab.shapes import Segments, Tokens


@dataclass
class Corrupted:
    """A masked batch.

    Attributes:
        xt: masked tokens.
        is_masked: where.
        weight: weight of a masked position in the bound, float32 [B, L].
    """

    xt: Tokens
    is_masked: Bool[Tensor, "B L"]
    weight: Float[Tensor, "B L"]


def corrupt(
    x0: Tokens,
    segment_ids: Segments,
    is_maskable: Bool[Tensor, "B L"],
    *,
    mask: int,
    schedule: Schedule,
    times: Times,
    random: RowRandom,
) -> Corrupted:
    """Draw t for every segment and mask its tokens.

    Args:
        x0: clean tokens.
        segment_ids: 0 for padding.
        is_maskable: positions that may be masked.
        mask: id of [MASK].
        schedule: from t to the masking probability and the weight.
        times: how t is drawn.
        random: randomness of the rows.

    Source: iLLaDA, objective: one masking ratio per sequence. A segment is what the model sees as a sequence, so each has its own t
        (our reading: the paper does not say what t the two pieces of a cut sequence have; equal in expectation, and the
        gradient is less noisy).
    """
    # Before the times: of those as many are drawn as the batch's richest row has segments, and a row's masks are its own.
    noise = random.uniform(x0.shape[1])
    t_of_segment = times(random, max(1, int(segment_ids.max())))
    t = torch.gather(t_of_segment, 1, (segment_ids - 1).clamp(min=0))
    xt, is_masked = mask_tokens(x0, schedule.mask_probability(t), noise, mask, is_maskable)
    return Corrupted(xt=xt, is_masked=is_masked, weight=schedule.weight(t).float())
