"""Claims of the paper, and the test that decides whether a run has replicated them."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from illada_lab.student_t import mean_and_spread, t_quantile

REPLICATED, NOT_REPLICATED, INCONCLUSIVE = "replicated", "not replicated", "inconclusive"
# Fewer seeds than this decide nothing.
MIN_SEEDS = 3


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One sentence of a paper, as something that can be measured and fail.

    Args:
        id: a name of its own inside its study.
        sentence: the claim in words.
        source: paper and place.
        paper: what the paper reports at its size, in its own unit; "not reported" where it gives no number.
        metric: what a seed's effect is, so that a larger one speaks for the claim.
        unit: of the effect; "points" are hundredths of a share.
        threshold: the claim holds where the effect is above this.
        smallest: smallest effect worth the name; at or above `threshold`. None: `threshold`.

    Raises:
        ValueError: a smallest effect below the threshold.
    """

    id: str
    sentence: str
    source: str
    paper: str
    metric: str
    unit: str
    threshold: float = 0.0
    smallest: float | None = None

    def __post_init__(self) -> None:
        if self.smallest is not None and self.smallest < self.threshold:
            raise ValueError(
                f"smallest = {self.smallest}; below what the claim needs; {self.threshold} (threshold) or more"
            )


@dataclass(frozen=True)
class Verdict:
    """What the test says of a claim.

    Attributes:
        verdict: replicated, not replicated or inconclusive.
        effect: mean over the seeds.
        ci_low, ci_high: 95 % interval of the mean; None with a single seed.
        reason: the rule that decided, in words.
    """

    verdict: str
    effect: float
    ci_low: float | None
    ci_high: float | None
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def t_interval(values: Sequence[float], n_looks: int = 1) -> tuple[float, float]:
    """95 % interval of the mean of independent values, Student's t.

    Args:
        values: one per seed.
        n_looks: how often a verdict was looked for, this time included. Each look is a chance to be wrong: its interval leaves out
            5 % / n_looks, the first 5 %, a second 2.5 %, so that both together leave out 7.5 % at most.

    Raises:
        ValueError: fewer than two values.

    Source: Student (1908); Bonferroni. Seeds are few, so the normal quantile would promise too much: with 3 it is 4.30, not 1.96.
    """
    mean, spread = mean_and_spread(values)
    n = len(values)
    half = t_quantile(1 - 0.025 / n_looks, n - 1) * spread / math.sqrt(n)
    return mean - half, mean + half


def judge(claim: Claim, effects: Sequence[float], rooms: Sequence[float] = (), n_looks: int = 1) -> Verdict:
    """Decide a claim from one effect per seed.

    - replicated: the whole interval is above the claim's threshold;
    - inconclusive: fewer than three seeds, or no room (what the claim improves on is so good already that the smallest effect
      worth the name could not show; where the claim is that nothing is lost: both are so good that no loss could), or an interval that
      neither rule covers;
    - not replicated: the whole interval is below the smallest effect worth the name (or at the threshold and below).

    Args:
        claim: what is claimed.
        effects: one number per seed.
        rooms: largest effect each seed could have shown (for shares: 1 - the baseline's; of a claim that nothing is lost 1 - the worse
            one's), or nothing.
        n_looks: see `t_interval`.

    Raises:
        ValueError: no effect at all.

    Source: our choice: an interval test that can also say no (two one-sided tests against the smallest effect of interest).
    """
    if not effects:
        raise ValueError(f"effects = []; {claim.id} has not been measured; one number per seed")
    mean, smallest = sum(effects) / len(effects), claim.threshold if claim.smallest is None else claim.smallest
    if len(effects) < MIN_SEEDS:
        low, high = t_interval(effects, n_looks) if len(effects) > 1 else (None, None)
        return Verdict(INCONCLUSIVE, mean, low, high, f"{len(effects)} of {MIN_SEEDS} seeds")
    low, high = t_interval(effects, n_looks)
    mean_room = sum(rooms) / len(rooms) if rooms else math.inf
    if claim.threshold < 0 and mean_room < -claim.threshold:
        return Verdict(
            INCONCLUSIVE, mean, low, high, "no room: both are at their limit, where no difference could show"
        )
    if low > claim.threshold:
        small = (
            f", and below {_said(smallest, claim.unit)}: real, and small"
            if claim.threshold >= 0 and high < smallest
            else ""
        )
        return Verdict(
            REPLICATED, mean, low, high, f"the whole interval is above {_said(claim.threshold, claim.unit)}{small}"
        )
    if mean_room < max(smallest, 1e-12):
        return Verdict(INCONCLUSIVE, mean, low, high, "no room: what it improves on is at its limit")
    if high <= claim.threshold or high < smallest:
        return Verdict(NOT_REPLICATED, mean, low, high, f"the whole interval is below {_said(smallest, claim.unit)}")
    within = [_said(value, claim.unit) for value in sorted({claim.threshold, smallest}) if low <= value <= high]
    return Verdict(INCONCLUSIVE, mean, low, high, f"the interval holds {' and '.join(within)}")


def _said(limit: float, unit: str) -> str:
    """A limit in the unit in which the effect beside it is written: shares in points."""
    return f"{100 * limit:g} points" if unit == "points" and limit else f"{limit:g}"
