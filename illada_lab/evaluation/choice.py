"""Multiple choice: the paper's two scoring rules, and the orders that the confidence score is to be compared with."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from illada_lab.evaluation.autoregressive import chain_rule_log_likelihoods, twin_of
from illada_lab.evaluation.likelihood import monte_carlo_log_likelihoods
from illada_lab.evaluation.masked import Padded, Pair, batches_by_length, check_pairs, true_log_probs
from illada_lab.models.linear import packed_weights
from illada_lab.models.protocol import Predictor

ORDERS = ("most_confident", "left_to_right", "random", "least_confident")
RULES = ("confidence", "monte_carlo", "chain_rule")


@dataclass(frozen=True)
class ChoiceItem:
    """A question with candidates.

    Attributes:
        prompt: token ids in front.
        candidates: token ids of each candidate.
        answer: number of the right one.
    """

    prompt: Sequence[int]
    candidates: Sequence[Sequence[int]]
    answer: int


def confidence_score(
    predictor: Predictor,
    prompt: Int[Tensor, " P"],
    response: Int[Tensor, " R"],
    append: Int[Tensor, " A"] | None = None,
    *,
    prepend: Int[Tensor, " B"] | None = None,
    rule: str = "most_confident",
    guidance_scale: float = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[float, list[int]]:
    """Deterministic score of a response: reveal the true token the model is surest of, sum the log-probabilities.

    Not a likelihood; a rule to rank a few candidates.

    Args:
        predictor: the model.
        prompt: visible tokens in front.
        response: tokens to score.
        append: visible tokens behind, never masked (the published evaluation appends EOS).
        prepend: visible tokens in front of the prompt (the published evaluation puts BOS there).
        rule: which masked token is revealed next: most_confident; as controls left_to_right, random, least_confident.
        guidance_scale: classifier-free guidance; 0 is off.
        generator: randomness of the random order (CPU); None: torch's global one.

    Returns:
        (score in nats, order in which positions were revealed).

    Raises:
        ValueError: an empty response, an unknown rule, a sequence longer than the context.

    Source: iLLaDA, confidence-based scoring of multiple choice; the other orders are our controls.
    """
    front, behind = ([] if part is None else part.tolist() for part in (prepend, append))
    pairs = [([*front, *prompt.tolist()], response.tolist())]
    scores, orders = confidence_scores(
        predictor, pairs, behind, rule=rule, guidance_scale=guidance_scale, generator=generator
    )
    return scores[0], orders[0]


@packed_weights()
def confidence_scores(
    predictor: Predictor,
    pairs: Sequence[Pair],
    append: Sequence[int] | None = None,
    *,
    rule: str = "most_confident",
    guidance_scale: float = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[list[float], list[list[int]]]:
    """`confidence_score` of many (prompt, response) pairs, together: pass k reveals the k-th token of all of them.

    Args:
        predictor: the model.
        pairs: token ids.
        append: visible tokens behind every response.
        rule, guidance_scale, generator: as above.
    """
    behind = list(append or [])
    check_pairs(predictor, pairs, behind)
    if rule not in ORDERS:
        near = difflib.get_close_matches(str(rule), ORDERS, n=1, cutoff=0.4) or list(ORDERS)
        raise ValueError(f"rule = {rule!r}; not an order; {', '.join(near)}")
    # Drawn for each pair in turn, so that a pair's order does not depend on what shares its batch.
    given = [torch.rand(len(response), generator=generator) for _, response in pairs] if rule == "random" else None
    scores, orders = [0.0] * len(pairs), [[] for _ in pairs]
    lengths = [len(prompt) + len(response) + len(behind) for prompt, response in pairs]
    for batch in batches_by_length(predictor, lengths, [len(response) for _, response in pairs]):
        padded = Padded.of(predictor, [pairs[i] for i in batch], behind)
        drawn = None if given is None else torch.cat([given[i] for i in batch])
        for n, (value, order) in enumerate(_reveal(predictor, padded, rule, drawn, guidance_scale)):
            scores[batch[n]], orders[batch[n]] = value, order
    return scores, orders


def _reveal(
    predictor: Predictor, padded: Padded, rule: str, drawn: Tensor | None, guidance_scale: float
) -> list[tuple[float, list[int]]]:
    """Score and order of every row of one batch."""
    is_masked = padded.is_response.clone()
    device, column = is_masked.device, torch.arange(is_masked.shape[1], device=is_masked.device)
    priority = -column.double().expand(is_masked.shape)  # left to right
    if drawn is not None:
        priority = torch.zeros(is_masked.shape, device=device).masked_scatter(is_masked, drawn.to(device))
    total = torch.zeros(len(is_masked), dtype=torch.float64, device=device)
    steps: list[tuple[Tensor, Tensor]] = []
    while bool(is_masked.any()):
        active = is_masked.any(1).nonzero()[:, 0]
        masked = is_masked[active]
        log_p = true_log_probs(predictor, padded, active, masked, guidance_scale)
        table = torch.full(masked.shape, -torch.inf, dtype=torch.float64, device=device).masked_scatter(masked, log_p)
        wanted = priority[active].double()
        if rule.endswith("_confident"):
            wanted = table if rule == "most_confident" else -table
        wanted = wanted.masked_fill(~masked, -torch.inf)
        # The first of equals, on every device.
        is_best = masked & (wanted == wanted.amax(1, keepdim=True))
        best = torch.where(is_best, column, len(column)).amin(1)
        total[active] += table.gather(1, best[:, None])[:, 0]
        is_masked[active, best] = False
        steps.append((active, best - padded.n_prompt[active]))
    orders: list[list[int]] = [[] for _ in range(len(total))]
    for active, positions in steps:
        for row, position in zip(active.tolist(), positions.tolist(), strict=True):
            orders[row].append(position)
    return list(zip(total.tolist(), orders, strict=True))


def choose(
    predictor: Predictor,
    items: Sequence[ChoiceItem],
    rule: str,
    *,
    n_samples: int | None = None,
    append: Sequence[int] | None = None,
    guidance_scale: float = 0.0,
    generator: torch.Generator | None = None,
) -> list[int]:
    """Number of the best candidate of every item.

    Args:
        predictor: the model.
        items: questions.
        rule: "confidence", "monte_carlo", or "chain_rule" (autoregressive models).
        n_samples: mask sets per candidate (monte_carlo; None: 128).
        append: visible tokens behind the candidates (not with chain_rule, which looks back only).
        guidance_scale: classifier-free guidance; 0 is off (not with chain_rule).
        generator: randomness (monte_carlo).

    Raises:
        ValueError: an unknown rule, one that is not for this model, a setting that has no effect on it, or an item without candidates.
    """
    if rule not in RULES:
        raise ValueError(f"rule = {rule!r}; not a scoring rule; monte_carlo or confidence (chain_rule for twins)")
    if n_samples is not None and rule != "monte_carlo":
        raise ValueError(f"n_samples = {n_samples}; has no effect on rule = {rule}; rule=monte_carlo, or none")
    if append and rule == "chain_rule":
        raise ValueError(f"append = {list(append)}; has no effect on rule = chain_rule; none")
    if guidance_scale and rule == "chain_rule":
        raise ValueError(f"guidance_scale = {guidance_scale}; has no effect on rule = chain_rule; 0")
    if bare := [number for number, item in enumerate(items) if not len(item.candidates)]:
        raise ValueError(f"items[{bare[0]}].candidates = []; nothing to choose from; at least one candidate")
    pairs = [(item.prompt, candidate) for item in items for candidate in item.candidates]
    if rule == "confidence":
        scores, _ = confidence_scores(predictor, pairs, append, guidance_scale=guidance_scale)
    elif rule == "monte_carlo":
        n_sets = 128 if n_samples is None else n_samples  # the papers' number
        found = monte_carlo_log_likelihoods(predictor, pairs, n_sets, guidance_scale, generator, append or ())
        scores = [value for value, _ in found]
    else:
        scores = chain_rule_log_likelihoods(twin_of(predictor), pairs)
    chosen, start = [], 0
    for item in items:
        part = scores[start : start + len(item.candidates)]
        chosen.append(max(range(len(part)), key=part.__getitem__))
        start += len(item.candidates)
    return chosen
