"""HumanEval: functions to be written, run against their tests."""

import re
from dataclasses import dataclass

from illada_lab.evaluation.benchmarks.benchmark import Item, fields, read_json_lines
from illada_lab.evaluation.benchmarks.programs import ProgramBenchmark, code_of


@dataclass(frozen=True, kw_only=True)
class HumanEval(ProgramBenchmark):
    """Python functions from their signature and docstring; an answer is right if all tests of the problem pass.

    Args:
        all: see `ProgramBenchmark` and `Benchmark`.

    Source: iLLaDA, settings of the evaluation: base one block of 512, instruct 2048 in blocks of 32; Chen et al. 2021 (pass@1, 3 s).
    """

    name: str = "humaneval"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_shots:
            raise ValueError(f"n_shots = {self.n_shots}; HumanEval shows no examples; 0")

    def items(self) -> list[Item]:
        """Problems of a JSONL file (also gzipped) with task_id, prompt, entry_point, test.

        Raises:
            ValueError: also if code is not to be run.
        """
        self._warn()
        found = []
        for number, values in read_json_lines(self.path):
            names = ("task_id", "prompt", "entry_point", "test")
            key, prompt, entry_point, test = fields(self.path, f"line {number}", values, *names)
            if _definition(entry_point, prompt) is None:
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

    def program(self, item: Item, text: str) -> str:
        """What is run: what stands in front of the function, the function, its tests, the call that runs them."""
        entry_point = item.about["entry_point"]
        written = code_of(text, f"def {entry_point}(")
        own = _definition(entry_point, item.question)
        assert own is not None, "items() has seen it"
        is_whole = _definition(entry_point, written) is not None
        head = item.question[: own.start()] if is_whole else item.question
        return f"{head}{written}\n{item.about['test']}\ncheck({entry_point})\n"


def _definition(name: str, code: str) -> re.Match[str] | None:
    """Where a function of exactly this name is defined; a helper inside of it may be called like it, with something behind."""
    return re.search(rf"^(async )?def {re.escape(name)}\s*\(", code, re.MULTILINE)
