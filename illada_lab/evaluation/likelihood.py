"""How likely a response is under a masked diffusion model: the bound by Monte Carlo and by enumeration, the any-order value."""

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from illada_lab.evaluation.masked import (
    Padded,
    Pair,
    batches_by_length,
    check_pairs,
    device_of,
    true_log_probs,
)
from illada_lab.models.linear import packed_weights
from illada_lab.models.protocol import Predictor

# 2^12 mask sets; 8! = 40,320 orders. Our choice: a second or so of a laptop.
MAX_ENUMERATED, MAX_ORDERED = 12, 8


def stratified_counts(length: int, n_samples: int, generator: torch.Generator | None = None) -> Int[Tensor, " n"]:
    """Numbers of masks l in 1 ... L, each uniform, together as even as can be.

    One uniform offset and equal steps: l_i = 1 + floor(L * frac(u + i / n)). Unbiased for every L and n; rounding, as published, is
    biased where L is no multiple of n.

    Source: LLaDA, section 2.4, Eq. 6 (l uniform); the stratification without rounding is our mend.
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
        (value, standard error), nats. Stratification makes the true error smaller than the standard error says; that of a single sample
        is not known: inf.

    Raises:
        ValueError: an empty response, fewer than one sample, a sequence longer than the context.

    Source: LLaDA, section 2.4, Eq. 6, the lower-variance estimator.
    """
    pairs = [(prompt.tolist(), response.tolist())]
    return monte_carlo_log_likelihoods(predictor, pairs, n_samples, guidance_scale, generator)[0]


@packed_weights()
def monte_carlo_log_likelihoods(
    predictor: Predictor,
    pairs: Sequence[Pair],
    n_samples: int = 128,
    guidance_scale: float = 0.0,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    append: Sequence[int] = (),
) -> list[tuple[float, float]]:
    """`monte_carlo_log_likelihood` of many (prompt, response) pairs; questions, candidates and samples share the passes.

    Draws what one call after the other would draw. A mask set that is drawn twice is computed once.

    Args:
        predictor: the model.
        pairs: token ids.
        n_samples, guidance_scale: as above; a response of one token needs, and gets, one sample.
        generator: one for all pairs in turn, or one for each.
        append: visible tokens behind every response, never masked (the published evaluation appends EOS).

    Raises:
        ValueError: as above; [MASK] in a pair, or a number of generators that is not the number of pairs.
    """
    check_pairs(predictor, pairs, append)
    if n_samples < 1:
        raise ValueError(f"n_samples = {n_samples}; at least one mask set; 1 or more")
    drawn: list[tuple[Tensor, Tensor]] = []  # of each pair: number of the mask set of each sample, number of its masks
    sets: list[Tensor] = []
    own = generator if isinstance(generator, Sequence) else [generator] * len(pairs)
    if len(own) != len(pairs):
        raise ValueError(f"generator = {len(own)} of them; one for all pairs or one per pair; 1 or {len(pairs)}")
    for (_, response), random in zip(pairs, own, strict=True):
        length = len(response)
        n = 1 if length == 1 else n_samples
        counts = stratified_counts(length, n, random)
        is_masked = torch.rand(n, length, generator=random).argsort(1).argsort(1) < counts[:, None]
        distinct, number = is_masked.unique(dim=0, return_inverse=True)
        drawn.append((number, counts))
        sets.append(distinct)
    if not pairs:
        return []
    sums = _masked_sums(predictor, pairs, sets, guidance_scale, append)
    found = []
    for (_, response), of_set, (number, counts) in zip(pairs, sums, drawn, strict=True):
        values = of_set[number] * len(response) / counts
        # One token: its only mask set is the exact value. One sample of more: it says nothing about its own error.
        alone = 0.0 if len(response) == 1 else math.inf
        stderr = float(values.std() / math.sqrt(len(values))) if len(values) > 1 else alone
        found.append((float(values.mean()), stderr))
    return found


def exact_log_likelihood(
    predictor: Predictor, prompt: Int[Tensor, " P"], response: Int[Tensor, " R"], guidance_scale: float = 0.0
) -> float:
    """The bound on log p(response | prompt), nats, by enumeration of all mask sets.

    Args:
        predictor: the model.
        prompt: visible tokens.
        response: at most 12 tokens (4095 mask sets).
        guidance_scale: classifier-free guidance; 0 is off.

    Raises:
        ValueError: an empty response, or one too long to enumerate.
    """
    length = len(response)
    if length > MAX_ENUMERATED:
        raise ValueError(f"response = {length} tokens; 2^{length} mask sets are too many; at most {MAX_ENUMERATED}")
    sets, log_p = mask_set_table(predictor, prompt, response, guidance_scale)
    counts = sets.sum(1)
    # All sets of a size are equally likely, and sizes are uniform: weight (L / l) / (L * C(L, l)).
    weights = torch.tensor([1 / (int(k) * math.comb(length, int(k))) for k in counts], dtype=torch.float64)
    return float((weights * log_p.masked_fill(~sets, 0.0).sum(1)).sum())


def any_order_log_likelihood(
    predictor: Predictor, prompt: Int[Tensor, " P"], response: Int[Tensor, " R"], guidance_scale: float = 0.0
) -> float:
    """The mean over all orders of the chain rule, nats, order by order.

        1 / L! * sum over orders o, sum over i of log p(response[o_i] | prompt, response[o_1 ... o_(i-1)])

    The same number as `exact_log_likelihood`: a masked diffusion model is an any-order autoregressive one.

    Args:
        predictor: the model.
        prompt: visible tokens.
        response: at most 8 tokens (40,320 orders).
        guidance_scale: classifier-free guidance; 0 is off.

    Raises:
        ValueError: an empty response, or one with too many orders.

    Source: LLaDA, Appendix A (the bound and any-order models); Uria et al. 2014.
    """
    length = len(response)
    if length > MAX_ORDERED:
        raise ValueError(f"response = {length} tokens; {length}! orders are too many; at most {MAX_ORDERED}")
    sets, log_p = mask_set_table(predictor, prompt, response, guidance_scale)
    number = (sets.long() << torch.arange(length)).sum(1)  # the set as a number in binary
    table = torch.empty(2**length, length, dtype=torch.float64)
    table[number] = log_p
    orders = torch.tensor(list(itertools.permutations(range(length))))
    masked = torch.full((len(orders),), 2**length - 1)
    total = torch.zeros(len(orders), dtype=torch.float64)
    for step in range(length):
        total += table[masked, orders[:, step]]
        masked -= 1 << orders[:, step]
    return float(total.mean())


def mask_set_table(
    predictor: Predictor, prompt: Int[Tensor, " P"], response: Int[Tensor, " R"], guidance_scale: float = 0.0
) -> tuple[Bool[Tensor, "n R"], Float[Tensor, "n R"]]:
    """All 2^L - 1 mask sets of a response, and log p of each masked token under each; NaN where nothing is masked."""
    pairs = [(prompt.tolist(), response.tolist())]
    check_pairs(predictor, pairs)
    sets = torch.tensor([s for s in itertools.product((False, True), repeat=len(response)) if any(s)])
    table = torch.full(sets.shape, torch.nan, dtype=torch.float64)
    for batch, is_masked, log_p in _passes(predictor, pairs, [sets], guidance_scale):
        table[batch] = torch.full(is_masked.shape, torch.nan, dtype=torch.float64).masked_scatter(is_masked, log_p)
    return sets, table


def _masked_sums(
    predictor: Predictor, pairs: Sequence[Pair], sets: list[Tensor], guidance_scale: float, append: Sequence[int]
) -> list[Float[Tensor, " n"]]:
    """Of each pair, for each of its mask sets: sum of log p of the true tokens at the masked positions."""
    sums = torch.zeros(sum(map(len, sets)), dtype=torch.float64)
    for batch, is_masked, log_p in _passes(predictor, pairs, sets, guidance_scale, append):
        sums.index_add_(0, batch[is_masked.nonzero()[:, 0]], log_p)
    return list(sums.split([len(own) for own in sets]))


def _passes(
    predictor: Predictor,
    pairs: Sequence[Pair],
    sets: list[Tensor],
    guidance_scale: float,
    append: Sequence[int] = (),
) -> Iterator[tuple[Int[Tensor, " b"], Bool[Tensor, "b R"], Float[Tensor, " M"]]]:
    """Batches of mask sets: their numbers counted through all pairs, the sets side by side, log p of what they mask.

    Args:
        predictor: the model.
        pairs: token ids.
        sets: mask sets of each pair, bool [n, length of its response].
        guidance_scale: classifier-free guidance; 0 is off.
        append: visible tokens behind every response.
    """
    widest = max(len(response) for _, response in pairs)
    masks = torch.cat([F.pad(own, (0, widest - own.shape[1])) for own in sets])
    owner = torch.arange(len(pairs)).repeat_interleave(torch.tensor([len(own) for own in sets]))
    lengths = torch.tensor([len(prompt) + len(response) + len(append) for prompt, response in pairs])[owner]
    device = device_of(predictor)
    for batch in batches_by_length(predictor, lengths.tolist(), masks.sum(1).tolist()):
        chosen = torch.tensor(batch)
        own, rows = owner[chosen].unique(return_inverse=True)
        padded, is_masked = Padded.of(predictor, [pairs[i] for i in own.tolist()], append), masks[chosen]
        is_response = padded.is_response[rows.to(device)]
        # Row by row, a pair's response has as many places in the layout as in its sets.
        in_response = torch.arange(widest) < padded.is_response.sum(1).cpu()[rows][:, None]
        wanted = torch.zeros_like(is_response).masked_scatter(is_response, is_masked[in_response].to(device))
        log_p = true_log_probs(predictor, padded, rows.to(device), wanted, guidance_scale)
        yield chosen, is_masked, log_p.cpu()
