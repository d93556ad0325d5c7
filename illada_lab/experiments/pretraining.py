"""Pre-training: how near the entropy the loss comes, where in t it sits, and what the decay of the learning rate does."""

from typing import ClassVar

from illada_lab.experiments.claims import Claim
from illada_lab.experiments.lab import Lab, Trained
from illada_lab.experiments.study import Outcome, Rows

CONSTANT, DECAYED, COSINE = "constant", "constant, then cosine", "cosine from the start"


class Pretraining:
    """The main job's run (constant rate, then cosine) beside two that differ in the schedule alone: same data, masks and steps.

    Up to the start of the decay the first two are the same run.
    """

    title: ClassVar[str] = "Pre-training: the loss against the entropy, and the decay after the plateau"
    trains_many: ClassVar[bool] = True
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(id="decay", sentence="After the constant phase a cosine decay takes the loss down again.",
              source="iLLaDA, pre-training recipe", paper="a curve without numbers",
              metric="bound on held-out documents at the end, constant rate continued less decayed", unit="nats/token"),
        Claim(id="cosine", sentence="A constant phase before the decay costs nothing against a cosine from the start.",
              source="our question; the paper does not ablate it", paper="not reported",
              metric="bound at the end, cosine from the start less constant, then cosine", unit="nats/token", threshold=-0.005),
        Claim(id="limit", sentence="The bound comes near the entropy of the language from above.",
              source="our check: no model can do better", paper="not known for real text",
              metric="0.1 less (bound over entropy - 1) on stories", unit="share of the entropy"),
    )  # fmt: skip

    def run(self, lab: Lab) -> Outcome:
        """See `Study`."""
        runs = {
            DECAYED: lab.pretrained,
            CONSTANT: lab.branch(lab.pretrained, "constant", "lr.decay_start=1.0"),
            COSINE: lab.train("cosine", "lr=cosine"),
        }
        last = {name: run.history["validation"][-1]["kinds"] for name, run in runs.items()}
        bound = {name: kinds["all"]["nelbo_per_token"] for name, kinds in last.items()}
        return Outcome(
            tables={
                "curves": [row for name, run in runs.items() for row in curve(run, name)],
                "kinds": [row for name, kinds in last.items() for row in _kinds(name, kinds)],
                "bins": [{"schedule": name, **row} for name, run in runs.items() for row in run.history["validation"][-1]["bins"]],
            },
            effects={
                "decay": bound[CONSTANT] - bound[DECAYED],
                "cosine": bound[COSINE] - bound[DECAYED],
                "limit": 0.1 - last[DECAYED]["story"]["over_entropy"],
            },
        )  # fmt: skip


def curve(run: Trained, name: str, kind: str = "all") -> Rows:
    """Validated bounds of a run by step, nats per token."""
    return [
        {"schedule": name, "step": record["step"], "bound": record["kinds"][kind]["nelbo_per_token"]}
        for record in run.history["validation"]
    ]


def _kinds(name: str, kinds: dict) -> Rows:
    return [
        {"schedule": name, "kind": kind, "bound": row["nelbo_per_token"], "entropy": row["entropy_per_token"],
         "over entropy": row["over_entropy"]}
        for kind, row in kinds.items()
    ]  # fmt: skip
