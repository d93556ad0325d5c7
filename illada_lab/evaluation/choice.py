"""Multiple choice: the paper's two scoring rules."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from illada_lab.evaluation.likelihood import BATCH_TOKENS, monte_carlo_log_likelihood
from illada_lab.models.protocol import Predictor
from illada_lab.samplers.asker import Asker


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
) -> tuple[float, list[int]]:
    """Deterministic score of a response: reveal the true token the model is surest of, sum the log-probabilities.

    Not a likelihood; a rule to rank a few candidates.

    Args:
        predictor: the model.
        prompt: visible tokens in front (BOS among them where the model has seen one).
        response: tokens to score.
        append: visible tokens behind, never masked (the published evaluation appends EOS).

    Returns:
        (score in nats, order in which positions were revealed).

    Raises:
        ValueError: an empty response.

    Source: iLLaDA, confidence-based scoring of multiple choice.
    """
    scores, orders = confidence_scores(
        predictor, [(prompt.tolist(), response.tolist())], None if append is None else append.tolist()
    )
    return scores[0], orders[0]


@torch.no_grad()
def confidence_scores(
    predictor: Predictor, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], append: Sequence[int] | None = None
) -> tuple[list[float], list[list[int]]]:
    """`confidence_score` of many (prompt, response) pairs, together: pass k reveals the k-th token of all of them.

    Args:
        predictor: the model.
        pairs: token ids.
        append: visible tokens behind every response.
    """
    if any(len(response) == 0 for _, response in pairs):
        raise ValueError("response = []; nothing to score; at least one token")
    behind = list(append or [])
    scores, orders = [0.0] * len(pairs), [[] for _ in pairs]
    # Pairs of similar length share a batch; rows are padded on the right and padding is not attended to.
    by_length = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
    start = 0
    while start < len(by_length):
        end = start + 1
        while end < len(by_length):
            prompt, response = pairs[by_length[end]]
            if (end + 1 - start) * (len(prompt) + len(response) + len(behind)) > BATCH_TOKENS:
                break
            end += 1
        _reveal(predictor, [(i, *pairs[i]) for i in by_length[start:end]], behind, scores, orders)
        start = end
    return scores, orders


def _reveal(
    predictor: Predictor,
    rows: list[tuple[int, Sequence[int], Sequence[int]]],
    behind: list[int],
    scores: list[float],
    orders: list[list[int]],
) -> None:
    """Score one batch, writing into `scores` and `orders` at the rows' own numbers."""
    device = getattr(getattr(predictor, "head_weight", None), "device", torch.device("cpu"))
    width = max(len(p) + len(r) for _, p, r in rows) + len(behind)
    clean = torch.full((len(rows), width), predictor.tokens.filler)
    is_valid = torch.zeros(len(rows), width, dtype=torch.bool)
    is_masked = torch.zeros(len(rows), width, dtype=torch.bool)
    for n, (_, prompt, response) in enumerate(rows):
        whole = [*prompt, *response, *behind]
        clean[n, : len(whole)] = torch.tensor(whole)
        is_valid[n, : len(whole)] = True
        is_masked[n, len(prompt) : len(prompt) + len(response)] = True
    clean, is_valid, is_masked = clean.to(device), is_valid.to(device), is_masked.to(device)
    no_padding = bool(is_valid.all())
    while bool(is_masked.any()):
        active = is_masked.any(1).nonzero()[:, 0]
        masked = is_masked[active]
        x = torch.where(masked, predictor.tokens.mask, clean[active])
        valid = None if no_padding else is_valid[active]
        logits = Asker(predictor, 0.0, torch.zeros(len(rows), dtype=torch.long, device=device)).logits_at(
            x, masked, valid, torch.zeros_like(masked), active
        )
        log_p = logits.double().log_softmax(-1).gather(1, clean[active][masked][:, None])[:, 0]
        table = torch.full(x.shape, -torch.inf, dtype=torch.float64, device=device).masked_scatter(masked, log_p)
        best = table.max(1)
        for n, value, position in zip(active.tolist(), best.values.tolist(), best.indices.tolist(), strict=True):
            number, prompt, _ = rows[n]
            scores[number] += value
            orders[number].append(position - len(prompt))
            is_masked[n, position] = False


def choose(
    predictor: Predictor,
    items: Sequence[ChoiceItem],
    rule: str,
    *,
    n_samples: int = 128,
    append: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
) -> list[int]:
    """Number of the best candidate of every item.

    Args:
        predictor: the model.
        items: questions.
        rule: "confidence" or "monte_carlo".
        n_samples: mask sets per candidate (monte_carlo).
        append: visible tokens behind the candidates (confidence).
        generator: randomness (monte_carlo).

    Raises:
        ValueError: an unknown rule.
    """
    if rule not in ("monte_carlo", "confidence"):
        raise ValueError(f"rule = {rule!r}; not a scoring rule; monte_carlo or confidence")
    pairs = [(item.prompt, candidate) for item in items for candidate in item.candidates]
    if rule == "confidence":
        scores, _ = confidence_scores(predictor, pairs, append)
    else:
        scores = [
            monte_carlo_log_likelihood(
                predictor, torch.tensor(prompt), torch.tensor(candidate), n_samples=n_samples, generator=generator
            )[0]
            for prompt, candidate in pairs
        ]
    chosen, start = [], 0
    for item in items:
        part = scores[start : start + len(item.candidates)]
        chosen.append(max(range(len(part)), key=part.__getitem__))
        start += len(item.candidates)
    return chosen
