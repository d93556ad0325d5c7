"""What benchmarks of written programs share: answers are run against their tests, in the sandbox, and only if you say so."""

import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from illada_lab.evaluation.benchmarks.benchmark import Benchmark, Item, Judged
from illada_lab.evaluation.sandbox import Limits, announce, missing_protections, run_programs, usual_workers

BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class ProgramBenchmark(Benchmark):
    """A benchmark whose answers are Python; one is right if it passes all tests of its problem.

    Args:
        run_code: run what the model wrote, in the sandbox. There is no score without, and it is off unless you say so.
        seconds, memory_mib: limits of each program.
        n_workers: programs at a time; None: as many as there are cores to use, which several processes divide.
        all others: see `Benchmark`.

    Raises:
        ValueError: a limit that is not above 0.
    """

    metric: ClassVar[str] = "pass@1"

    run_code: bool = False
    seconds: float = 3.0
    memory_mib: int = 512
    n_workers: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        Limits(seconds=self.seconds, memory_mib=self.memory_mib)
        if self.n_workers is not None and self.n_workers < 1:
            raise ValueError(f"n_workers = {self.n_workers}; programs at a time; 1 or more, or null for one per core")

    @abstractmethod
    def program(self, item: Item, text: str) -> str:
        """What is run for an answer: it ends without an exception if and only if the answer is right."""

    def judge(self, items: Sequence[Item], texts: Sequence[str]) -> list[Judged]:
        """Run every answer against its tests."""
        programs = [self.program(item, text) for item, text in zip(items, texts, strict=True)]
        outcomes = run_programs(programs, Limits(seconds=self.seconds, memory_mib=self.memory_mib), self.n_workers)
        return [
            Judged(text, o.has_passed, f"{o.status}: {o.reason}" if o.reason else "")
            for text, o in zip(texts, outcomes, strict=True)
        ]

    def settings(self) -> dict[str, Any]:
        """Also the limits, which decide what passes, how many programs ran at a time, and protections that this kernel did not give."""
        missing = list(missing_protections()) if self.run_code else None
        limits = {"seconds": self.seconds, "memory_mib": self.memory_mib}
        n_workers = self.n_workers or usual_workers() if self.run_code else None
        return {**super().settings(), **limits, "n_workers": n_workers, "missing_protections": missing}

    def _warn(self) -> None:
        """Say that programs will run, and without which protections.

        Raises:
            ValueError: they are not to, or cannot be here.
        """
        if not self.run_code:
            raise ValueError(
                f"evaluation.run_code = false; {type(self).__name__} is scored by running programs that the model wrote; "
                "evaluation.run_code=true runs each in a sandbox"
            )
        announce()


def code_of(text: str, wanted: str = "") -> str:
    """The program in an answer: the first fenced block that holds `wanted`, else the first one, else all of the text.

    >>> code_of("Here it is:\\n```python\\ndef f(): pass\\n```\\nIt works.")
    'def f(): pass\\n'
    """
    text = text.rsplit("</think>", 1)[-1]
    blocks = BLOCK.findall(text)
    return next((block for block in blocks if wanted in block), blocks[0] if blocks else text)
