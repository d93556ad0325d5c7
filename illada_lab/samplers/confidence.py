"""How sure a prediction is: the number that decides what is revealed next."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from illada_lab.samplers.noise import Noise


@runtime_checkable
class Confidence(Protocol):
    """Scores predictions at M masked positions; higher is revealed sooner."""

    def __call__(
        self,
        logits: Float[Tensor, "M V"],
        tokens: Int[Tensor, " M"],
        positions: Int[Tensor, " M"],
        noise: Noise,
    ) -> Float[Tensor, " M"]:
        """Confidence of every prediction.

        Args:
            logits: of the predictions.
            tokens: what was drawn from them.
            positions: column of the canvas each stands in.
            noise: randomness of the M predictions.
        """
        ...


def low_confidence(logits: Tensor, tokens: Tensor, positions: Tensor, noise: Noise) -> Tensor:
    """Probability of the predicted token; the least confident go back to mask.

    Source: LLaDA, low-confidence remasking; iLLaDA uses it throughout.
    """
    # The softmax itself, as published: exp(logit - logsumexp) differs from it in the last digits, and near 1 those decide the order.
    return logits.float().softmax(1).gather(1, tokens[:, None])[:, 0]


def margin(logits: Tensor, tokens: Tensor, positions: Tensor, noise: Noise) -> Tensor:
    """Probability of the likeliest token less that of the second: low where two answers compete.

    Source: Dream's `topk_margin`; Kim et al. 2025 (arXiv 2502.06768).
    """
    p = logits.float().softmax(1).topk(2, dim=1).values
    return p[:, 0] - p[:, 1]


def entropy(logits: Tensor, tokens: Tensor, positions: Tensor, noise: Noise) -> Tensor:
    """Minus the entropy of the prediction in nats, 0 at most.

    Source: Dream's `entropy`; EB-sampling (arXiv 2505.24857).
    """
    log_p = logits.float().log_softmax(1)
    return torch.special.entr(log_p.exp()).sum(1).neg()


def random(logits: Tensor, tokens: Tensor, positions: Tensor, noise: Noise) -> Tensor:
    """Uniform numbers: positions are revealed in a random order, as the forward process masks them.

    Source: LLaDA, random remasking.
    """
    return noise(1)[:, 0].float()


def left_to_right(logits: Tensor, tokens: Tensor, positions: Tensor, noise: Noise) -> Tensor:
    """The order of reading, as the autoregressive twin writes.

    Source: LLaDA, Appendix B.4, autoregressive sampling from the diffusion model.
    """
    return -positions.float()


RULES: dict[str, Confidence] = {
    "low_confidence": low_confidence,
    "margin": margin,
    "entropy": entropy,
    "random": random,
    "left_to_right": left_to_right,
}
# Rules whose numbers are probabilities: what thresholds are compared with.
PROBABILITIES = ("low_confidence", "margin")
# Confidence of what is put off to the end, whatever the rule: below everything but -inf, which means "not eligible".
LAST = -1e30
