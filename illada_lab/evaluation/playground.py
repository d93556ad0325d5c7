"""The likelihood playground: every number that can be said of one short sentence, as tidy tables and a plot.

Exact bound and any-order value, the Monte-Carlo estimate at several sample counts, the confidence score and its control orders; which
positions and which numbers of masks the bound is made of.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from illada_lab.evaluation.choice import ORDERS, confidence_score
from illada_lab.evaluation.likelihood import (
    MAX_ORDERED,
    any_order_log_likelihood,
    exact_log_likelihood,
    mask_set_table,
    monte_carlo_log_likelihoods,
)
from illada_lab.models.protocol import Predictor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Playground:
    """Numbers of one sentence, nats throughout; each table is a list of rows with the same keys.

    Attributes:
        values: quantity, value, spread (standard deviation over repeats; 0 for what is exact), note.
        spread: n_samples, mean, std, error (mean less the exact value), one row per sample count.
        by_position: position, token, all_masked (log p with every token masked), last (log p with only this one masked), mean (over all
            mask sets, weighted as in the bound), share (of the bound).
        by_mask_count: n_masked, n_sets, mean_log_p (of a masked token), share (of the bound).
        order: positions in the order in which the confidence score reveals them.
    """

    values: Rows
    spread: Rows
    by_position: Rows
    by_mask_count: Rows
    order: list[int]


def explore(
    predictor: Predictor,
    prompt: Int[Tensor, " P"],
    response: Int[Tensor, " R"],
    *,
    sample_counts: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128),
    n_repeats: int = 50,
    text: Sequence[str] | None = None,
    guidance_scale: float = 0.0,
    seed: int = 0,
) -> Playground:
    """Everything about log p(response | prompt).

    Args:
        predictor: the model.
        prompt: visible tokens, may be empty.
        response: at most 12 tokens; the any-order value only up to 8.
        sample_counts: of the Monte-Carlo estimates.
        n_repeats: estimates at each count, 2 or more.
        text: what each token of the response looks like; None: its id.
        guidance_scale: classifier-free guidance; 0 is off.
        seed: of masks and of the random order.

    Raises:
        ValueError: a response too long to enumerate, one repeat, texts that are not one per token.
    """
    if n_repeats < 2:
        raise ValueError(f"n_repeats = {n_repeats}; a spread needs several estimates; 2 or more")
    length = len(response)
    shown = [str(token) for token in response.tolist()] if text is None else list(text)
    if len(shown) != length:
        raise ValueError(f"text = {len(shown)} pieces; one for each token of the response; {length}")
    exact = exact_log_likelihood(predictor, prompt, response, guidance_scale)
    values: Rows = [_value("exact bound", exact, 0.0, f"{2**length - 1} mask sets")]
    if length <= MAX_ORDERED:
        any_order = any_order_log_likelihood(predictor, prompt, response, guidance_scale)
        values.append(_value("any-order value", any_order, 0.0, "mean over all orders; the same number"))
    generator, spread = torch.Generator().manual_seed(seed), []
    pairs = [(prompt.tolist(), response.tolist())] * n_repeats
    for n in sample_counts:
        found = monte_carlo_log_likelihoods(predictor, pairs, n, guidance_scale, generator)
        estimates = torch.tensor([value for value, _ in found], dtype=torch.float64)
        mean, std = float(estimates.mean()), float(estimates.std())
        spread.append({"n_samples": n, "mean": mean, "std": std, "error": mean - exact})
        values.append(_value(f"Monte Carlo, {n} samples", mean, std, f"mean of {n_repeats} estimates"))
    order: list[int] = []
    for rule in ORDERS:
        score, own = confidence_score(
            predictor, prompt, response, rule=rule, guidance_scale=guidance_scale, generator=generator
        )
        order = own if rule == ORDERS[0] else order
        name = "confidence score" if rule == ORDERS[0] else f"order: {rule.replace('_', ' ')}"
        values.append(_value(name, score, 0.0, " ".join(shown[i] for i in own)))
    by_position, by_mask_count = _breakdown(predictor, prompt, response, shown, guidance_scale)
    return Playground(values, spread, by_position, by_mask_count, order)


def _breakdown(
    predictor: Predictor, prompt: Tensor, response: Tensor, shown: Sequence[str], guidance_scale: float
) -> tuple[Rows, Rows]:
    """The bound by position and by number of masks."""
    sets, log_p = mask_set_table(predictor, prompt, response, guidance_scale)
    length, counts = len(response), sets.sum(1)
    n_sets = torch.bincount(counts, minlength=length + 1).double()
    # Weight of a masked token in the bound: 1 / (l * number of sets of its size); over all of them the sum is L.
    weights = torch.where(sets, 1 / (counts * n_sets[counts])[:, None], 0.0)
    parts = weights * log_p.nan_to_num()
    total = float(parts.sum())
    alone = torch.where(sets & (counts == 1)[:, None], log_p, 0.0).nansum(0)
    by_position = [
        {"position": i, "token": shown[i], "all_masked": float(log_p[counts == length][0, i]), "last": float(alone[i]),
         "mean": float(parts[:, i].sum() / weights[:, i].sum()), "share": float(parts[:, i].sum() / total)}
        for i in range(length)
    ]  # fmt: skip
    by_mask_count = [
        {"n_masked": n, "n_sets": int(n_sets[n]), "mean_log_p": float(log_p[counts == n].nanmean()),
         "share": float(parts[counts == n].sum() / total)}
        for n in range(1, length + 1)
    ]  # fmt: skip
    return by_position, by_mask_count


def plot(playground: Playground) -> "Figure":
    """Three panels: spread over sample counts around the exact value, log p by position, log p by number of masks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2), layout="constrained")
    spread, position, masks = figure.subplots(1, 3)
    n = [row["n_samples"] for row in playground.spread]
    mean = [row["mean"] for row in playground.spread]
    spread.errorbar(n, mean, yerr=[row["std"] for row in playground.spread], fmt="o", capsize=3, label="Monte Carlo")
    for row in playground.values:
        if row["quantity"] in ("exact bound", "confidence score"):
            style = "-" if row["quantity"] == "exact bound" else "--"
            spread.axhline(row["value"], color="black", linestyle=style, linewidth=1, label=row["quantity"])
    spread.set(xscale="log", xlabel="mask sets", ylabel="nats", title="log p of the response")
    spread.legend(fontsize="small")
    x = [row["position"] for row in playground.by_position]
    for key, label in (("all_masked", "all masked"), ("mean", "mean"), ("last", "only this masked")):
        position.plot(x, [row[key] for row in playground.by_position], "o-", label=label)
    position.set_xticks(x, [row["token"] for row in playground.by_position], rotation=45, ha="right")
    position.set(title="log p of each token")
    position.legend(fontsize="small")
    masks.plot(
        [row["n_masked"] for row in playground.by_mask_count],
        [row["mean_log_p"] for row in playground.by_mask_count],
        "o-",
    )
    masks.set(xlabel="masked tokens", title="mean log p of a masked token")
    return figure


def _value(quantity: str, value: float, spread: float, note: str) -> dict[str, Any]:
    return {"quantity": quantity, "value": value, "spread": spread, "note": note}
