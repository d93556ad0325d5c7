"""How sure a prediction is: the number that decides what is revealed next."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class Confidence(Protocol):
    """Scores predictions at M masked positions; higher is revealed sooner."""

    def __call__(
        self, logits: Float[Tensor, "M V"], tokens: Int[Tensor, " M"], generator: torch.Generator | None
    ) -> Float[Tensor, " M"]:
        """Confidence of every prediction."""
        ...


def low_confidence(
    logits: Float[Tensor, "M V"], tokens: Int[Tensor, " M"], generator: torch.Generator | None
) -> Float[Tensor, " M"]:
    """Probability of the predicted token; the least confident go back to mask.

    Source: LLaDA, low-confidence remasking; iLLaDA uses it throughout.
    """
    return torch.exp(logits.gather(1, tokens[:, None])[:, 0].float() - logits.float().logsumexp(1))


def random(
    logits: Float[Tensor, "M V"], tokens: Int[Tensor, " M"], generator: torch.Generator | None
) -> Float[Tensor, " M"]:
    """Uniform numbers: positions are revealed in a random order, as the forward process masks them.

    Source: LLaDA, random remasking.
    """
    return torch.rand(len(tokens), generator=generator).to(logits.device)


RULES: dict[str, Confidence] = {"low_confidence": low_confidence, "random": random}
