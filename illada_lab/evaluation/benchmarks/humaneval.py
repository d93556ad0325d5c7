"""HumanEval: functions to be written, run against their tests."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from illada_lab.evaluation.benchmarks.benchmark import Benchmark, Item, Judged, fields, read_json_lines
from illada_lab.evaluation.sandbox import WARNING, Limits, run_programs

BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class HumanEval(Benchmark):
    """Python functions from their signature and docstring; an answer is right if all tests of the problem pass.

    Args:
        run_code: run what the model wrote, in the sandbox. There is no score without, and it is off unless you say so.
        seconds, memory_mib: limits of each program.
        n_workers: programs at a time; None: as many as there are cores.
        all others: see `Benchmark`.

    Source: iLLaDA, settings of the evaluation: base one block of 512, instruct 2048 in blocks of 32; Chen et al. 2021 (pass@1, 3 s).
    """

    metric: ClassVar[str] = "pass@1"

    name: str = "humaneval"
    run_code: bool = False
    seconds: float = 3.0
    memory_mib: int = 512
    n_workers: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_shots:
            raise ValueError(f"n_shots = {self.n_shots}; HumanEval shows no examples; 0")
        Limits(seconds=self.seconds, memory_mib=self.memory_mib)

    def items(self) -> list[Item]:
        """Problems of a JSONL file (also gzipped) with task_id, prompt, entry_point, test.

        Raises:
            ValueError: also if code is not to be run.
        """
        if not self.run_code:
            raise ValueError(
                "evaluation.run_code = false; HumanEval is scored by running programs that the model wrote; "
                "evaluation.run_code=true runs each in a sandbox"
            )
        print(WARNING, file=sys.stderr)
        found = []
        for number, values in read_json_lines(self.path):
            names = ("task_id", "prompt", "entry_point", "test")
            key, prompt, entry_point, test = fields(self.path, f"line {number}", values, *names)
            if f"def {entry_point}" not in prompt:
                raise ValueError(f"{self.path}, line {number}; the prompt has no def {entry_point}; the problem's own")
            gold = values.get("canonical_solution") or ""
            found.append(Item(key, "", prompt, str(gold), {"entry_point": entry_point, "test": test}))
        if not found:
            raise ValueError(f"evaluation.path = {self.path}; an empty file; JSONL of problems")
        return found[: self.n_items]

    def prompt(self, item: Item) -> str:
        """The head of the function, to be continued, or (chat) with the task in words."""
        if self.is_chat:
            return f"Complete this Python function. Give all of it in one code block.\n```python\n{item.question.strip()}\n```"
        return item.question

    def judge(self, items: Sequence[Item], texts: Sequence[str]) -> list[Judged]:
        """Run every answer against its tests."""
        programs = [self.program(item, text) for item, text in zip(items, texts, strict=True)]
        limits = Limits(seconds=self.seconds, memory_mib=self.memory_mib)
        outcomes = run_programs(programs, limits, self.n_workers)
        return [
            Judged(text, o.has_passed, f"{o.status}: {o.reason}" if o.reason else "")
            for text, o in zip(texts, outcomes, strict=True)
        ]

    def program(self, item: Item, text: str) -> str:
        """What is run: what stands in front of the function, the function, its tests, the call that runs them."""
        entry_point = item.about["entry_point"]
        text = text.rsplit("</think>", 1)[-1]
        blocks = BLOCK.findall(text)
        written = next((b for b in blocks if f"def {entry_point}" in b), blocks[0] if blocks else text)
        is_whole = f"def {entry_point}" in written
        head = item.question[: item.question.index(f"def {entry_point}")] if is_whole else item.question
        return f"{head}{written}\n{item.about['test']}\ncheck({entry_point})\n"

    def settings(self) -> dict[str, Any]:
        """Also the limits, which decide what passes."""
        return {
            **super().settings(),
            "seconds": self.seconds,
            "memory_mib": self.memory_mib,
            "file": Path(self.path).name,
        }
