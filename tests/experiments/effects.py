"""The effects of the studies worked out a second time: from their tables alone, as the words of each claim's metric say.

Nothing here is taken from `illada_lab.experiments`: a sign or an operand that is wrong there is not wrong here too.
"""

from collections.abc import Mapping
from math import log
from statistics import fmean, linear_regression, median_high
from typing import Any

Rows = list[dict[str, Any]]
Tables = Mapping[str, Rows]
Effects = dict[str, float]


def from_tables(study: str, tables: Tables) -> Effects:
    """Claim id -> effect, for every claim of a study that follows from its tables."""
    return STUDIES[study](tables)


def column(rows: Rows, name: str, *keys: str) -> dict[Any, Any]:
    """A column's values by what tells the rows apart: one key's value, or a tuple of several."""
    found = {(row[keys[0]] if len(keys) == 1 else tuple(row[key] for key in keys)): row[name] for row in rows}
    assert len(found) == len(rows), f"{keys} do not tell the rows apart"
    return found


def acceleration(tables: Tables) -> Effects:
    """One token per step is the quota 1; the texts that `refresh` compares are in no table."""
    accepted = column(tables["samplers"], "right", "sampler")
    story_passes = column(tables["samplers"], "passes", "sampler")
    positions = column(tables["samplers"], "positions", "sampler")
    exact = column(tables["answers"], "right", "sampler")
    passes = column(tables["answers"], "passes", "sampler")
    distance = {
        name: abs(n - story_passes["threshold 0.5"]) for name, n in story_passes.items() if name.startswith("quota ")
    }
    # Of two equally near quotas the metric names none; the table lists the slower one first.
    nearest = min(distance, key=lambda name: distance[name])
    return {
        "threshold_quality": exact["threshold 0.9"] - exact["quota 1"],
        "threshold_passes": passes["quota 1"] / passes["threshold 0.9"],
        "threshold_stories": accepted["threshold 0.9"] - accepted["quota 1"],
        "adaptive": accepted["threshold 0.5"] - accepted[nearest],
        "cache_quality": accepted["prefix cache"] - accepted["quota 1"],
        "cache_answers": exact["prefix cache"] - exact["quota 1"],
        "cache_refreshed": exact["prefix cache, refreshed every 2 steps"] - exact["quota 1"],
        "dual_quality": accepted["dual cache"] - accepted["quota 1"],
        "cache_positions": positions["quota 1"] / positions["dual cache"],
        "both_quality": exact["threshold 0.9, prefix cache"] - exact["quota 1"],
    }


def architecture(tables: Tables) -> Effects:
    """The first variant is what the others differ from: grouped, wide, tied, never cut."""
    paper = "grouped queries, tied, never cut"
    bound = column(tables["variants"], "bound", "variant")
    halves = column(tables["variants"], "bound on halves", "variant")
    n_bytes = column(tables["variants"], "cache bytes per token", "variant")
    return {
        "gqa": bound["multi-head"] - bound[paper],
        "cache": n_bytes["multi-head"] / n_bytes[paper],
        "ffn": bound["multi-head, narrow"] - bound[paper],
        "tied": bound["untied"] - bound[paper],
        "cut": halves[paper] - halves["cut"],
    }


def isolation(tables: Tables) -> Effects:
    """What is trained on visible neighbours is asked about single documents, and about rows, which is its own way."""
    single = column(tables["bounds"], "single documents", "trained")
    rows = column(tables["bounds"], "whole rows", "trained")
    right = column(tables["answers"], "right", "trained")
    return {
        "alone": single["visible"] - single["isolated"],
        "own_way": rows["visible"] - single["isolated"],
        "answers": right["isolated"] - right["visible"],
    }


def mean_of_benchmarks(tasks: Rows, recipe: str) -> float:
    """A task that stands for a benchmark of the paper counts; the reversal tasks beside them stand for none."""
    right = column(tasks, "right", "recipe", "task")
    counted = {row["task"] for row in tasks if row["recipe"] == recipe and row["stands for"] != ""}
    return fmean(right[recipe, task] for task in counted)


def base_table(tables: Tables) -> Effects:
    """Each task has one row per recipe, scored by the recipe's own rule."""
    illada = mean_of_benchmarks(tables["tasks"], "iLLaDA's recipe")
    return {
        "recipe": illada - mean_of_benchmarks(tables["tasks"], "LLaDA's recipe"),
        "twin": illada - mean_of_benchmarks(tables["tasks"], "autoregressive twin"),
    }


def instruct_table(tables: Tables) -> Effects:
    """As `base_table`; here the claim is that the twin is ahead."""
    illada = mean_of_benchmarks(tables["tasks"], "iLLaDA's recipe")
    return {
        "recipe": illada - mean_of_benchmarks(tables["tasks"], "LLaDA's recipe"),
        "twin_ahead": mean_of_benchmarks(tables["tasks"], "autoregressive twin") - illada,
    }


def data_repetition(tables: Tables) -> Effects:
    """Losses by step. A diffusion bound with the length counted is higher by what the length tells."""
    (length,) = (row["nats per token"] for row in tables["length"] if row["kind"] == "story")

    def curve(model: str, data: str = "repeated") -> dict[int, float]:
        return column([row for row in tables["curves"] if (row["model"], row["data"]) == (model, data)], "loss", "step")

    def last(losses: dict[int, float]) -> float:
        return losses[max(losses)]

    diffusion, twin, masked = map(curve, ("diffusion (bound)", "autoregressive twin", "twin, inputs masked"))
    fresh_diffusion, fresh_twin = curve("diffusion (bound)", "fresh"), curve("autoregressive twin", "fresh")
    half = min(diffusion, key=lambda step: abs(step - max(diffusion) / 2))
    return {
        "twin_turns": last(twin) - min(twin.values()),
        "diffusion_falls": diffusion[half] - last(diffusion),
        "crossing": last(twin) - (last(diffusion) + length),
        "crossing_best": min(twin.values()) - (min(diffusion.values()) + length),
        "fresh": (last(fresh_diffusion) + length) - last(fresh_twin),
        "masking_helps": last(twin) - last(masked),
        "masking_gap": last(masked) - (last(diffusion) + length),
    }


def objective(tables: Tables) -> Effects:
    """Bounds and -log p of a document are in nats of the whole document, those of the weightings per token, means over documents."""
    documents = tables["documents"]
    # Where the other words tell nothing of a word, bound and -log p are equal, and differ by the rounding of logits in float32.
    is_bound = [row["bound"] > row["-log p"] - 1e-6 for row in documents]
    unweighted = column(tables["weightings"], "value", "weighting")["no weight, over the length"]
    return {
        "bound": sum(is_bound) / len(is_bound) - 1,
        "weight": fmean(row["-log p"] / row["tokens"] for row in documents) - unweighted,
        # Of an even number two are median documents, and the metric does not say which; it is the one that speaks more for the claim.
        "fixed_count": median_high(row["independent"] / row["fixed count"] for row in documents),
    }


def pretraining(tables: Tables) -> Effects:
    """The paper's schedule is a constant phase, then a cosine decay."""
    curves = column(tables["curves"], "bound", "schedule", "step")
    end = {name: max(step for schedule, step in curves if schedule == name) for name, _ in curves}
    bound = {name: curves[name, step] for name, step in end.items()}
    (story,) = (row for row in tables["kinds"] if (row["schedule"], row["kind"]) == ("constant, then cosine", "story"))
    return {
        "decay": bound["constant"] - bound["constant, then cosine"],
        "cosine": bound["cosine from the start"] - bound["constant, then cosine"],
        "limit": 0.1 - (story["bound"] / story["entropy"] - 1),
    }


def reversal(tables: Tables) -> Effects:
    """Facts of one-way people were told forwards only."""
    exact = column(tables["infilling"], "exact match", "people", "sentence", "infilled")
    (choice,) = (row for row in tables["choice"] if row["people"] == "one-way")
    return {
        "infill": exact["one-way", "told forwards", "name"] - exact["one-way", "told forwards", "book"],
        "choice": choice["accuracy"] - choice["chance"],
    }


def reversal_twin(tables: Tables) -> Effects:
    """One-way books only."""
    written = column(tables["reversal"], "written", "people", "sentence", "model")
    chosen = column(tables["reversal"], "chosen among four", "people", "sentence", "model")
    worse = min(written["one-way", "forwards", "diffusion"], written["one-way", "forwards", "twin"])
    return {
        "forwards": worse - 0.8,
        "choice": chosen["one-way", "backwards", "diffusion"] - chosen["one-way", "backwards", "twin"],
        "written": written["one-way", "backwards", "diffusion"] - written["one-way", "backwards", "twin"],
    }


def sampling(tables: Tables) -> Effects:
    """What `blocks` fills block by block is a window of fixed length; where no model is named, it is the one tuned for the length."""
    accepted = column(tables["orders"], "right", "order", "tokens per step")
    exact = column(tables["answers"], "right", "order", "tokens per step")
    blocks = column(tables["blocks"], "right", "format", "length", "block")
    positions = column(tables["blocks"], "positions", "format", "length", "block")
    whole, padded = "whole sequence (iLLaDA)", "response only (LLaDA)"
    effects = {
        "low_confidence": accepted["low_confidence", 1] - accepted["random", 1],
        "low_confidence_parallel": accepted["low_confidence", 4] - accepted["random", 4],
        "low_confidence_answers": exact["low_confidence", 1] - exact["random", 1],
        "low_confidence_answers_parallel": exact["low_confidence", 4] - exact["random", 4],
        "steps": accepted["low_confidence", 1] - accepted["low_confidence", 8],
        "variable_quality": blocks[whole, "variable", 8] - blocks[whole, "fixed", 8],
        "variable_cost": positions[whole, "fixed", 8] / positions[whole, "variable", 8],
    }
    if (padded, "fixed", 8) in blocks:  # claims of an earlier form; `sft_format` has them now
        effects["blocks"] = blocks[padded, "fixed", 8] - blocks[padded, "fixed", 24]
        effects["variable_padded"] = blocks[padded, "variable", 8] - blocks[padded, "fixed", 8]
    return effects


def scaling(tables: Tables) -> Effects:
    """The gap of a run is its bound less the entropy, which is the same for all."""
    budgets = {}
    for row in sorted(tables["ladder"], key=lambda row: row["without embeddings"]):
        budgets.setdefault(row["budget"], []).append(row)
    best = [min(rows, key=lambda row: row["bound"]) for rows in budgets.values()]
    # gap = c FLOPs^-a: with logarithms a straight line of slope -a, least squares.
    slope = linear_regression(*([log(row[name]) for row in best] for name in ("FLOPs", "gap"))).slope
    dips = []
    for smallest, *middle, largest in budgets.values():
        dips.append(min(smallest["bound"], largest["bound"]) - min(row["bound"] for row in middle))
    return {"compute": -slope, "optimum_each": min(dips)}


def scoring(tables: Tables) -> Effects:
    """Means of the task types, one as much as another."""
    accuracy = column(tables["accuracy"], "accuracy", "rule", "task")
    tasks = {task for _, task in accuracy}
    n_samples = [int(n) for rule, _ in accuracy if (n := rule.removeprefix("likelihood, ")).isdigit()]
    most = f"likelihood, {max(n_samples)}"
    mean = {name: fmean(accuracy[name, task] for task in tasks) for name, _ in accuracy}
    return {
        "converged": mean["confidence"] - mean[most],
        "converged_long": accuracy["confidence", "whole story"] - accuracy[most, "whole story"],
        "equal_passes": mean["confidence"] - mean["likelihood, equal passes"],
        "samples": mean[most] - mean["likelihood, 1"],
    }


def sft_epochs(tables: Tables) -> Effects:
    """Measurements from before there was a control have no table of it, and no effect of the claim that asks for it."""
    exact = column(tables["epochs"], "right", "model", "epochs")
    most = max(epochs for _, epochs in exact)
    gain = {model: exact[model, 12] - exact[model, 3] for model in ("diffusion", "autoregressive twin")}
    effects = {
        "epochs": gain["diffusion"],
        "beyond": exact["diffusion", most] - exact["diffusion", 12],
        "more_than_twin": gain["diffusion"] - gain["autoregressive twin"],
    }
    if "control" in tables:
        control = column(tables["control"], "right", "model", "instructions")
        effects["repeats"] = control["diffusion", "12 epochs"] - control["diffusion", "none twice"]
    return effects


def sft_format(tables: Tables) -> Effects:
    """One block of 24 is read out with EOS in its turn, not held back."""
    exact = column(tables["formats"], "right", "format", "sampler")
    empty = column(tables["formats"], "empty", "format", "sampler")
    whole, padded = "whole sequence (iLLaDA)", "response only (LLaDA)"
    return {
        "variable": exact[whole, "variable, blocks of 8"] - exact[padded, "variable, blocks of 8"],
        "own_way": exact[whole, "variable, blocks of 8"] - exact[padded, "fixed 24, blocks of 8"],
        "eos": empty[padded, "fixed 24, one block"] - empty[whole, "fixed 24, one block"],
        "blocks": exact[padded, "fixed 24, blocks of 8"] - exact[padded, "fixed 24, one block"],
        "variable_padded": exact[padded, "variable, blocks of 8"] - exact[padded, "fixed 24, blocks of 8"],
    }


STUDIES = {
    study.__name__: study
    for study in (
        acceleration, architecture, base_table, data_repetition, instruct_table, isolation, objective, pretraining, reversal,
        reversal_twin, sampling, scaling, scoring, sft_epochs, sft_format,
    )
}  # fmt: skip
