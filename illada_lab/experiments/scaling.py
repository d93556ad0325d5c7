"""A ladder of sizes at equal FLOPs: how the bound falls with compute, and which size is best; larger scales as planned."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from illada_lab.config import compose
from illada_lab.experiments.claims import Claim
from illada_lab.experiments.lab import Lab
from illada_lab.experiments.study import Outcome, Rows
from illada_lab.models.spec import ModelSpec
from illada_lab.planner.size import model_spec

MEASURED, PLANNED = "measured", "planned"
# Scales above a laptop: their recipes' arithmetic, not run here.
LARGER = ("small", "100m", "1b", "8b")


class Scaling:
    """Every size of the ladder trained with every budget of FLOPs: a smaller model sees more tokens for the same money.

    A size is the scale's own model with width, heads' size and inner width multiplied; the number of layers stays. The peak rate is the
    same for all (of Muon's updates the size does not depend on the width).

    Args:
        factors: of the width, rising, three or more; the sizes of the ladder.
        budgets: FLOPs of a run as shares of the scale's own pre-training, rising, two or more.

    Raises:
        ValueError: too few of either, or values that do not rise.
    """

    title: ClassVar[str] = "Scaling: a ladder of sizes at equal FLOPs"
    trains_many: ClassVar[bool] = True
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(id="compute", sentence="The loss falls with compute.",
              source="LLaDA (arXiv 2502.09992), section 3.1", paper="scores rise from 1e20 to 1e23 FLOPs, in figures",
              metric="exponent a of (bound - entropy) ~ FLOPs^-a, fitted to the best size of each budget", unit="exponent"),
        Claim(id="optimum_each", sentence="At every budget a middle size is best: below it capacity is missing, above it steps.",
              source="our check of the ladder (iso-FLOPs, as in LLaDA's section 3.1); asked of every budget after the measurement",
              paper="not reported",
              metric="bound of the better end of the ladder less that of the best size between them, the smallest over the budgets "
              "(which noise lowers)",
              unit="nats/token", smallest=0.005),
    )  # fmt: skip

    def __init__(self, *, factors: Sequence[float], budgets: Sequence[float]) -> None:
        self.factors, self.budgets = tuple(factors), tuple(budgets)
        for name, values, n in (("factors", self.factors, 3), ("budgets", self.budgets, 2)):
            if len(values) < n or list(values) != sorted(set(values)) or values[0] <= 0:
                raise ValueError(
                    f"{name} = {list(values)}; must rise above 0, {n} or more of them; for example [0.7, 1, 1.4]"
                )

    def run(self, lab: Lab) -> Outcome:
        """See `Study`."""
        rows = [self._run(lab, factor, budget) for budget in self.budgets for factor in self.factors]
        fits = [fit_sizes([row for row in rows if row["budget"] == budget]) for budget in self.budgets]
        return Outcome(
            tables={"ladder": rows, "fits": fits, "planned": [planned(name) for name in LARGER]},
            effects={
                "compute": exponent([fit["FLOPs"] for fit in fits], [fit["lowest gap"] for fit in fits]),
                "optimum_each": min(fit["ends less middle"] for fit in fits),
            },
        )

    def _run(self, lab: Lab, factor: float, budget: float) -> dict[str, Any]:
        """One size trained with one budget."""
        config = lab.config()
        own = model_spec(config)
        spec = spec_of(widened(config.model, factor), own.vocab_size)
        length, tokens_per_step = config.scale.length, config.scale.batch_size * config.scale.length
        flops = budget * config.scale.n_steps * tokens_per_step * own.flops_per_token(length)
        n_steps = max(2, round(flops / (tokens_per_step * spec.flops_per_token(length))))
        run = lab.train(
            f"scaling-{factor:g}-{budget:g}",
            *(f"model.{key}={getattr(spec, key)}" for key in ("d_model", "d_ffn")),
            f"trainer.max_steps={n_steps}",
            # The same share of the run as in the scale's own.
            f"lr.n_warmup_steps={max(1, round(config.scale.n_warmup_steps * n_steps / config.scale.n_steps))}",
            "trainer.validate_every=null",
            "trainer.save_every=null",
        )
        last = run.history["validation"][-1]["kinds"]["all"]
        return {
            "factor": factor, "budget": budget, "status": MEASURED, "parameters": spec.n_parameters,
            "without embeddings": spec.n_non_embedding_parameters, "steps": n_steps, "tokens": n_steps * tokens_per_step,
            "FLOPs": flops, "bound": last["nelbo_per_token"], "stderr": last["stderr"],
            "gap": last["nelbo_per_token"] - last["entropy_per_token"],
        }  # fmt: skip


def widened(model: Any, factor: float) -> dict[str, Any]:
    """Sizes of a model whose width is multiplied, rounded so that the heads keep an even size."""
    per_head = 2 * model["n_heads"]
    d_model = max(per_head, round(model["d_model"] * factor / per_head) * per_head)
    return {**model, "d_model": d_model, "d_ffn": max(1, round(model["d_ffn"] * d_model / model["d_model"]))}


def spec_of(model: Any, vocab_size: int) -> ModelSpec:
    """Sizes as a `ModelSpec`."""
    sizes = {key: value for key, value in dict(model).items() if key != "_target_"}
    return ModelSpec(**{**sizes, "vocab_size": vocab_size})


def fit_sizes(rows: Rows) -> dict[str, Any]:
    """One budget: a parabola of the bound over ln(non-embedding size), its curvature and its lowest point inside the ladder.

    Source: iso-FLOPs profiles, Hoffmann et al. (arXiv 2203.15556), approach 2.
    """
    x = np.log([row["without embeddings"] for row in rows])
    y = np.array([row["bound"] for row in rows])
    centre = float(x.mean())
    a, b, _ = (float(value) for value in np.polyfit(x - centre, y, 2))
    # A parabola that opens downwards has its lowest point at an end of the ladder.
    best = float(np.clip(centre - b / (2 * a), x[0], x[-1])) if a > 0 else float(x[int(y.argmin())])
    return {
        "budget": rows[0]["budget"], "FLOPs": rows[0]["FLOPs"], "curvature": 2 * a, "best size": math.exp(best),
        "is inside": bool(a > 0 and x[0] < best < x[-1]), "lowest bound": float(y.min()),
        "lowest gap": min(row["gap"] for row in rows), "ends less middle": float(min(y[0], y[-1]) - y[1:-1].min()),
    }  # fmt: skip


def exponent(flops: Sequence[float], gaps: Sequence[float]) -> float:
    """a of gap ~ FLOPs^-a, least squares of the logarithms; a gap at or below 1e-3 counts as 1e-3, the scatter of an estimate."""
    slope = np.polyfit(np.log(flops), np.log(np.maximum(gaps, 1e-3)), 1)[0]
    return -float(slope)


def planned(scale: str) -> dict[str, Any]:
    """Arithmetic of a larger scale's pre-training recipe; nothing of it has been run."""
    config = compose([f"scale={scale}"])
    spec = spec_of(config.model, config.model.vocab_size or config.scale.vocab_size)
    tokens = config.scale.n_steps * config.scale.batch_size * config.scale.length
    return {
        "scale": scale, "status": PLANNED, "parameters": spec.n_parameters, "without embeddings": spec.n_non_embedding_parameters,
        "steps": config.scale.n_steps, "tokens": tokens, "FLOPs": tokens * spec.flops_per_token(config.scale.length),
    }  # fmt: skip
