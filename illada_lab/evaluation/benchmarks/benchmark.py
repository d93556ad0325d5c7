"""What every benchmark of generated answers has: items from a file, a prompt for each, a judgement of each answer."""

import gzip
import hashlib
import json
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from illada_lab.samplers import FixedLength, VariableLength


@dataclass(frozen=True)
class Item:
    """A question of a benchmark.

    Attributes:
        key: a name of its own.
        group: the part of the benchmark it belongs to; "" where there are none.
        question: its text.
        gold: what the file gives as the answer.
        about: further fields of the file.
    """

    key: str
    group: str
    question: str
    gold: str
    about: dict[str, str]


@dataclass(frozen=True)
class Judged:
    """An answer that was read.

    Attributes:
        answer: what was understood; None: nothing.
        is_correct: whether it is right.
        note: why not, where that is known.
    """

    answer: str | None
    is_correct: bool
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Benchmark(ABC):
    """A benchmark on local files.

    Args:
        name: of the task; results are kept under it.
        path: file of the items (of some benchmarks a folder).
        sampler: how the model answers: in iLLaDA's way, or in LLaDA's, at a fixed length.
        is_chat: ask through the chat format of the model, without examples; false: as plain text behind examples.
        n_shots: examples in front of a plain-text question.
        thinking_power: power of the growing push towards "</think>", whose token ids the tokenizer gives; None: no push.
        n_items: the first so many only; None: all.
        batch_size: questions answered together; decides nothing but speed.
        out: folder of the results; None: `evaluation/<task>` beside the checkpoint.

    Raises:
        ValueError: a number out of range, or a setting without effect.

    Source: iLLaDA, inference (the push: amount 100, power 3, and 1 for HumanEval) and settings of the evaluation.
    """

    metric: ClassVar[str] = "exact match"

    name: str
    path: str
    sampler: VariableLength | FixedLength
    is_chat: bool = False
    n_shots: int = 0
    thinking_power: float | None = None
    n_items: int | None = None
    batch_size: int = 8
    out: str | None = None

    def __post_init__(self) -> None:
        if self.n_shots < 0:
            raise ValueError(f"n_shots = {self.n_shots}; examples in front of a question; 0 or more")
        if self.n_shots and self.is_chat:
            raise ValueError(f"n_shots = {self.n_shots}; has no effect with is_chat: chat questions stand alone; 0")
        if self.thinking_power is not None and (self.thinking_power < 0 or self.sampler.end_of_thinking is not None):
            raise ValueError(
                f"thinking_power = {self.thinking_power}; beside no sampler.end_of_thinking; 3 or 1 as published, or null"
            )
        if self.n_items is not None and self.n_items < 1:
            raise ValueError(f"n_items = {self.n_items}; at least one question; 1 or more, or null for all")
        if self.batch_size < 1:
            raise ValueError(f"batch_size = {self.batch_size}; questions answered together; 1 or more")

    @abstractmethod
    def items(self) -> list[Item]:
        """All questions of the file that are scored.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a line that is no item; names it.
        """

    @abstractmethod
    def prompt(self, item: Item) -> str:
        """Text that the model continues, or (is_chat) what the user says."""

    @abstractmethod
    def judge(self, items: Sequence[Item], texts: Sequence[str]) -> list[Judged]:
        """Read the answers to some items."""

    def shots(self) -> list[str]:
        """Names of the examples shown in front of the questions: the few that were chosen decide a score as well."""
        assert not self.n_shots, f"{type(self).__name__} names its examples"
        return []

    def files(self) -> list[Path]:
        """Files that questions and examples come from."""
        return [Path(self.path)]

    def settings(self) -> dict[str, Any]:
        """What a score depends on beside model and sampler; plain data. A file that has changed is another benchmark."""
        names = ("is_chat", "n_shots", "thinking_power", "n_items")
        digests = {str(file): hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in self.files()}
        return {**{name: getattr(self, name) for name in names}, "shots": self.shots(), "sha256": digests}


def read_json_lines(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects of a JSONL file (also gzipped) with their line numbers, from 1; empty lines are passed over.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that is not an object, by number; a file that is not text.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"evaluation.path = {path}; there is no such file; a JSONL file")
    is_packed = path.suffix == ".gz"
    try:
        with gzip.open(path, "rt", encoding="utf-8") if is_packed else path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, _object(f"{path}, line {number}", line)
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"evaluation.path = {path}; not a text file ({error}); JSONL, or JSONL in gzip") from error


def _object(place: str, line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}; not JSON ({error.msg}); one object a line") from error
    if not isinstance(found, dict):
        raise ValueError(f"{place}; {type(found).__name__}, not an object; one object a line")
    return found


def fields(path: str | Path, place: str, values: dict[str, Any], *names: str) -> list[str]:
    """Text fields of an item.

    Raises:
        ValueError: one is missing or empty; says where.
    """
    for name in names:
        value = values.get(name)
        if not isinstance(value, str) or not value.strip():
            what = "an item without" if value in (None, "") else "an item with no text as"
            raise ValueError(f"{path}, {place}; {what} {name}; an object with {', '.join(names)}")
    return [values[name] for name in names]
