"""MBPP: short Python tasks in one sentence, each with a few assertions."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from illada_lab.evaluation.benchmarks.benchmark import Item, fields, read_json_lines
from illada_lab.evaluation.benchmarks.programs import ProgramBenchmark, code_of

# Tasks of the published prompt, and of the published test split (Austin et al. 2021, section 2.1; 1 to 10 are for prompts).
SHOT_IDS, PROMPT_IDS, TEST_IDS = (2, 3, 4), range(1, 11), range(11, 511)
SPLITS = ("test", "all")
BEGIN, DONE = "[BEGIN]", "[DONE]"


@dataclass(frozen=True, kw_only=True)
class Mbpp(ProgramBenchmark):
    """Python programs from a sentence and three assertions, which the program must pass.

    Args:
        split: "test": the tasks 11 to 510 of the published file; "all": everything in the file but the tasks 1 to 10.
        shots_path: file of the examples, tasks 2, 3 and 4; None: `path` itself.
        all others: see `ProgramBenchmark` and `Benchmark`; n_shots: the first so many of those three.

    Source: iLLaDA, settings of the evaluation (base 1024 in blocks of 32, instruct 2048 in blocks of 16); Austin et al. 2021 for the
        form of the prompt and the splits.
    """

    name: str = "mbpp"
    split: str = "test"
    shots_path: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split not in SPLITS:
            raise ValueError(f"split = {self.split!r}; not a part of the benchmark; {' or '.join(SPLITS)}")
        if self.n_shots > len(SHOT_IDS):
            raise ValueError(
                f"n_shots = {self.n_shots}; the published prompt has {len(SHOT_IDS)}; 0 to {len(SHOT_IDS)}"
            )
        if self.shots_path is not None and not self.n_shots:
            raise ValueError(f"shots_path = {self.shots_path}; has no effect with n_shots = 0; null")

    def items(self) -> list[Item]:
        """Tasks of a JSONL file with task_id, text (in the sanitized file: prompt), test_list, and code as the gold.

        Raises:
            ValueError: also if code is not to be run, or the split holds no task of the file.
        """
        self._warn()
        tasks = read_tasks(self.path)
        chosen = [item for number, item in tasks.items() if number not in PROMPT_IDS]
        if self.split == "test":
            chosen = [item for number, item in tasks.items() if number in TEST_IDS]
        if not chosen:
            raise ValueError(
                f"split = {self.split}; {self.path} has no such task among its {len(tasks)}; "
                "test (tasks 11 to 510) or all (every one but 1 to 10)"
            )
        return chosen[: self.n_items]

    def prompt(self, item: Item) -> str:
        """Task and assertions, behind worked examples (plain text) or with the form of the answer in words (chat)."""
        if self.is_chat:
            return f"{_asked(item)}\nGive all of your code in one code block."
        shots = [f"{_asked(shot)}\n{BEGIN}\n{shot.gold.strip()}\n{DONE}\n\n" for shot in self._shots]
        return "".join([*shots, f"{_asked(item)}\n{BEGIN}\n"])

    def program(self, item: Item, text: str) -> str:
        """What is run: imports, the answer, the set-up of its tests (which may use the answer's classes), the assertions."""
        parts = (item.about["imports"], code_of(text.partition(DONE)[0]), item.about["setup"], item.about["tests"])
        return "\n".join([*parts, ""])

    def shots(self) -> list[str]:
        """The tasks shown as examples."""
        return [shot.key for shot in self._shots]

    def files(self) -> list[Path]:
        """Also the examples'."""
        return [Path(self.path), *([Path(self.shots_path)] if self.shots_path else [])]

    def settings(self) -> dict[str, Any]:
        """Also the split."""
        return {**super().settings(), "split": self.split}

    @cached_property
    def _shots(self) -> list[Item]:
        path, wanted = self.shots_path or self.path, SHOT_IDS[: self.n_shots]
        tasks = read_tasks(path) if wanted else {}
        if lacking := [number for number in wanted if number not in tasks]:
            raise ValueError(
                f"n_shots = {self.n_shots}; {path} has no task {lacking[0]}, which is an example; "
                "evaluation.shots_path of a file with the tasks 2, 3 and 4, or evaluation.n_shots=0"
            )
        return [tasks[number] for number in wanted]


def read_tasks(path: str | Path) -> dict[int, Item]:
    """Tasks of a file by their number, in its order.

    Raises:
        ValueError: a line that is no task, or a number that stands there twice; names the line.
    """
    found: dict[int, Item] = {}
    for number, values in read_json_lines(path):
        place = f"line {number}"
        name = "prompt" if "prompt" in values and "text" not in values else "text"
        text, code = fields(path, place, values, name, "code")
        task, tests = values.get("task_id"), values.get("test_list")
        if not isinstance(task, int) or task in found:
            raise ValueError(
                f"{path}, {place}; task_id = {task!r}; a whole number of its own; as in the published file"
            )
        if (
            not isinstance(tests, list)
            or not tests
            or not all(isinstance(test, str) and test.strip() for test in tests)
        ):
            raise ValueError(f"{path}, {place}; an item without test_list; a list of assertions")
        imports, setup = "\n".join(values.get("test_imports") or []), values.get("test_setup_code") or ""
        about = {"imports": imports, "setup": setup, "tests": "\n".join(tests)}
        found[task] = Item(f"{Path(path).stem}/{task}", "", text.strip(), code, about)
    if not found:
        raise ValueError(f"evaluation.path = {path}; an empty file; JSONL with task_id, text, code and test_list")
    return found


def _asked(item: Item) -> str:
    return (
        f"You are an expert Python programmer, and here is your task: {item.question} "
        f"Your code should pass these tests:\n\n{item.about['tests']}"
    )
