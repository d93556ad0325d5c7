"""Figure 1: a fine-tuned model goes on improving over many epochs of the same instructions; the autoregressive twin beside it."""

from collections.abc import Sequence
from typing import ClassVar

from illada_lab.config import build
from illada_lab.evaluation.autoregressive import Greedy
from illada_lab.experiments.asking import STORY_TOKENS, ask, question_task
from illada_lab.experiments.claims import Claim
from illada_lab.experiments.lab import Lab, Trained
from illada_lab.experiments.sampling import KINDS
from illada_lab.experiments.study import Outcome
from illada_lab.experiments.twin import TWIN_SFT, twin_of
from illada_lab.samplers import VariableLength

FIGURE_1 = "iLLaDA, Figure 1"
DIFFUSION, TWIN = "diffusion", "autoregressive twin"
REPEATED, FRESH = "12 epochs", "none twice"
# Kinds of questions of which fresh instructions bring new ones.
NEW = ("word_sum", "choice")


class SftEpochs:
    """One run per model and number of epochs, each with its own schedule, from the same pre-trained model.

    No average of the weights, as in the paper: over the few dozen steps of three epochs it would hardly leave the pre-trained model,
    and what is measured would be the average's delay. More epochs are more steps too; a control takes as many steps as 12
    epochs and meets none of the instructions twice. It is asked for what is new in them, word sums and choices: the world has few facts
    and plain sums, and words for them, which come again in both.

    Args:
        n_examples: different instructions; the scale's own where those are fewer.
        epochs: numbers of epochs, rising; 3 and 12 among them; the last is beyond the paper's.
        n_questions: all kinds together.
        peak_ratio: peak learning rate over that of pre-training. Above the scale's own, which is made for a hundred times as many steps:
            with it three epochs of few instructions would not begin to answer (they hardly do as it is).

    Raises:
        ValueError: 3 or 12 missing, or numbers that do not rise, or a rate out of range.
    """

    title: ClassVar[str] = "Fine-tuning: many epochs of few instructions"
    trains_many: ClassVar[bool] = False
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(id="epochs", sentence="A diffusion model answers better after 12 epochs of fine-tuning than after 3.", source=FIGURE_1,
              paper="GSM8K 85 to 89, MATH 50 to 57, MMLU-Pro 48 to 53 (read off)",
              metric="diffusion, held-out questions: exact match, 12 less 3 epochs (and four times the steps)", unit="points",
              smallest=0.02),
        Claim(id="beyond", sentence="A diffusion model still improves beyond 12 epochs of fine-tuning.", source=FIGURE_1,
              paper="not measured beyond 12",
              metric="diffusion, held-out questions: exact match, most epochs less 12", unit="points", smallest=0.02),
        Claim(id="more_than_twin", sentence="From 3 to 12 epochs diffusion gains more than an autoregressive model.",
              source="our question; the paper has no twin", paper="not reported",
              metric="gain in exact match at equal epochs (in fewer steps for the twin, whose rows hold more), diffusion less twin",
              unit="points", smallest=0.02),
        Claim(id="repeats", sentence="12 epochs of few instructions teach as much as twelve times as many do in one.",
              source="our control; Figure 1 has none", paper="not reported",
              metric="diffusion, held-out word sums and choices: exact match, 12 epochs less as many steps without repetition",
              unit="points", threshold=-0.02),
    )  # fmt: skip

    def __init__(
        self, *, n_examples: int, epochs: Sequence[int] = (3, 6, 9, 12, 24), n_questions: int, peak_ratio: float = 0.5
    ) -> None:
        self.n_examples, self.epochs, self.n_questions = n_examples, tuple(epochs), n_questions
        if not 0 < peak_ratio <= 1:
            raise ValueError(f"peak_ratio = {peak_ratio}; a share of the rate of pre-training; above 0, at most 1")
        self.peak_ratio = peak_ratio
        if list(self.epochs) != sorted(set(self.epochs)) or not {3, 12} < set(self.epochs) or self.epochs[-1] == 12:
            raise ValueError(f"epochs = {list(epochs)}; must rise past 12, 3 and 12 among them; [3, 6, 9, 12, 24]")

    def run(self, lab: Lab) -> Outcome:
        """See `Study`."""
        models = {
            DIFFUSION: (lab.pretrained, ("experiment=sft",), VariableLength(max_length=STORY_TOKENS, block_length=8)),
            TWIN: (twin_of(lab), TWIN_SFT, Greedy(max_length=STORY_TOKENS)),
        }
        rows, control = [], []
        for name, (start, recipe, sampler) in models.items():
            prefix = "" if name == DIFFUSION else "autoregressive-"
            task = question_task(lab.world, start.model, KINDS, self.n_questions, lab.seed)
            for epochs in self.epochs:
                run, n_steps = self.tuned(lab, start, epochs, recipe, prefix)
                rows.append(ask(run.model, task, sampler, lab.seed).row(model=name, epochs=epochs, steps=n_steps))
            task = question_task(lab.world, start.model, NEW, self.n_questions, lab.seed)
            for data, is_fresh in ((REPEATED, False), (FRESH, True)):
                run, n_steps = self.tuned(lab, start, 12, recipe, prefix, is_fresh)
                control.append(
                    ask(run.model, task, sampler, lab.seed).row(model=name, instructions=data, steps=n_steps)
                )
        right = {(row["model"], row["epochs"]): row["right"] for row in rows}
        gain = {name: right[name, 12] - right[name, 3] for name in models}
        most = self.epochs[-1]
        open_kinds = {row["instructions"]: row["right"] for row in control if row["model"] == DIFFUSION}
        return Outcome(
            tables={"epochs": rows, "control": control},
            effects={
                "epochs": gain[DIFFUSION],
                "beyond": right[DIFFUSION, most] - right[DIFFUSION, 12],
                "more_than_twin": gain[DIFFUSION] - gain[TWIN],
                "repeats": open_kinds[REPEATED] - open_kinds[FRESH],
            },
            rooms={"epochs": 1 - right[DIFFUSION, 3], "beyond": 1 - right[DIFFUSION, 12]},
        )

    def tuned(
        self,
        lab: Lab,
        start: Trained,
        epochs: int,
        recipe: Sequence[str] = ("experiment=sft",),
        prefix: str = "",
        is_fresh: bool = False,
    ) -> tuple[Trained, int]:
        """A model after so many epochs of the study's instructions, and the optimiser steps they took.

        Args:
            lab: where it is trained, or found.
            start: the pre-trained model.
            epochs: passes over the instructions.
            recipe: overrides that say how; `TWIN_SFT` for the twin.
            prefix: of the run's name.
            is_fresh: take as many steps with all the scale's instructions instead: none is taken twice where there are enough.
        """
        n_examples = min(self.n_examples, lab.config("experiment=sft").data.source.n_documents)
        few = f"data.source.n_documents={n_examples}"
        overrides = [*recipe, "trainer.validate_every=null", "trainer.save_every=null"]
        module = build(lab.config(*overrides, few).data)
        module.prepare(start.model.tokenizer)
        n_steps = max(1, round(epochs * module.steps_per_epoch))
        run = lab.train_from(
            start,
            f"{prefix}sft-{'fresh-for-' if is_fresh else ''}{n_examples}x{epochs}-rate{self.peak_ratio}",
            *overrides,
            *([] if is_fresh else [few]),
            "trainer.ema_decay=null",
            f"trainer.max_steps={n_steps}",
            f"lr.n_warmup_steps={min(5, n_steps - 1)}",
            f"lr.peak_ratio={self.peak_ratio}",
        )
        return run, n_steps
