"""Function synthesis in the world's language: a word sum with letters for numbers, a program of sums, hidden tests.

A problem reads "tom has a apples . mia gives 3 and leo gives b . how many apples does tom have ?". Its program is text of the same
words, "a + 3 = d . d + b = d . the answer is d": sentences that bind a letter to a sum, and one that says what comes out. A program is
turned into Python and run in the sandbox on numbers that the problem does not show, so it is what it computes that counts.
"""

import hashlib
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from illada_lab.data.worlds import lexicon as lx
from illada_lab.data.worlds import sums
from illada_lab.data.worlds.instructions import THINGS
from illada_lab.evaluation.sandbox import Outcome, run_programs

# Letters that a problem uses, and the one that its canonical program binds.
PARAMETERS, RESULT = lx.LETTERS[:3], lx.LETTERS[3]
NUMBERS = tuple(str(n) for n in range(1, 10))
N_TESTS, LARGEST = 6, 99
_WORD = r"([a-z]|\d+)"
# The world's three ways to state a sum; what is bound must be a letter.
_SUMS = [
    re.compile(re.escape(form.removesuffix(" .")).replace(r"\{a\}", _WORD).replace(r"\{b\}", _WORD).replace(r"\{c\}", "([a-z])"))
    for form in sums.FORMS
]  # fmt: skip
_ANSWER = re.compile(f"the answer is {_WORD}")


@dataclass(frozen=True)
class FunctionTask:
    """A function to be written.

    Attributes:
        prompt: the problem.
        slots: its three numbers: letters (the function's parameters) or numerals.
    """

    prompt: str
    slots: tuple[str, str, str]

    @property
    def parameters(self) -> list[str]:
        """Letters of the problem, in alphabetical order."""
        return sorted(set(self.slots) - set(NUMBERS))

    @property
    def program(self) -> str:
        """A program that is right, as a good model writes it."""
        first, second, third = self.slots
        return f"{first} + {second} = {RESULT} . {RESULT} + {third} = {RESULT} . the answer is {RESULT}"

    def tests(self) -> list[tuple[dict[str, int], int]]:
        """Arguments and results, drawn from the problem's own text: the same for every model, in no text that a model sees."""
        draw = random.Random(hashlib.sha256(self.prompt.encode()).digest())
        cases = [{name: draw.randrange(LARGEST + 1) for name in self.parameters} for _ in range(N_TESTS)]
        return [(case, sum(case[slot] if slot in case else int(slot) for slot in self.slots)) for case in cases]


def function_tasks(n: int, draw: random.Random) -> list[FunctionTask]:
    """Different problems; of the three numbers at least one is a letter, and a letter may stand there twice."""
    found: dict[str, FunctionTask] = {}
    while len(found) < n:
        hero, *friends = draw.sample(lx.HEROES, 3)
        first, second, third = (draw.choice(PARAMETERS if draw.random() < 0.7 else NUMBERS) for _ in range(3))
        slots = (first, second, third)
        if set(slots) <= set(NUMBERS):
            continue
        # The world's own words, its numbers replaced.
        asked = sums.WordSum(hero, (friends[0], friends[1]), draw.choice(THINGS), 1, 2, 3).question()
        place = dict(zip("123", slots, strict=True))
        prompt = " ".join(place.get(word, word) for word in asked.split())
        found[prompt] = FunctionTask(prompt, slots)
    return list(found.values())


def to_python(text: str, parameters: Sequence[str]) -> str | None:
    """A program of the world's language as a Python function; None: a sentence that is none of it, or no answer.

    >>> print(to_python("a + 3 = d . the answer is d", ["a"]))
    def f(a):
        d = a + 3
        return d
    <BLANKLINE>
    """
    lines = [f"def f({', '.join(parameters)}):"]
    for sentence in text.strip().removesuffix(".").split(" . "):
        words = " ".join(sentence.split())
        if said := _ANSWER.fullmatch(words):
            return "\n".join([*lines, f"    return {said[1]}", ""])
        step = next((match for form in _SUMS if (match := form.fullmatch(words))), None)
        if step is None:
            return None
        lines.append(f"    {step[3]} = {step[1]} + {step[2]}")
    return None


def run_functions(tasks: Sequence[FunctionTask], texts: Sequence[str]) -> list[tuple[str | None, Outcome]]:
    """Programs that a model wrote, each run against the tests of its problem: the Python that was run, and how it ended."""
    programs = [to_python(text, task.parameters) for task, text in zip(tasks, texts, strict=True)]
    outcomes = run_programs([tested(task, program) for task, program in zip(tasks, programs, strict=True)])
    return list(zip(programs, outcomes, strict=True))


def tested(task: FunctionTask, program: str | None) -> str:
    """The function and its tests, as Python."""
    checks = [f"assert f(**{case}) == {result}" for case, result in task.tests()]
    return "\n".join([program or "raise SyntaxError('no program in the language of the world')", *checks])


def chance(tasks: Sequence[FunctionTask]) -> float:
    """Share that is right of programs of the canonical form whose three operands are drawn among all letters and numerals."""
    return sum(_guesses()[_form(task.slots)] for task in tasks) / sum(_guesses().values()) / max(1, len(tasks))


@lru_cache(maxsize=1)
def _guesses() -> Counter[tuple[int, ...] | None]:
    """What every such program computes, as coefficients of the letters and a constant; None: a letter that is not bound."""
    pool = (*PARAMETERS, RESULT, *NUMBERS)
    return Counter(_form((x, y, z)) for x in pool for y in pool for z in pool)


def _form(operands: Sequence[str]) -> tuple[int, ...] | None:
    first, second, third = operands
    if RESULT in (first, second):
        return None
    total = [sum(operand == letter for operand in (first, second)) for letter in PARAMETERS]
    total.append(sum(int(operand) for operand in (first, second) if operand in NUMBERS))
    if third == RESULT:
        return tuple(2 * value for value in total)
    own = [*(int(third == letter) for letter in PARAMETERS), int(third) if third in NUMBERS else 0]
    return tuple(a + b for a, b in zip(total, own, strict=True))
