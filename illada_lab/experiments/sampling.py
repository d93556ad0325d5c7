"""How a masked diffusion model is read out: order, steps, blocks, and where the length comes from."""

from collections.abc import Sequence
from typing import ClassVar

import torch

from illada_lab.data.worlds import Instruction
from illada_lab.experiments.asking import ask
from illada_lab.experiments.claims import Claim
from illada_lab.experiments.lab import Lab, Trained
from illada_lab.experiments.study import Outcome
from illada_lab.samplers import FixedLength, VariableLength

LLADA = "LLaDA (arXiv 2502.09992), Appendix B.4"
# BOS opens a story; 32 words and EOS are one of middle length.
STORY_TOKENS = 33


class Sampling:
    """Word sums answered, and stories written, by every sampler setting the papers compare.

    Args:
        n_questions: word sums with numbers that fine-tuning never showed.
        n_stories: stories written from nothing for each number of steps.
        response_length: window of the fixed-length sampler, tokens; a worked word sum has 16 and EOS.
        block_lengths: blocks compared; each divides the window.

    Raises:
        ValueError: as `FixedLength`.
    """

    title: ClassVar[str] = "Sampling: order, steps, blocks and length"
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(id="low_confidence", sentence="Revealing the most confident predictions first beats a random order.",
              source=LLADA, paper="GSM8K 70.0 against 21.3 (LLaDA 8B Base)",
              metric="word sums, one block, one token per step: exact match, low-confidence less random remasking",
              unit="points", smallest=0.02),
        Claim(id="steps", sentence="More steps are better.",
              source=f"{LLADA}, steps against quality; third-party: iLLaDA on GSM8K 82 / 50 / 22 % at 1 / 4 / 8 tokens per step",
              paper="82 against 50 % (n = 50)", metric="word sums: exact match, 1 less 4 tokens per step", unit="points",
              smallest=0.02),
        Claim(id="story_steps", sentence="More steps are better, when a base model writes freely.",
              source=f"{LLADA}, steps against quality", paper="not reported",
              metric="stories drawn at temperature 1 that the grammar accepts: share, 1 less 4 tokens per step", unit="points",
              smallest=0.02),
        Claim(id="blocks", sentence="Filling block by block helps a fine-tuned model, which is too sure of EOS early.",
              source=LLADA, paper="GSM8K 77.5 in blocks of 32 against 69.4 in one (LLaDA 8B Instruct)",
              metric="word sums: exact match, blocks of a third of the window less one block", unit="points", smallest=0.02),
        Claim(id="variable_quality", sentence="Variable length loses nothing against a fixed length.",
              source="iLLaDA, inference", paper="not reported",
              metric="word sums: exact match, variable less fixed length, same blocks", unit="points", threshold=-0.02),
        Claim(id="variable_cost", sentence="Variable length computes less: no masks behind the block, none after the end.",
              source="iLLaDA, inference", paper="not reported",
              metric="positions computed per answer, fixed over variable length, same blocks and budget", unit="times",
              threshold=1.0),
    )  # fmt: skip

    def __init__(
        self,
        *,
        n_questions: int,
        n_stories: int,
        response_length: int = 24,
        block_lengths: Sequence[int] = (24, 12, 8, 4, 1),
    ) -> None:
        self.n_questions, self.n_stories = n_questions, n_stories
        self.response_length, self.block_lengths = response_length, tuple(block_lengths)
        for block_length in self.block_lengths:
            FixedLength(response_length=response_length, block_length=block_length)

    def run(self, lab: Lab) -> Outcome:
        """See `Study`."""
        questions = lab.world.questions("test", "word_sum", self.n_questions, seed=lab.seed)
        orders, steps = self._orders(lab, questions), self._steps(lab, questions)
        blocks, stories = self._blocks(lab, questions), self._stories(lab)
        share = {row["order"]: row["exact match"] for row in orders}
        by_steps = {row["tokens per step"]: row["exact match"] for row in steps}
        by_block = {(row["length"], row["block"]): row for row in blocks}
        valid = {row["tokens per step"]: row["valid"] for row in stories}
        third = self.response_length // 3
        fixed, variable = by_block["fixed", third], by_block["variable", third]
        one = by_block["fixed", self.response_length]["exact match"]
        return Outcome(
            tables={"orders": orders, "steps": steps, "blocks": blocks, "stories": stories},
            effects={
                "low_confidence": share["low_confidence"] - share["random"],
                "steps": by_steps[1] - by_steps[4],
                "story_steps": valid[1] - valid[4],
                "blocks": fixed["exact match"] - one,
                "variable_quality": variable["exact match"] - fixed["exact match"],
                "variable_cost": fixed["positions"] / variable["positions"],
            },
            rooms={
                "low_confidence": 1 - share["random"],
                "steps": 1 - by_steps[4],
                "story_steps": 1 - valid[4],
                "blocks": 1 - one,
            },
        )

    def _orders(self, lab: Lab, questions: list[Instruction]) -> list[dict]:
        """Every confidence rule, one block, one token per step."""
        rules = ("low_confidence", "margin", "entropy", "left_to_right", "random")
        samplers = {rule: FixedLength(response_length=self.response_length, remasking=rule) for rule in rules}
        return [ask(lab.tuned.model, questions, s, lab.seed).row(order=rule) for rule, s in samplers.items()]

    def _steps(self, lab: Lab, questions: list[Instruction]) -> list[dict]:
        """1 to 8 tokens per step, one block."""
        found = []
        for n in (1, 2, 4, 8):
            sampler = FixedLength(response_length=self.response_length, n_steps=max(1, self.response_length // n))
            found.append(ask(lab.tuned.model, questions, sampler, lab.seed).row(**{"tokens per step": n}))
        return found

    def _blocks(self, lab: Lab, questions: list[Instruction]) -> list[dict]:
        """Fixed and variable length over block lengths, one token per step, the same budget."""
        found = []
        for block in self.block_lengths:
            samplers = {
                "fixed": FixedLength(response_length=self.response_length, block_length=block),
                "variable": VariableLength(max_length=self.response_length, block_length=block),
            }
            for length, sampler in samplers.items():
                found.append(ask(lab.tuned.model, questions, sampler, lab.seed).row(length=length, block=block))
        return found

    def _stories(self, lab: Lab) -> list[dict]:
        """Stories from BOS alone, in random order at temperature 1: what the forward process undoes."""
        return [
            {"tokens per step": n, "valid": valid_stories(lab, lab.pretrained, self.n_stories, n), "n": self.n_stories}
            for n in (1, 2, 4, 8)
        ]


def valid_stories(lab: Lab, trained: Trained, n_stories: int, tokens_per_step: int) -> float:
    """Share of freely written stories that the grammar of the world accepts.

    Args:
        lab: whose world and seed.
        trained: a base model.
        n_stories: how many.
        tokens_per_step: revealed at once.
    """
    model = trained.model
    bos = model.predictor.tokens.bos
    assert bos is not None, "our own tokenizers have a BOS"
    sampler = FixedLength(
        response_length=STORY_TOKENS,
        n_steps=-(-STORY_TOKENS // tokens_per_step),
        remasking="random",
        temperature=1.0,
        has_trace=False,
    )
    out = sampler.sample(
        model.predictor, torch.full((n_stories, 1), bos), generator=torch.Generator().manual_seed(lab.seed)
    )
    texts = [model.tokenizer.decode(response, skip_special=False) for response in out.responses]
    return sum(lab.world.stories.parse(text) is not None for text in texts) / n_stories
