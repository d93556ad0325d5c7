"""Faster decoding of the same model: several tokens at once, and caches. What it saves, and where it costs accuracy."""

from collections.abc import Sequence
from typing import ClassVar

from illada_lab.experiments.asking import STORY_TOKENS, ask, story_task
from illada_lab.experiments.claims import Claim
from illada_lab.experiments.lab import Lab
from illada_lab.experiments.study import Outcome
from illada_lab.samplers import Factor, FixedLength, Threshold

SOURCE = "Fast-dLLM (arXiv 2505.22618)"


class Acceleration:
    """Stories continued in blocks, one token per step and without a cache against everything faster; temperature 1.

    Args:
        n_stories: first sentences to continue.
        block_length: tokens of a block; divides the window of 24.
        thresholds: probabilities compared, 0.9 and 0.5 among them.

    Raises:
        ValueError: as `FixedLength` and `Threshold`, or a threshold missing.
    """

    title: ClassVar[str] = "Acceleration: parallel decoding and caches"
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(id="threshold_quality", sentence="Revealing everything at least 0.9 sure at once loses nothing.", source=SOURCE,
              paper="GSM8K 79.3 to 79.2 (LLaDA 8B Instruct, length 256)",
              metric="stories: share the grammar accepts, threshold 0.9 less one token per step", unit="points", threshold=-0.02),
        Claim(id="threshold_passes", sentence="It needs several times fewer passes.", source=SOURCE,
              paper="3.25 tokens per pass (GSM8K)", metric="passes, one token per step over threshold 0.9", unit="times",
              threshold=1.5),
        Claim(id="adaptive", sentence="At equal speed a threshold beats a fixed number of tokens per step.", source=SOURCE,
              paper="figure only",
              metric="stories: share the grammar accepts, threshold 0.5 less the fixed quota of no fewer passes", unit="points",
              smallest=0.02),
        Claim(id="cache_quality", sentence="A cache refreshed at block borders loses nothing.", source=SOURCE,
              paper="GSM8K 79.3 to 79.5 (prefix cache)", metric="stories: share the grammar accepts, dual cache less none", unit="points",
              threshold=-0.02),
        Claim(id="cache_positions", sentence="It computes several times fewer positions.", source=SOURCE,
              paper="3.2 times the speed (GSM8K, prefix cache)", metric="positions computed, no cache over dual cache",
              unit="times", threshold=1.5),
        Claim(id="both_quality", sentence="Threshold and cache together lose little.", source=SOURCE,
              paper="GSM8K 79.3 to 78.5; reproduced by others with 78.0 to 78.0 at length 256 and 81.1 to 76.6 at 512",
              metric="stories: share the grammar accepts, threshold 0.9 with dual cache less neither", unit="points", threshold=-0.02),
        Claim(id="refresh", sentence="A cache refreshed at every step changes nothing.", source="our check of the implementation",
              paper="exact by construction", metric="share of equal answers, refreshed at every step and no cache, less 1",
              unit="points", threshold=-1e-9),
    )  # fmt: skip

    def __init__(
        self, *, n_stories: int, block_length: int = 8, thresholds: Sequence[float] = (0.95, 0.9, 0.7, 0.5)
    ) -> None:
        self.n_stories, self.block_length, self.thresholds = n_stories, block_length, tuple(thresholds)
        for value in (0.9, 0.5):
            if value not in self.thresholds:
                raise ValueError(f"thresholds = {list(thresholds)}; the claims are about {value}; add it")
        FixedLength(response_length=STORY_TOKENS, block_length=block_length)

    def run(self, lab: Lab) -> Outcome:
        """See `Study`."""
        model = lab.pretrained.model
        task = story_task(lab.world, model, self.n_stories, lab.seed)
        asked = {name: ask(model, task, sampler, lab.seed) for name, sampler in self.samplers().items()}
        rows = [one.row(sampler=name, **{"tokens per pass": STORY_TOKENS / one.nfe}) for name, one in asked.items()]
        base, fast, dual, both = (
            asked[name] for name in (BASE, "threshold 0.9", "dual cache", "threshold 0.9, dual cache")
        )
        adaptive = asked["threshold 0.5"]
        quota = min(
            (a for name, a in asked.items() if name.startswith("quota") and a.nfe >= adaptive.nfe), key=lambda a: a.nfe
        )
        equal = sum(a == b for a, b in zip(asked[EXACT].texts, base.texts, strict=True)) / len(task.prompts)
        return Outcome(
            tables={"samplers": rows},
            effects={
                "threshold_quality": fast.share - base.share,
                "threshold_passes": base.nfe / fast.nfe,
                "adaptive": adaptive.share - quota.share,
                "cache_quality": dual.share - base.share,
                "cache_positions": base.token_forwards / dual.token_forwards,
                "both_quality": both.share - base.share,
                "refresh": equal - 1,
            },
            rooms={"adaptive": 1 - quota.share},
        )

    def samplers(self) -> dict[str, FixedLength]:
        """Everything that is compared, by name."""
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


# One token per step, every pass over the whole canvas.
BASE, EXACT = "quota 1", "dual cache, refreshed at every step"
