"""What a trained predictor believes about one short text, by enumeration of all 2^L sets of masks: no estimate anywhere.

With the log-probability of every token under every set of visible others known, the model's own likelihood, its bound and what
other normalisations of the loss would give are sums.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from illada_lab.evaluation.likelihood import mask_set_table
from illada_lab.models.protocol import Predictor

MAX_TOKENS = 12


@dataclass
class Enumeration:
    """Log-probabilities of the true tokens of one text under every set of masks.

    Attributes:
        is_masked: bool [2^L - 1, L], every set but the empty one.
        log_p: float64 of the same shape; 0 where nothing is masked.
    """

    is_masked: Tensor
    log_p: Tensor

    @property
    def length(self) -> int:
        """L, tokens that can be masked."""
        return self.is_masked.shape[1]

    @property
    def n_masked(self) -> Tensor:
        """Masked tokens of each set, int64."""
        return self.is_masked.sum(1)

    @property
    def losses(self) -> Tensor:
        """Summed cross-entropy of each set, nats."""
        return -self.log_p.sum(1)

    def mean_loss(self) -> Tensor:
        """Mean cross-entropy per masked token with exactly l masks, l = 1 ... L; nats, [L]."""
        sums = torch.zeros(self.length + 1, dtype=torch.float64).index_add(
            0, self.n_masked, self.losses / self.n_masked
        )
        return sums[1:] / torch.tensor([math.comb(self.length, n) for n in range(1, self.length + 1)])

    def log_likelihood(self) -> float:
        """log p of the text as the model writes it: one token at a time, in an order drawn uniformly.

            p(x) = mean over all L! orders of the product of p(x_i | what was revealed before)

        by dynamic programming over sets. The bound is the mean of the logarithms instead, so it can never be better (Jensen).
        """
        length = self.length
        of_set = {tuple(row): log_p for row, log_p in zip(self.is_masked.tolist(), self.log_p.tolist(), strict=True)}
        # revealed set -> log of the sum over orders of it; sets in order of size.
        known: dict[tuple[bool, ...], float] = {(True,) * length: 0.0}
        for masked in sorted(of_set, key=lambda s: -sum(s)):
            for i in range(length):
                if masked[i]:
                    after = masked[:i] + (False,) + masked[i + 1 :]
                    value = known[masked] + of_set[masked][i]
                    before = known.get(after, -math.inf)
                    high = max(before, value)
                    known[after] = high + math.log(math.exp(before - high) + math.exp(value - high))
        return known[(False,) * length] - math.lgamma(length + 1)


def enumerate_masks(predictor: Predictor, prompt: Sequence[int], text: Sequence[int]) -> Enumeration:
    """Ask a predictor about every set of masks.

    Args:
        predictor: the model.
        prompt: visible tokens in front (BOS).
        text: 1 to 12 tokens.

    Raises:
        ValueError: a text that is empty, or too long to enumerate.
    """
    length = len(text)
    if not 1 <= length <= MAX_TOKENS:
        raise ValueError(f"text = {length} tokens; every set of masks is asked about; 1 to {MAX_TOKENS}")
    is_masked, log_p = mask_set_table(predictor, torch.tensor(list(prompt), dtype=torch.long), torch.tensor(list(text)))
    return Enumeration(is_masked, log_p.masked_fill(~is_masked, 0.0))


def weightings(e: Enumeration) -> dict[str, float]:
    """Expected value of the loss under each weighting, nats per token, t uniform on (0, 1] and masks independent.

    With independent masks and t uniform the number of masks is uniform on 0 ... L, so everything is a sum over it:

    - `1/t, over the length` (iLLaDA) and `mean over the masked`, sequence by sequence, are the same in expectation: the bound;
    - `mean over the masked of the batch` pools sequences before dividing, so those with many masks count more;
    - `no weight, over the length` forgets 1/t;
    - `1/t, over the masked` counts t twice.
    """
    ce, n = e.mean_loss(), torch.arange(1, e.length + 1, dtype=torch.float64)
    return {
        "1/t, over the length": float(ce.mean()),
        "mean over the masked": float(ce.mean()),
        "mean over the masked of the batch": float((n * ce).sum() / n.sum()),
        "no weight, over the length": float((n * ce).sum() / e.length / (e.length + 1)),
        "1/t, over the masked": float((ce / n).sum()),
    }


def estimator_variances(e: Enumeration, eps: float = 1e-3) -> dict[str, float]:
    """Variance of a one-sample estimate of the bound, nats^2, by the way its masks are drawn.

    Args:
        e: the enumeration.
        eps: smallest masking ratio of independent masks; without one their variance is infinite (a single mask at t near 0).

    Returns:
        `independent`: t uniform above eps, each token masked with probability t, weight 1/t; `fixed count`: l uniform on 1 ... L,
        exactly l masks, weight L/l.
    """
    length, n = e.length, e.n_masked.double()
    subsets = torch.tensor([math.comb(length, int(k)) for k in e.n_masked], dtype=torch.float64)
    values = e.losses * length / n
    chance = 1 / (length * subsets)
    fixed = float((chance * values**2).sum() - (chance * values).sum() ** 2)
    # Integrals over t in log t, where the integrand is smooth.
    t = torch.exp(torch.linspace(math.log(eps), 0.0, 2001, dtype=torch.float64))
    chance_at = t[:, None] ** n * (1 - t[:, None]).clamp(min=0) ** (length - n)  # [times, sets]
    first = torch.trapezoid((chance_at @ e.losses) / t, t) / (1 - eps)
    second = torch.trapezoid((chance_at @ e.losses**2) / t**2, t) / (1 - eps)
    return {"independent": float(second - first**2), "fixed count": fixed}
