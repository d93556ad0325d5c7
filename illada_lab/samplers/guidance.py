"""Asking the predictor at masked positions, with classifier-free guidance where wanted."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from illada_lab.models.protocol import Predictor
from illada_lab.shapes import Positions, Tokens


@dataclass
class Guided:
    """A predictor asked only where it matters, which counts what it is asked.

    With scale s > 0: uncond + (1 + s) (cond - uncond), where "uncond" sees the prompt masked. Counts 2 passes.

    Args:
        predictor: the model.
        guidance_scale: s; 0 is off.
        nfe: predictor passes of each row so far.
        token_forwards: positions computed for each row so far.

    Source: LLaDA, Appendix on classifier-free guidance (its published code has the same convention).
    """

    predictor: Predictor
    guidance_scale: float
    nfe: Int[Tensor, " B"]
    token_forwards: Int[Tensor, " B"] = field(init=False)

    def __post_init__(self) -> None:
        self.token_forwards = torch.zeros_like(self.nfe)

    def logits_at(
        self,
        x: Tokens,
        is_wanted: Bool[Tensor, "b L"],
        is_valid: Positions | None,
        is_prompt: Positions,
        rows: Int[Tensor, " b"],
    ) -> Float[Tensor, "M V"]:
        """Logits at the wanted positions, row by row.

        Args:
            x: the canvas of the rows asked for.
            is_wanted: where.
            is_valid: attendable positions.
            is_prompt: positions that guidance masks.
            rows: number of each row in the whole batch, for counting.
        """
        logits = _ask(self.predictor, x, is_wanted, is_valid)
        passes = 1
        if self.guidance_scale:
            blind = torch.where(is_prompt, self.predictor.tokens.mask, x)
            without = _ask(self.predictor, blind, is_wanted, is_valid)
            logits = without + (1 + self.guidance_scale) * (logits - without)
            passes = 2
        self.nfe[rows] += passes
        self.token_forwards[rows] += passes * x.shape[1]
        return logits


def _ask(predictor: Predictor, x: Tensor, is_wanted: Tensor, is_valid: Tensor | None) -> Tensor:
    """The head at the wanted positions only, where the predictor offers it."""
    at = getattr(predictor, "logits_at", None)
    return predictor(x, is_valid)[is_wanted] if at is None else at(x, is_wanted, is_valid)
