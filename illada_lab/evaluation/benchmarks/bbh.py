"""BIG-Bench Hard: short questions of several kinds that need reasoning, answered by a word, a number or a letter."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from illada_lab.evaluation.benchmarks.benchmark import Benchmark, Item, Judged, fields

ANSWER = re.compile(r"the answer is\s*:?\s*", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Bbh(Benchmark):
    """Questions of a folder, one JSON file for each kind.

    Args:
        path: the folder, or one file of it; each an object with `examples`, a list of `input` and `target`.
        shots_path: folder with a text file for each kind (`<kind>.txt`, the published chain-of-thought prompts), whose text stands in
            front of every question; None: the first `n_shots` examples of the file itself, which are then not scored.
        all others: see `Benchmark`.

    Source: iLLaDA, settings of the evaluation (base 1024, blocks of 32); Suzgun et al. 2022: three examples, exact match.
    """

    name: str = "bbh"
    shots_path: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shots_path is not None and (self.n_shots or self.is_chat):
            raise ValueError(
                f"shots_path = {self.shots_path}; brings its own examples to plain-text questions; n_shots=0 and no is_chat, or null"
            )

    def items(self) -> list[Item]:
        """Questions of all files; `n_items` counts for each of them."""
        return [item for items in self._files.values() for item in items[self.n_shots :][: self.n_items]]

    def prompt(self, item: Item) -> str:
        """The question, behind its kind's examples (plain text) or with what form the answer has (chat)."""
        if self.is_chat:
            return f"{item.question}\nThink step by step, and end with: the answer is ..."
        asked = f"Q: {item.question}\nA:"
        if self.shots_path is not None:
            return f"{self._published(item.group)}\n\n{asked}"
        shots = self._files[item.group][: self.n_shots]
        return "".join([f"Q: {shot.question}\nA: the answer is {shot.gold}.\n\n" for shot in shots] + [asked])

    def judge(self, items: Sequence[Item], texts: Sequence[str]) -> list[Judged]:
        """What is said behind "the answer is" (else the first line), against the target."""
        said = [final_answer(text) for text in texts]
        return [
            Judged(answer or None, answer == item.gold.strip(), "" if answer == item.gold.strip() else "answer")
            for item, answer in zip(items, said, strict=True)
        ]

    def shots(self) -> list[str]:
        """The examples: of each kind its first ones, or its published text."""
        if self.shots_path is not None:
            return [f"{kind}.txt" for kind in self._files]
        return [shot.key for items in self._files.values() for shot in items[: self.n_shots]]

    def files(self) -> list[Path]:
        """All kinds' files, and their published examples."""
        published = [Path(self.shots_path) / f"{kind}.txt" for kind in self._files] if self.shots_path else []
        return [*self._kinds(), *(file for file in published if file.is_file())]

    def _kinds(self) -> list[Path]:
        path = Path(self.path)
        files = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not path.exists() or not files:
            raise FileNotFoundError(f"evaluation.path = {path}; no JSON file there; a folder of the benchmark's files")
        return files

    @cached_property
    def _files(self) -> dict[str, list[Item]]:
        found = {file.stem: _read(file) for file in self._kinds()}
        for kind, items in found.items():
            if len(items) <= self.n_shots:
                raise ValueError(f"n_shots = {self.n_shots}; {kind} has no more questions; at most {len(items) - 1}")
        return found

    def _published(self, kind: str) -> str:
        file = Path(self.shots_path or "") / f"{kind}.txt"
        if not file.is_file():
            raise FileNotFoundError(f"evaluation.shots_path = {file}; there is no such file; a text file for each kind")
        # The published files begin with a warning to those who collect training data, up to a line of dashes.
        return file.read_text(encoding="utf-8").split("-----\n", 1)[-1].strip()


def _read(file: Path) -> list[Item]:
    """Questions of one file.

    Raises:
        ValueError: not JSON, or an example that is none; names it.
    """
    try:
        values: Any = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ValueError(f"{file}{line}; not JSON ({error}); an object with examples") from error
    examples = values.get("examples") if isinstance(values, dict) else None
    if not isinstance(examples, list) or not examples:
        raise ValueError(f"{file}; no list of examples; an object with examples, each of input and target")
    found = []
    for number, example in enumerate(examples, 1):
        values = example if isinstance(example, dict) else {}
        question, gold = fields(file, f"example {number}", values, "input", "target")
        found.append(Item(f"{file.stem}/{number}", file.stem, question, gold, {}))
    return found


def final_answer(text: str) -> str:
    """What an answer comes to, without the stars that some models set it in.

    >>> (
    ...     final_answer("2 and 3 are 5. So the answer is 5."),
    ...     final_answer(" (B)\\n\\nQ: next"),
    ...     final_answer("The answer is **(B)**."),
    ... )
    ('5', '(B)', '(B)')
    """
    said = ANSWER.split(text.rsplit("</think>", 1)[-1])[-1].strip()
    return said.split("\n", 1)[0].strip(" *").rstrip(".").strip(" *")
