"""Arithmetic: single-digit sums in several forms, and word sums in two steps."""

from dataclasses import dataclass

FORMS = ("{a} + {b} = {c} .", "{a} plus {b} is {c} .", "the sum of {a} and {b} is {c} .")
QUESTIONS = ("what is {a} + {b} ?", "what is {a} plus {b} ?", "what is the sum of {a} and {b} ?")


@dataclass(frozen=True)
class Sum:
    """a + b with both in 0 ... 9.

    The result is one word ("0" ... "18"): what is to be learnt is a table of 100 entries, not how to carry, and an
    answer of one word needs no rule about leading zeros (our choice).
    """

    a: int
    b: int

    @property
    def key(self) -> str:
        """The same for a + b and b + a, so that neither gives the other away where one is held out."""
        return f"{min(self.a, self.b)} + {max(self.a, self.b)}"

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


@dataclass(frozen=True)
class WordSum:
    """Somebody has a things and gets b and c more; a + b is at most 9, so that both steps are single-digit sums."""

    hero: str
    friends: tuple[str, str]
    thing: str
    a: int
    b: int
    c: int

    @property
    def key(self) -> str:
        """The numbers: held out are these, whoever has the things."""
        return f"{self.a} {self.b} {self.c}"

    def question(self) -> str:
        """The problem."""
        return (
            f"{self.hero} has {self.a} {self.thing} . {self.friends[0]} gives {self.b} and "
            f"{self.friends[1]} gives {self.c} . how many {self.thing} does {self.hero} have ?"
        )

    def response(self) -> str:
        """The worked answer, its second step on the result of the first."""
        first = self.a + self.b
        return f"{self.a} + {self.b} = {first} . {first} + {self.c} = {self.answer} . the answer is {self.answer}"

    @property
    def answer(self) -> str:
        """The last number alone."""
        return str(self.a + self.b + self.c)
