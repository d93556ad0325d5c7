"""GSM8K: word problems whose answer is a number."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path

from illada_lab.evaluation.benchmarks.benchmark import Benchmark, Item, Judged, fields, read_json_lines

NUMBER = re.compile(r"(?<![\d.])-?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|(?<!\d)-?\$?\.\d+")
MARK = "####"


@dataclass(frozen=True, kw_only=True)
class Gsm8k(Benchmark):
    """Grade-school word problems; the worked answer ends in its number.

    Args:
        shots_path: file of the examples; None: `train.jsonl` beside `path`. The first `n_shots` of it are shown (our choice).
        all others: see `Benchmark`.

    Source: iLLaDA, settings of the evaluation: base 8-shot chain of thought, instruct 0-shot; Cobbe et al. 2021 for the format.
    """

    name: str = "gsm8k"
    shots_path: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shots_path is not None and not self.n_shots:
            raise ValueError(f"shots_path = {self.shots_path}; has no effect with n_shots = 0; null")

    def items(self) -> list[Item]:
        """Questions and answers of a JSONL file with `question` and `answer`."""
        return read_problems(self.path)[: self.n_items]

    def prompt(self, item: Item) -> str:
        """The problem, behind worked examples (plain text) or with what form the answer has (chat)."""
        if self.is_chat:
            return f"{item.question}\nThink step by step, and end with a line of the form: {MARK} number"
        return "".join(
            [f"Question: {shot.question}\nAnswer: {shot.gold}\n\n" for shot in self._shots]
            + [f"Question: {item.question}\nAnswer:"]
        )

    def judge(self, items: Sequence[Item], texts: Sequence[str]) -> list[Judged]:
        """The number of the answer against that of the file."""
        found = []
        for item, text in zip(items, texts, strict=True):
            said, gold = final_number(text), final_number(item.gold)
            is_correct = said is not None and said == gold
            found.append(Judged(None if said is None else f"{said:f}", is_correct, "" if is_correct else "number"))
        return found

    def shots(self) -> list[str]:
        """The examples by file and line."""
        return [shot.key for shot in self._shots]

    def files(self) -> list[Path]:
        """Also the examples'."""
        return [Path(self.path), *([self._shots_file] if self.n_shots else [])]

    @property
    def _shots_file(self) -> Path:
        return Path(self.shots_path or Path(self.path).with_name("train.jsonl"))

    @cached_property
    def _shots(self) -> list[Item]:
        if not self.n_shots:
            return []
        path = self._shots_file
        if not path.is_file():
            raise FileNotFoundError(
                f"evaluation.shots_path = {path}; there is no such file; a file of examples, or evaluation.n_shots=0"
            )
        shots = read_problems(path)
        if len(shots) < self.n_shots:
            raise ValueError(f"n_shots = {self.n_shots}; {path} has fewer; at most {len(shots)}")
        return shots[: self.n_shots]


def read_problems(path: str | Path) -> list[Item]:
    """Problems of a file.

    Raises:
        ValueError: a line that is none, or whose answer has no number.
    """
    found = []
    for number, values in read_json_lines(path):
        question, answer = fields(path, f"line {number}", values, "question", "answer")
        if final_number(answer) is None:
            raise ValueError(f"{path}, line {number}; an answer without a number; text that ends in {MARK} number")
        found.append(Item(f"{Path(path).stem}/{number}", "", question, answer, {}))
    if not found:
        raise ValueError(f"evaluation.path = {path}; an empty file; JSONL with question and answer")
    return found


def final_number(text: str) -> Decimal | None:
    """The number that a worked answer ends in; None: there is none.

    Behind the first "####" the first number, otherwise the last one of the text; commas, $ and units do not count.

    >>> final_number("5 eggs at $2 each: $10.50 in all."), final_number("so\\n#### 1,200"), final_number("none")
    (Decimal('10.50'), Decimal('1200'), None)
    """
    text = text.rsplit("</think>", 1)[-1].replace("{,}", ",")  # as LaTeX has thousands
    _, mark, behind = text.partition(MARK)
    numbers = (mark and NUMBER.findall(behind)[:1]) or NUMBER.findall(text)
    return Decimal(numbers[-1].replace("$", "").replace(",", "")) if numbers else None
