"""Table 3 in miniature: three recipes of pre-training and fine-tuning on the toy benchmarks, at equal size and equal data."""

from dataclasses import replace
from typing import Any, ClassVar

from illada_lab.evaluation.autoregressive import Greedy
from illada_lab.evaluation.world_suite import BLOCK_LENGTH, evaluate_instruct
from illada_lab.experiments.asking import STORY_TOKENS
from illada_lab.experiments.base_table import means
from illada_lab.experiments.claims import Claim
from illada_lab.experiments.lab import Lab
from illada_lab.experiments.recipes import ILLADA, LLADA, TWIN, instruct_models
from illada_lab.experiments.study import Outcome, Rows
from illada_lab.samplers import FixedLength, VariableLength

TABLE_3 = "iLLaDA, Table 3"
# The toy benchmarks that count in the mean, and what each stands for; questions against the direction of the facts are shown beside them.
STANDS_FOR = {
    "fact": "MMLU",
    "fact unasked": "MMLU-Pro",
    "choice": "MMLU-Redux",
    "sum": "MATH",
    "sum unasked": "MATH",
    "word sum": "GSM8K",
}
# How each recipe answers; a word sum takes 17 tokens and EOS.
SAMPLERS: dict[str, Any] = {
    ILLADA: VariableLength(max_length=STORY_TOKENS, block_length=BLOCK_LENGTH),
    LLADA: FixedLength(response_length=STORY_TOKENS, block_length=BLOCK_LENGTH),
    TWIN: Greedy(max_length=STORY_TOKENS),
}


class InstructTable:
    """The three fine-tuned models on every toy benchmark, each answering in its own way.

    The paper's models differ in data, tokens and epochs as well, and Qwen2.5 has had reinforcement learning; here only the recipe differs.

    Args:
        n_questions: items per task, at most.
    """

    title: ClassVar[str] = "Instruct models: iLLaDA's recipe, LLaDA's recipe, the autoregressive twin"
    trains_many: ClassVar[bool] = True
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(id="recipe", sentence="After fine-tuning iLLaDA's recipe is ahead of LLaDA's.", source=TABLE_3,
              paper="mean 67.1 against 54.5, with 12T against 2.3T tokens and 12 against 3 epochs",
              metric="mean of six toy benchmarks at equal non-embedding size, tokens and instructions, iLLaDA's recipe (pre-trained "
              "without random cuts at toy and mini) less LLaDA's",
              unit="points", smallest=0.02),
        Claim(id="twin_ahead", sentence="After fine-tuning an autoregressive model is ahead of iLLaDA's recipe.", source=TABLE_3,
              paper="mean 77.1 (Qwen2.5 7B Instruct) against 67.1",
              metric="mean of six toy benchmarks at equal size, tokens and steps of fine-tuning (in which the twin sees more "
              "instructions), twin less iLLaDA's recipe", unit="points", smallest=0.02),
    )  # fmt: skip

    def __init__(self, *, n_questions: int) -> None:
        self.n_questions = n_questions

    def run(self, lab: Lab) -> Outcome:
        """See `Study`."""
        rows: Rows = []
        for recipe, trained in instruct_models(lab).items():
            sampler = SAMPLERS[recipe]
            result = evaluate_instruct(
                trained.model.predictor,
                trained.model.tokenizer,
                lab.world,
                n_questions=self.n_questions,
                sampler=sampler if recipe == TWIN else replace(sampler, has_trace=False),
                seed=lab.seed,
            )
            rows += [
                {"recipe": recipe, "task": row["task"], "stands for": STANDS_FOR.get(row["task"], ""), "right": row["value"],
                 "ci_low": row["ci_low"], "ci_high": row["ci_high"], "chance": row["chance"], "n": row["n"]}
                for row in result.rows
            ]  # fmt: skip
        mean = means(rows)
        return Outcome(
            tables={"tasks": rows, "means": [{"recipe": recipe, "mean": value} for recipe, value in mean.items()]},
            effects={"recipe": mean[ILLADA] - mean[LLADA], "twin_ahead": mean[TWIN] - mean[ILLADA]},
            rooms={"recipe": 1 - mean[LLADA], "twin_ahead": 1 - mean[ILLADA]},
        )
