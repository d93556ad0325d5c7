"""How likely a response is under a masked diffusion model: the bound by Monte Carlo and by enumeration."""

import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from illada_lab.models.protocol import Predictor
from illada_lab.samplers.asker import Asker

# Positions per forward pass; our choice: small enough for a laptop, large enough to fill a core.
BATCH_TOKENS = 16_384
MAX_ENUMERATED = 12


def stratified_counts(length: int, n_samples: int, generator: torch.Generator | None = None) -> Int[Tensor, " n"]:
    """Numbers of masks l in 1 ... L, each uniform, together as even as can be.

    One uniform offset and equal steps: l_i = 1 + floor(L * frac(u + i / n)). Unbiased for every L and n; rounding, as published, is
    biased where L is no multiple of n.

    Source: LLaDA, Appendix B.5 (l uniform); the stratification without rounding is our mend.
    """
    offset = torch.rand((), generator=generator, dtype=torch.float64)
    place = (offset + torch.arange(n_samples, dtype=torch.float64) / n_samples) % 1
    return 1 + (place * length).long().clamp(max=length - 1)


def monte_carlo_log_likelihood(
    predictor: Predictor,
    prompt: Int[Tensor, " P"],
    response: Int[Tensor, " R"],
    n_samples: int = 128,
    guidance_scale: float = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[float, float]:
    """Monte-Carlo estimate of the bound on log p(response | prompt).

        E_l [ (L / l) sum over the l masked of log p ],   l uniform on 1 ... L, positions without replacement

    Args:
        predictor: the model.
        prompt: visible tokens, int64, may be empty.
        response: tokens to score, int64.
        n_samples: mask sets.
        guidance_scale: classifier-free guidance; 0 is off.
        generator: randomness (CPU); None: torch's global one.

    Returns:
        (value, standard error), nats. Stratification makes the true error smaller than the standard error says.

    Raises:
        ValueError: an empty response, fewer than one sample.

    Source: LLaDA, Appendix B.5, equation for the lower-variance estimator.
    """
    _check(response)
    if n_samples < 1:
        raise ValueError(f"n_samples = {n_samples}; at least one mask set; 1 or more")
    length = len(response)
    n_samples = 1 if length == 1 else n_samples
    counts = stratified_counts(length, n_samples, generator)
    scores = torch.rand(n_samples, length, generator=generator)
    is_masked = scores.argsort(1).argsort(1) < counts[:, None]
    values = _masked_sums(predictor, prompt, response, is_masked, guidance_scale) * length / counts
    stderr = float(values.std() / math.sqrt(n_samples)) if n_samples > 1 else 0.0
    return float(values.mean()), stderr


def exact_log_likelihood(
    predictor: Predictor, prompt: Int[Tensor, " P"], response: Int[Tensor, " R"], guidance_scale: float = 0.0
) -> float:
    """The bound on log p(response | prompt), nats, by enumeration of all mask sets.

    It is also the mean over all orders of the chain rule: the any-order value.

    Args:
        predictor: the model.
        prompt: visible tokens.
        response: at most 12 tokens (4095 mask sets).
        guidance_scale: classifier-free guidance; 0 is off.

    Raises:
        ValueError: an empty response, or one too long to enumerate.
    """
    _check(response)
    length = len(response)
    if length > MAX_ENUMERATED:
        raise ValueError(f"response = {length} tokens; 2^{length} mask sets are too many; at most {MAX_ENUMERATED}")
    sets = torch.tensor([s for s in itertools.product((False, True), repeat=length) if any(s)])
    counts = sets.sum(1)
    sums = _masked_sums(predictor, prompt, response, sets, guidance_scale)
    # All sets of a size are equally likely, and sizes are uniform: weight (L / l) / (L * C(L, l)).
    weights = torch.tensor([1 / (int(k) * math.comb(length, int(k))) for k in counts], dtype=torch.float64)
    return float((weights * sums).sum())


@torch.no_grad()
def _masked_sums(
    predictor: Predictor, prompt: Tensor, response: Tensor, is_masked: Bool[Tensor, "n R"], guidance_scale: float
) -> Tensor:
    """Sum of log p of the true tokens at the masked positions, for each mask set; float64 [n]."""
    n_prompt, width = len(prompt), len(prompt) + len(response)
    clean = torch.cat((prompt, response))
    per_pass = max(1, BATCH_TOKENS // width)
    sums = []
    for part in is_masked.to(clean.device).split(per_pass):
        wanted = torch.cat((part.new_zeros(len(part), n_prompt), part), 1)
        x = torch.where(wanted, predictor.tokens.mask, clean)
        rows = torch.arange(len(part), device=clean.device)
        is_prompt = torch.zeros_like(wanted)
        is_prompt[:, :n_prompt] = True
        logits = Asker(predictor, guidance_scale, torch.zeros_like(rows)).logits_at(x, wanted, None, is_prompt, rows)
        goal = clean.expand_as(x)[wanted]
        log_p = logits.double().log_softmax(-1).gather(1, goal[:, None])[:, 0]
        sums.append(
            torch.zeros(len(part), dtype=torch.float64, device=x.device).index_add(0, wanted.nonzero()[:, 0], log_p)
        )
    return torch.cat(sums).cpu()


def _check(response: Tensor | Sequence[int]) -> None:
    if len(response) == 0:
        raise ValueError("response = []; nothing to score; at least one token")
