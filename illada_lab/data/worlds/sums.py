"""Arithmetic: single-digit sums in several forms, and two-step word sums."""

from dataclasses import dataclass

FORMS = ("{a} + {b} = {c} .", "{a} plus {b} is {c} .", "the sum of {a} and {b} is {c} .")
QUESTIONS = ("what is {a} + {b} ?", "what is the sum of {a} and {b} ?")


@dataclass(frozen=True)
class Sum:
    """a + b with both in 0 ... 9. The result is one word ("0" ... "18"), because what is to be learnt is a table of 100 entries,
    not how to carry."""

    a: int
    b: int

    @property
    def answer(self) -> str:
        """The result as a word."""
        return str(self.a + self.b)

    def statements(self) -> list[str]:
        """All sentences that may state it."""
        return [form.format(a=self.a, b=self.b, c=self.a + self.b) for form in FORMS]

    def questions(self) -> list[str]:
        """All questions that ask for it."""
        return [form.format(a=self.a, b=self.b) for form in QUESTIONS]


def all_sums() -> list[Sum]:
    """The table, in a fixed order."""
    return [Sum(a, b) for a in range(10) for b in range(10)]


def all_statements() -> list[str]:
    """Every sum in every form; all different."""
    return [text for item in all_sums() for text in item.statements()]


@dataclass(frozen=True)
class WordSum:
    """A small problem in two steps: somebody has some, gets some, and gets some more."""

    hero: str
    friend: str
    thing: str
    a: int
    b: int
    c: int

    def question(self) -> str:
        """The problem."""
        return (
            f"{self.hero} has {self.a} {self.thing} . {self.friend} gives {self.hero} {self.b} . "
            f"then {self.friend} gives {self.hero} {self.c} more . how many {self.thing} does {self.hero} have ?"
        )

    def response(self) -> str:
        """The worked answer, each step on the result of the one before."""
        first = self.a + self.b
        return f"{self.a} + {self.b} = {first} . {first} + {self.c} = {first + self.c} . the answer is {first + self.c}"

    @property
    def answer(self) -> str:
        """The last number alone."""
        return str(self.a + self.b + self.c)
