"""Faster decoding of the same model: several tokens at once, and caches. What it saves, and where it costs accuracy."""

from collections.abc import Sequence
from typing import Any, ClassVar

from illada_lab.experiments.asking import STORY_TOKENS, Asked, ask, question_task, story_task
from illada_lab.experiments.claims import Claim
from illada_lab.experiments.lab import Lab
from illada_lab.experiments.sampling import KINDS
from illada_lab.experiments.study import Outcome, Rows
from illada_lab.samplers import Factor, FixedLength, Threshold, VariableLength

SOURCE = "Fast-dLLM (arXiv 2505.22618)"


class Acceleration:
    """Answers and stories, one token per step and without a cache against everything faster.

    Answers are written at temperature 0 and variable length by the fine-tuned model: as in the paper's tasks, nearly every word follows
    from the question. Stories are drawn at temperature 1 in a fixed window by the base model: free choices come back later in the text, so
    what is revealed together may disagree, and where it breaks can be seen.

    Args:
        n_stories: first sentences to continue.
        n_questions: questions, all kinds together.
        block_length: tokens of a block; divides the window of 24.
        thresholds: probabilities compared, 0.9 and 0.5 among them.

    Raises:
        ValueError: as `FixedLength` and `Threshold`, or a threshold missing.
    """

    title: ClassVar[str] = "Acceleration: parallel decoding and caches"
    trains_many: ClassVar[bool] = False
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(id="threshold_quality", sentence="Revealing everything at least 0.9 sure at once loses nothing.", source=SOURCE,
              paper="GSM8K 79.3 to 79.2 (LLaDA 8B Instruct, length 256)",
              metric="questions: exact match, threshold 0.9 less one token per step", unit="points", threshold=-0.02),
        Claim(id="threshold_passes", sentence="A threshold of 0.9 saves more than a third of the passes.", source=SOURCE,
              paper="3.25 tokens per pass (GSM8K)", metric="questions: passes, one token per step over threshold 0.9", unit="times",
              threshold=1.5),
        Claim(id="threshold_stories", sentence="A threshold of 0.9 loses nothing in stories, where words are free choices.",
              source="our question",
              paper="not reported", metric="stories: share the grammar accepts, threshold 0.9 less one token per step",
              unit="points", threshold=-0.02),
        Claim(id="adaptive", sentence="At equal speed a threshold beats a fixed number of tokens per step.", source=SOURCE,
              paper="figure only",
              metric="stories: share the grammar accepts, threshold 0.5 less the fixed quota nearest in passes", unit="points",
              smallest=0.02),
        Claim(id="cache_quality", sentence="In stories a prefix cache (of what stands in front of the block) loses nothing.", source=SOURCE,
              paper="GSM8K 79.3 to 79.5 (prefix cache)", metric="stories: share the grammar accepts, prefix cache less none",
              unit="points", threshold=-0.02),
        Claim(id="cache_answers", sentence="In answers, where the question is all there is to look at, a prefix cache loses nothing.",
              source=SOURCE,
              paper="GSM8K 79.3 to 79.5 (prefix cache)", metric="questions: exact match, prefix cache less none", unit="points",
              threshold=-0.02),
        Claim(id="cache_refreshed", sentence="A prefix cache refreshed at every second step loses nothing in answers.",
              source="our question",
              paper="not reported", metric="questions: exact match, prefix cache refreshed every 2 steps less none", unit="points",
              threshold=-0.02),
        Claim(id="dual_quality", sentence="In stories a dual cache (behind the block too, masks included) loses nothing.", source=SOURCE,
              paper="GSM8K, 8 shots, parallel: 77.9 to 76.9 (length 256), 78.9 to 75.4 (512)",
              metric="stories: share the grammar accepts, dual cache less none", unit="points", threshold=-0.02),
        Claim(id="cache_positions", sentence="A dual cache saves more than a third of the positions.", source=SOURCE,
              paper="positions not reported; 3.2 times the speed (GSM8K, prefix cache)",
              metric="stories: positions computed, no cache over dual cache",
              unit="times", threshold=1.5),
        Claim(id="both_quality", sentence="In answers a threshold of 0.9 and a prefix cache together lose little.", source=SOURCE,
              paper="GSM8K 79.3 to 78.5; reproduced by others with 78.0 to 78.0 at length 256 and 81.1 to 76.6 at 512",
              metric="questions: exact match, threshold 0.9 with prefix cache less neither", unit="points", threshold=-0.02),
        Claim(id="refresh", sentence="A cache refreshed at every step changes nothing.", source="our check of the implementation",
              paper="exact by construction", metric="stories: share of equal texts, refreshed at every step and no cache, less 1",
              unit="points", threshold=-1e-9),
    )  # fmt: skip

    def __init__(
        self,
        *,
        n_stories: int,
        n_questions: int,
        block_length: int = 8,
        thresholds: Sequence[float] = (0.95, 0.9, 0.7, 0.5),
    ) -> None:
        self.n_stories, self.n_questions = n_stories, n_questions
        self.block_length, self.thresholds = block_length, tuple(thresholds)
        for value in (0.9, 0.5):
            if value not in self.thresholds:
                raise ValueError(f"thresholds = {list(thresholds)}; the claims are about {value}; add it")
        FixedLength(response_length=STORY_TOKENS, block_length=block_length)

    def run(self, lab: Lab) -> Outcome:
        """See `Study`."""
        stories, answers = self.stories(lab), self.answers(lab)
        base, adaptive = stories[BASE], stories["threshold 0.5"]
        samplers = [a.row(sampler=name, **{"tokens per pass": STORY_TOKENS / a.nfe}) for name, a in stories.items()]
        quota = equal_quota(samplers, "threshold 0.5")
        plain, fast = answers[BASE], answers["threshold 0.9"]
        equal = sum(a == b for a, b in zip(stories[EXACT].texts, base.texts, strict=True)) / len(base.texts)
        return Outcome(
            tables={
                "samplers": samplers,
                "answers": [a.row(sampler=name) for name, a in answers.items()],
            },
            effects={
                "threshold_quality": fast.share - plain.share,
                "threshold_passes": plain.nfe / fast.nfe,
                "threshold_stories": stories["threshold 0.9"].share - base.share,
                "adaptive": adaptive.share - quota["right"],
                "cache_quality": stories["prefix cache"].share - base.share,
                "cache_answers": answers["prefix cache"].share - plain.share,
                "cache_refreshed": answers[REFRESHED].share - plain.share,
                "dual_quality": stories["dual cache"].share - base.share,
                "cache_positions": base.token_forwards / stories["dual cache"].token_forwards,
                "both_quality": answers["threshold 0.9, prefix cache"].share - plain.share,
                "refresh": equal - 1,
            },
            rooms={"adaptive": 1 - quota["right"]},
        )

    def stories(self, lab: Lab) -> dict[str, Asked]:
        """Stories by every sampler."""
        model = lab.pretrained.model
        task = story_task(lab.world, model, self.n_stories, lab.seed)
        return {name: ask(model, task, sampler, lab.seed) for name, sampler in self.samplers().items()}

    def answers(self, lab: Lab) -> dict[str, Asked]:
        """Questions: thresholds, with and without a cache; nothing stands behind a block, so there is one kind of cache only."""
        model = lab.tuned.model
        task = question_task(lab.world, model, KINDS, self.n_questions, lab.seed)

        def sampler(**rules) -> VariableLength:
            return VariableLength(max_length=STORY_TOKENS, block_length=self.block_length, **rules)

        thresholds = {t: Threshold(threshold=t) for t in self.thresholds}
        samplers = {
            BASE: sampler(),
            **{f"threshold {t:g}": sampler(transfer=rule) for t, rule in thresholds.items()},
            "prefix cache": sampler(cache="prefix"),
            REFRESHED: sampler(cache="prefix", refresh_every=2),
            **{
                f"threshold {t:g}, prefix cache": sampler(cache="prefix", transfer=rule)
                for t, rule in thresholds.items()
            },
        }
        return {name: ask(model, task, one, lab.seed) for name, one in samplers.items()}

    def samplers(self) -> dict[str, FixedLength]:
        """Everything that is compared on stories, by name."""
        n_blocks = STORY_TOKENS // self.block_length

        def sampler(**rules) -> FixedLength:
            return FixedLength(response_length=STORY_TOKENS, block_length=self.block_length, temperature=1.0, **rules)

        quotas = [n for n in (1, 2, 4, self.block_length) if self.block_length % n == 0]
        return {
            **{f"quota {n}": sampler(n_steps=n_blocks * self.block_length // n) for n in dict.fromkeys(quotas)},
            **{f"threshold {t:g}": sampler(transfer=Threshold(threshold=t)) for t in self.thresholds},
            "factor 1": sampler(transfer=Factor(factor=1.0)),
            "prefix cache": sampler(cache="prefix"),
            "dual cache": sampler(cache="dual"),
            EXACT: sampler(cache="dual", refresh_every=1),
            "threshold 0.9, prefix cache": sampler(cache="prefix", transfer=Threshold(threshold=0.9)),
            "threshold 0.9, dual cache": sampler(cache="dual", transfer=Threshold(threshold=0.9)),
            "threshold 0.5, dual cache": sampler(cache="dual", transfer=Threshold(threshold=0.5)),
        }


def equal_quota(samplers: Rows, name: str) -> dict[str, Any]:
    """The row of the fixed quota whose number of passes is nearest to that of another sampler."""
    passes = next(row["passes"] for row in samplers if row["sampler"] == name)
    return min(
        (row for row in samplers if row["sampler"].startswith("quota")), key=lambda row: abs(row["passes"] - passes)
    )


# One token per step, every pass over the whole canvas.
BASE, EXACT = "quota 1", "dual cache, refreshed at every step"
# While an answer is written its question's keys and values change too: attention goes both ways.
REFRESHED = "prefix cache, refreshed every 2 steps"
