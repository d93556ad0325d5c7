"""Table 4: multiple choice by confidence score and by Monte-Carlo likelihood, at convergence and at equal passes."""

from collections.abc import Sequence
from typing import ClassVar

import torch

from illada_lab.evaluation.choice import ChoiceItem, choose
from illada_lab.evaluation.intervals import wilson
from illada_lab.experiments.choices import choice_items
from illada_lab.experiments.claims import Claim
from illada_lab.experiments.lab import Lab
from illada_lab.experiments.study import Outcome

TABLE_4 = "iLLaDA, Table 4"


class Scoring:
    """Four task types, four candidates each, under the pre-trained model.

    Args:
        n_questions: items per task type, at most.
        n_samples: mask sets per candidate of the Monte-Carlo likelihood, rising; the last stands for convergence.

    Raises:
        ValueError: numbers of samples that do not rise.
    """

    title: ClassVar[str] = "Multiple choice: confidence score against Monte-Carlo likelihood"
    trains_many: ClassVar[bool] = False
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(id="converged", sentence="The confidence score ranks candidates better than the likelihood.", source=TABLE_4,
              paper="+1.3 PIQA, +0.6 ARC-C, +2.3 HellaSwag (points)",
              metric="accuracy, confidence less Monte-Carlo at most samples, mean of the task types", unit="points",
              smallest=0.005),
        Claim(id="converged_long", sentence="The confidence score ranks long endings better than the likelihood.",
              source=TABLE_4, paper="+2.3 HellaSwag (points)",
              metric="accuracy on whole stories, confidence less Monte-Carlo at most samples", unit="points", smallest=0.005),
        Claim(id="equal_passes", sentence="At equal passes the confidence score ranks candidates better than the likelihood.",
              source=f"{TABLE_4} (our reading)",
              paper="not reported", metric="accuracy, confidence less Monte-Carlo with as many passes as the candidate has tokens, "
              "mean of the task types",
              unit="points", smallest=0.005),
        Claim(id="samples", sentence="One sample is too few for a Monte-Carlo likelihood of several tokens.",
              source="LLaDA, section 2.4, Eq. 6", paper="128 samples used", metric="accuracy, most samples less 1, mean of the task types",
              unit="points", smallest=0.005),
    )  # fmt: skip

    def __init__(self, *, n_questions: int, n_samples: Sequence[int] = (1, 4, 32)) -> None:
        self.n_questions, self.n_samples = n_questions, tuple(n_samples)
        if list(self.n_samples) != sorted(set(self.n_samples)) or self.n_samples[:1] != (1,):
            raise ValueError(f"n_samples = {list(n_samples)}; must rise from 1; for example [1, 4, 32]")

    def run(self, lab: Lab) -> Outcome:
        """See `Study`."""
        model = lab.pretrained.model
        tokens = model.predictor.tokens
        assert tokens.bos is not None, "our own tokenizers have a BOS"
        tasks = choice_items(
            lab.world, model.tokenizer.encode_known, tokens.bos, tokens.eos, self.n_questions, lab.seed
        )
        tasks = {task: items for task, items in tasks.items() if items}
        rows = [row for task, items in tasks.items() for row in self._task(model.predictor, task, items, lab.seed)]
        value = {(row["task"], row["rule"]): row["accuracy"] for row in rows}

        def gap(one: str, other: str, task: str | None = None) -> float:
            chosen = [task] if task else list(tasks)
            return sum(value[t, one] - value[t, other] for t in chosen) / len(chosen)

        most, longest = f"likelihood, {self.n_samples[-1]}", list(tasks)[-1]
        limit = {rule: 1 - sum(value[t, rule] for t in tasks) / len(tasks) for rule in (most, EQUAL, "likelihood, 1")}
        return Outcome(
            tables={"accuracy": rows},
            effects={
                "converged": gap("confidence", most),
                "converged_long": gap("confidence", most, longest),
                "equal_passes": gap("confidence", EQUAL),
                "samples": gap(most, "likelihood, 1"),
            },
            rooms={
                "converged": limit[most],
                "converged_long": 1 - value[longest, most],
                "equal_passes": limit[EQUAL],
                "samples": limit["likelihood, 1"],
            },
        )

    def _task(self, predictor, task: str, items: list[ChoiceItem], seed: int) -> list[dict]:
        """One task type under every rule."""
        # The published evaluation shows EOS behind the candidate; here it is the candidate's own last token.
        lengths = [len(candidate) for item in items for candidate in item.candidates]
        mean_length = round(sum(lengths) / len(lengths))
        rules = {
            "confidence": ("confidence", None, mean_length),
            EQUAL: ("monte_carlo", mean_length, mean_length),
            **{f"likelihood, {n}": ("monte_carlo", n, n) for n in self.n_samples},
        }
        rows = []
        for name, (rule, n_samples, passes) in rules.items():
            generator = torch.Generator().manual_seed(seed)
            chosen = choose(predictor, items, rule, n_samples=n_samples, generator=generator)
            n_right = sum(a == item.answer for a, item in zip(chosen, items, strict=True))
            low, high = wilson(n_right, len(items))
            rows.append({"task": task, "rule": name, "passes": passes, "accuracy": n_right / len(items), "ci_low": low,
                         "ci_high": high, "n": len(items)})  # fmt: skip
        return rows


EQUAL = "likelihood, equal passes"
