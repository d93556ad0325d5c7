"""How a masked diffusion model is read out: order, steps, blocks, and where the length comes from."""

from collections.abc import Sequence
from typing import ClassVar

from illada_lab.experiments.asking import STORY_TOKENS, ask, question_task, story_task
from illada_lab.experiments.claims import Claim
from illada_lab.experiments.lab import Lab
from illada_lab.experiments.study import Outcome, Rows
from illada_lab.samplers import FixedLength, VariableLength
from illada_lab.training.checkpoint import LoadedRun

LLADA = "LLaDA (arXiv 2502.09992), Appendix B.4"
ORDERS = ("low_confidence", "entropy", "left_to_right", "random")
TOKENS_PER_STEP = (1, 2, 4, 8)
WHOLE = "whole sequence (iLLaDA)"
KINDS = ("fact", "sum", "fact_unasked", "sum_unasked", "choice", "word_sum")


class Sampling:
    """Stories continued by the base model and questions answered by the fine-tuned one, by every setting the papers compare.

    Stories are drawn at temperature 1 (at 0 the two mentions of an open word tend to agree by chance of the argmax); questions are
    answered at temperature 0. In a story most words are free choices that come back later, in an answer nearly every word follows from
    the question: an order of revealing can be good for one and bad for the other. What blocks are to cure belongs to LLaDA's format of
    fine-tuning, which pads with EOS: `sft_format` has it.

    Args:
        n_stories: first sentences to continue.
        n_questions: questions, all kinds together.
        block_lengths: blocks compared; each divides the window of 24 tokens; 8 among them.

    Raises:
        ValueError: a block that does not divide the window, or one missing.
    """

    title: ClassVar[str] = "Sampling: order, steps, blocks and length"
    trains_many: ClassVar[bool] = False
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(id="low_confidence", sentence="In stories, revealing the most confident draws first beats a random order.",
              source=LLADA, paper="GSM8K 70.0 against 21.3 (LLaDA 8B Base)",
              metric="stories, 1 token per step, drawn anew at every step: share the grammar accepts, low-confidence less random remasking",
              unit="points", smallest=0.02),
        Claim(id="low_confidence_parallel", sentence="In stories, at four tokens a step, the most confident draws first beat a random "
              "order.",
              source="our question: two mentions of one choice are equally sure, and do not know each other", paper="not reported",
              metric="stories, 4 tokens per step, drawn anew at every step: share the grammar accepts, low-confidence less random "
              "remasking",
              unit="points", smallest=0.02),
        Claim(id="low_confidence_answers", sentence="In answers, which follow from the question, the most confident first beats a "
              "random order.", source=LLADA,
              paper="GSM8K 70.0 against 21.3 (LLaDA 8B Base)",
              metric="questions, variable length, blocks of 8, 1 token per step: exact match, low-confidence less random remasking",
              unit="points", smallest=0.02),
        Claim(id="low_confidence_answers_parallel", sentence="In answers, at four tokens a step, the most confident first beats a "
              "random order.",
              source=LLADA, paper="not reported apart",
              metric="questions, variable length, blocks of 8, 4 tokens per step: exact match, low-confidence less random remasking",
              unit="points", smallest=0.02),
        Claim(id="steps", sentence="One token per step writes better stories than eight.",
              source="LLaDA (arXiv 2502.09992), Appendix B.7, steps against quality; iLLaDA on GSM8K, third-party",
              paper="in figures (LLaDA 8B); a third party on GSM8K (iLLaDA, n = 50): 82 / 50 / 22 % at 1 / 4 / 8 tokens per step",
              metric="stories, low-confidence: share the grammar accepts, 1 less 8 tokens per step", unit="points", smallest=0.02),
        Claim(id="variable_quality", sentence="A model fine-tuned for variable length answers no worse so than at a fixed length.",
              source="iLLaDA, inference", paper="not reported",
              metric="questions: exact match, variable less fixed length, blocks of 8", unit="points", threshold=-0.02),
        Claim(id="variable_cost",
              sentence="Variable length computes fewer positions: no masks behind the block, no block behind the one in which it ends.",
              source="iLLaDA, inference", paper="not reported",
              metric="questions: positions computed, fixed over variable length, blocks of 8", unit="times", threshold=1.0),
    )  # fmt: skip

    def __init__(
        self, *, n_stories: int, n_questions: int, block_lengths: Sequence[int] = (STORY_TOKENS, 12, 8, 4, 1)
    ) -> None:
        self.n_stories, self.n_questions, self.block_lengths = n_stories, n_questions, tuple(block_lengths)
        for block_length in self.block_lengths:
            FixedLength(response_length=STORY_TOKENS, block_length=block_length)
        if 8 not in self.block_lengths:
            raise ValueError(f"block_lengths = {list(block_lengths)}; the claims are about 8; add it")

    def run(self, lab: Lab) -> Outcome:
        """See `Study`."""
        orders, answers, blocks = self.orders(lab), self.answers(lab), self.blocks(lab, lab.tuned.model, WHOLE)
        story, answer = (
            {(row["order"], row["tokens per step"]): row["right"] for row in rows} for rows in (orders, answers)
        )
        at = {(row["length"], row["block"]): row for row in blocks}
        fixed, variable = (at[length, 8] for length in ("fixed", "variable"))
        return Outcome(
            tables={"orders": orders, "answers": answers, "blocks": blocks},
            effects={
                "low_confidence": story["low_confidence", 1] - story["random", 1],
                "low_confidence_parallel": story["low_confidence", 4] - story["random", 4],
                "low_confidence_answers": answer["low_confidence", 1] - answer["random", 1],
                "low_confidence_answers_parallel": answer["low_confidence", 4] - answer["random", 4],
                "steps": story["low_confidence", 1] - story["low_confidence", 8],
                "variable_quality": variable["right"] - fixed["right"],
                "variable_cost": fixed["positions"] / variable["positions"],
            },
            rooms={
                "low_confidence": 1 - story["random", 1],
                "low_confidence_parallel": 1 - story["random", 4],
                "low_confidence_answers": 1 - answer["random", 1],
                "low_confidence_answers_parallel": 1 - answer["random", 4],
                "steps": 1 - story["low_confidence", 8],
            },
        )

    def orders(self, lab: Lab) -> Rows:
        """Stories: every order at every number of tokens per step, one block."""
        model = lab.pretrained.model
        task = story_task(lab.world, model, self.n_stories, lab.seed)

        def sampler(order: str, n: int) -> FixedLength:
            return FixedLength(
                response_length=STORY_TOKENS, n_steps=STORY_TOKENS // n, remasking=order, temperature=1.0
            )

        return [
            ask(model, task, sampler(order, n), lab.seed).row(order=order, **{"tokens per step": n})
            for order in ORDERS
            for n in TOKENS_PER_STEP
        ]

    def answers(self, lab: Lab) -> Rows:
        """Questions: every order at every number of tokens per step, variable length, blocks of 8."""
        model = lab.tuned.model
        task = question_task(lab.world, model, KINDS, self.n_questions, lab.seed)

        def sampler(order: str, n: int) -> VariableLength:
            return VariableLength(max_length=STORY_TOKENS, block_length=8, steps_per_block=8 // n, remasking=order)

        return [
            ask(model, task, sampler(order, n), lab.seed).row(order=order, **{"tokens per step": n})
            for order in ORDERS
            for n in TOKENS_PER_STEP
        ]

    def blocks(self, lab: Lab, model: LoadedRun, name: str) -> Rows:
        """Questions: fixed and variable length over block lengths, one token per step, the same budget.

        Args:
            lab: which asks.
            model: fine-tuned.
            name: of its format.
        """
        task = question_task(lab.world, model, KINDS, self.n_questions, lab.seed)
        found = []
        for block in self.block_lengths:
            samplers = {
                "fixed": FixedLength(response_length=STORY_TOKENS, block_length=block),
                "variable": VariableLength(max_length=STORY_TOKENS, block_length=block),
            }
            for length, sampler in samplers.items():
                found.append(ask(model, task, sampler, lab.seed).row(format=name, length=length, block=block))
        return found
