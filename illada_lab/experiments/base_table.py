"""Table 2 in miniature: three recipes of pre-training on the toy benchmarks, at equal size and equal data."""

from typing import ClassVar

from illada_lab.evaluation.world_suite import SuiteResult, evaluate_base
from illada_lab.experiments.claims import Claim
from illada_lab.experiments.lab import Lab
from illada_lab.experiments.recipes import ILLADA, LLADA, TWIN, base_models
from illada_lab.experiments.study import Outcome, Rows

TABLE_2 = "iLLaDA, Table 2"
# The toy benchmarks that count in the mean, and what each stands for. The reversal tasks are shown beside them: Table 2 has none.
STANDS_FOR = {
    "facts, completed": "MMLU",
    "facts, four candidates": "ARC-C",
    "story endings, four candidates": "HellaSwag",
    "sums, completed": "GSM8K, MATH",
    "equations, operand infilled": "BBH",
}
# How each recipe scores multiple choice.
RULES = {ILLADA: "confidence score", LLADA: "Monte-Carlo likelihood", TWIN: "likelihood, exact"}


class BaseTable:
    """The three base models on every toy benchmark, each under its own scoring rule.

    The paper's models differ in data, tokens and size as well (12T tokens against LLaDA's 2.3T and Qwen2.5's 18T); here only the recipe
    differs, so a smaller effect is to be expected.

    Args:
        n_questions: items per task, at most.
        n_mc_samples: mask sets per candidate of LLaDA's scoring rule.
    """

    title: ClassVar[str] = "Base models: iLLaDA's recipe, LLaDA's recipe, the autoregressive twin"
    trains_many: ClassVar[bool] = True
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(id="recipe", sentence="After pre-training iLLaDA's recipe is ahead of LLaDA's.", source=TABLE_2,
              paper="mean 63.9 against 51.1, with 12T against 2.3T tokens",
              metric="mean of five toy benchmarks at equal non-embedding size and tokens, choices scored by each recipe's own rule, "
              "iLLaDA's recipe (without random cuts at toy and mini) less LLaDA's",
              unit="points", smallest=0.02),
        Claim(id="twin", sentence="After pre-training iLLaDA's recipe is on a par with an autoregressive model.", source=TABLE_2,
              paper="mean 63.9 against 63.3 (Qwen2.5 7B, 18T tokens)",
              metric="mean of five toy benchmarks at equal size and tokens, where it infills the twin picks a word of the right kind, "
              "iLLaDA's recipe less the twin", unit="points", threshold=-0.02),
    )  # fmt: skip

    def __init__(self, *, n_questions: int, n_mc_samples: int) -> None:
        self.n_questions, self.n_mc_samples = n_questions, n_mc_samples

    def run(self, lab: Lab) -> Outcome:
        """See `Study`."""
        rows: Rows = []
        for recipe, trained in base_models(lab).items():
            result = evaluate_base(
                trained.model.predictor,
                trained.model.tokenizer,
                lab.world,
                n_questions=self.n_questions,
                # The other recipes do not use this rule, and it is the expensive one.
                n_mc_samples=self.n_mc_samples if recipe == LLADA else 1,
                seed=lab.seed,
            )
            rows += _rows(recipe, result)
        mean = means(rows)
        return Outcome(
            tables={"tasks": rows, "means": [{"recipe": recipe, "mean": value} for recipe, value in mean.items()]},
            effects={"recipe": mean[ILLADA] - mean[LLADA], "twin": mean[ILLADA] - mean[TWIN]},
            rooms={"recipe": 1 - mean[LLADA], "twin": 1 - min(mean[ILLADA], mean[TWIN])},
        )


def means(rows: Rows) -> dict[str, float]:
    """Mean of the tasks that count, by recipe."""
    found = {}
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        values = [row["right"] for row in rows if row["recipe"] == recipe and row["stands for"]]
        found[recipe] = sum(values) / len(values)
    return found


def _rows(recipe: str, result: SuiteResult) -> Rows:
    """One row per task, under the recipe's own rule."""
    has_own_rule = [
        row for row in result.rows if "candidates" not in row["task"] or row["metric"].startswith(RULES[recipe])
    ]
    return [
        {"recipe": recipe, "task": row["task"], "stands for": STANDS_FOR.get(row["task"], ""), "metric": row["metric"],
         "right": row["value"], "ci_low": row["ci_low"], "ci_high": row["ci_high"], "chance": row["chance"], "n": row["n"]}
        for row in has_own_rule
    ]  # fmt: skip
