"""The end-of-thinking boost: a growing push towards "</think>" against endless reasoning."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class EndOfThinking:
    """Adds `amount * min(r / N, 1)^power` to a logit at the first masked position of the block.

    r is that position's place in the response, counted from 1, N the budget. The logit is that of the token which continues the
    sequence: its first one, or the next where a part of it stands right before. Nothing once the sequence is in the response.

    Args:
        sequence: token ids of "</think>", one or more.
        amount: logits at the end of the budget.
        power: how late the push comes; 3, and 1 for HumanEval.

    Raises:
        ValueError: a sequence that is none of ids or empty, a negative number or NaN.

    Source: iLLaDA, inference; amount and power as published.
    """

    sequence: Sequence[int]
    amount: float = 100.0
    power: float = 3.0

    def __post_init__(self) -> None:
        given = self.sequence
        if not isinstance(given, Sequence) or not all(isinstance(token, int) for token in given):
            raise ValueError(f"end_of_thinking.sequence = {given!r}; not token ids; the ids of </think>, [id, id, ...]")
        if len(given) == 0:
            raise ValueError("end_of_thinking.sequence = []; nothing to say; the token ids of </think>")
        if not (self.amount >= 0 and self.power >= 0):  # NaN is neither
            raise ValueError(
                f"end_of_thinking.amount = {self.amount}, power = {self.power}; 0 or more each; 100 and 3 are the published ones"
            )

    def __call__(
        self,
        logits: Float[Tensor, "M V"],
        x: Int[Tensor, "b L"],
        is_masked: Bool[Tensor, "b L"],
        n_prompt: int,
        budget: int,
    ) -> None:
        """Change the logits of the masked positions in place.

        Args:
            logits: of the masked positions, row by row.
            x: the canvas.
            is_masked: masked positions of the block.
            n_prompt: columns of the prompt.
            budget: N.
        """
        if not len(logits):
            return
        # For all rows at once, and without a look at the device: a response can be long, and every step comes here.
        sequence, response = x.new_tensor(list(self.sequence)), x[:, n_prompt:]
        n_masked, position = is_masked.sum(1), is_masked.int().argmax(1)
        place = position - n_prompt + 1
        is_due = n_masked > 0
        if response.shape[1] >= len(sequence):
            is_due = is_due & ~(response.unfold(1, len(sequence), 1) == sequence).all(2).any(1)
        n_said = torch.zeros_like(position)  # of the longest beginning of the sequence that stands right before
        for n in range(1, len(sequence)):
            before = position[:, None] + torch.arange(-n, 0, device=x.device)
            stands = (x.gather(1, before.clamp(min=0)) == sequence[:n]).all(1)
            n_said = torch.where(stands & (place > n), n, n_said)
        push = torch.where(is_due, self.amount * (place.double() / budget).clamp(0.0, 1.0) ** self.power, 0.0)
        first = (n_masked.cumsum(0) - n_masked).clamp(max=len(logits) - 1)
        logits.index_put_((first, sequence[n_said]), push.to(logits.dtype), accumulate=True)
