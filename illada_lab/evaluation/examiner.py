"""Asking a suite's questions task by task, item by item, and what came of it."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from illada_lab.data.tokenizer import Tokenizer
from illada_lab.evaluation.choice import ChoiceItem, choose
from illada_lab.evaluation.generation import Generated, Sampler, generate
from illada_lab.evaluation.health import health
from illada_lab.evaluation.intervals import share_interval
from illada_lab.evaluation.journal import Batch, Journal, Records
from illada_lab.models.protocol import Predictor

# Items that are answered, and written, together. Our choice: enough to fill a pass, few enough to lose little when broken off.
BATCH = 64


@dataclass(frozen=True)
class Asked:
    """A question of a suite.

    Attributes:
        ids: prompt of the model.
        text: the question as it reads.
        answer: what is right.
    """

    ids: list[int]
    text: str
    answer: str


@dataclass
class SuiteResult:
    """What a suite measured.

    Attributes:
        rows: one per task and rule: task, metric, value, ci_low, ci_high, n, chance, target, note.
        items: every question with what the model said.
        health: rows of the health panel (generated answers only).
        settings: what the numbers depend on beside model and world.
        seed: of the intervals.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    items: list[dict[str, Any]] = field(default_factory=list)
    health: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int = 0

    def add(
        self,
        task: str,
        metric: str,
        is_correct: Sequence[bool],
        *,
        chance: float,
        target: float | None = None,
        note: str = "",
    ) -> None:
        """One row, with its 95 % interval (`share_interval`)."""
        n = len(is_correct)
        low, high = share_interval(is_correct, seed=self.seed)
        self.rows.append(
            {"task": task, "metric": metric, "value": sum(is_correct) / n, "ci_low": low, "ci_high": high, "n": n,
             "chance": chance, "target": target, "note": note}
        )  # fmt: skip


@dataclass
class Examiner:
    """One model before the questions of a suite; every batch has randomness of its own, from the seed and its place.

    Args:
        predictor: the model.
        tokenizer: its tokenizer.
        seed: of masks and draws.
        journal: takes the records, and gives back those of a run that was broken off.
        result: takes rows and items.
    """

    predictor: Predictor
    tokenizer: Tokenizer
    seed: int
    journal: Journal
    result: SuiteResult
    seconds: float = field(default=0.0, init=False)
    _answers: Records = field(default_factory=list, init=False)

    def write(
        self,
        task: str,
        asked: Sequence[Asked],
        sampler: Sampler,
        judge: Callable[[Sequence[Asked], list[str]], Records],
    ) -> Records:
        """Let the model answer; `judge` says of each answer is_correct and what else is worth keeping."""
        found = self._all(task, asked, partial(self._written, sampler=sampler, judge=judge))
        self._answers += found
        return found

    def choose(self, task: str, items: Sequence[ChoiceItem], rule: str, n_samples: int | None = None) -> Records:
        """Let the model choose among candidates."""
        return self._all(
            f"{task}: {rule.replace('_', ' ')}", items, partial(self._chosen, rule=rule, n_samples=n_samples)
        )

    def ask(self, task: str, items: Sequence[Any], answer: Callable[[str, Sequence[Any]], Records]) -> Records:
        """Let `answer` make the records of each batch of items."""
        return self._all(task, items, lambda task, part, generator: answer(task, part))  # nothing is drawn

    def health(self) -> list[dict[str, Any]]:
        """The health panel of everything that was written; its speed only where this process has written it all."""
        written = [
            Generated(item["text"], item["stop_reason"], item["nfe"], item["n_tokens"], item["trace"])
            for item in self._answers
        ]
        rows = health(written, self.seconds, self.predictor.tokens)
        return [row for row in rows if row["name"] != "tokens per second" or self.journal.is_own]

    def _all(self, task: str, items: Sequence[Any], answer: Callable[..., Records]) -> Records:
        batches: list[Batch] = []
        for start in range(0, len(items), BATCH):
            part = items[start : start + BATCH]
            keys = [f"{task}/{start + i}" for i in range(len(part))]
            batches.append((keys, partial(answer, task, part, generator=self._generator(task, start))))
        found = self.journal.answered(batches)
        self.result.items += found
        return found

    def _generator(self, task: str, start: int) -> torch.Generator:
        digest = hashlib.blake2b(f"{self.seed} {task} {start}".encode(), digest_size=7).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest))

    def _written(
        self, task: str, part: Sequence[Asked], generator: torch.Generator, sampler: Sampler, judge: Any
    ) -> Records:
        written, took = generate(self.predictor, self.tokenizer, [a.ids for a in part], sampler, generator=generator)
        self.seconds += took
        judged = judge(part, [g.text for g in written])
        return [
            record(task, asked.text, asked.answer, g, **found)
            for asked, g, found in zip(part, written, judged, strict=True)
        ]

    def _chosen(
        self, task: str, part: Sequence[ChoiceItem], generator: torch.Generator, rule: str, n_samples: int | None
    ) -> Records:
        chosen = choose(self.predictor, part, rule, n_samples=n_samples, generator=generator)
        return [self._choice(task, item, number) for item, number in zip(part, chosen, strict=True)]

    def _choice(self, task: str, item: ChoiceItem, chosen: int) -> dict[str, Any]:
        """A choice as it reads."""
        texts = [self.tokenizer.decode(candidate) for candidate in item.candidates]
        shown = Generated(texts[chosen], "chosen", 0, len(item.candidates[chosen]), [])
        asked = f"{self.tokenizer.decode(item.prompt)} ({' | '.join(texts)})"
        return record(task, asked, texts[item.answer], shown, chosen == item.answer)


def record(task: str, prompt: str, answer: str, generated: Generated, is_correct: bool, **more: Any) -> dict[str, Any]:
    """An item with what the model said, as a result holds it."""
    return {"task": task, "prompt": prompt, "answer": answer, "is_correct": is_correct, **more, **vars(generated)}


def shares(records: Records) -> list[bool]:
    """Which records are right."""
    return [found["is_correct"] for found in records]
