"""The end-of-thinking boost: a growing push towards "</think>" against endless reasoning."""

from collections.abc import Sequence
from dataclasses import dataclass

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
        ValueError: an empty sequence, a negative number or NaN.

    Source: iLLaDA, inference; amount and power as published.
    """

    sequence: Sequence[int]
    amount: float = 100.0
    power: float = 3.0

    def __post_init__(self) -> None:
        if len(self.sequence) == 0:
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
        sequence, first = list(self.sequence), 0
        for row, n_masked in enumerate(is_masked.sum(1).tolist()):
            if n_masked:
                position = int(is_masked[row].int().argmax())
                said = x[row, n_prompt:position].tolist()
                whole = x[row, n_prompt:].tolist()
                if not any(whole[i : i + len(sequence)] == sequence for i in range(len(whole))):
                    # The longest beginning of the sequence that stands right before.
                    n_said = next(n for n in range(len(sequence) - 1, -1, -1) if n == 0 or said[-n:] == sequence[:n])
                    place = position - n_prompt + 1
                    logits[first, sequence[n_said]] += self.amount * min(place / budget, 1.0) ** self.power
            first += n_masked
