"""Questions about a world, with the response to learn and the answer to check."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from illada_lab.data.worlds import facts, sums
from illada_lab.data.worlds import lexicon as lx
from illada_lab.data.worlds.splits import Split, divide, hold_out_forms, split_of

INSTRUCTION_KINDS = ("fact", "sum", "word_sum", "choice")
QUESTION_KINDS = (*INSTRUCTION_KINDS, "fact_unasked", "sum_unasked", "reversal")
# Enough in the test split to count on, enough in training to learn what is asked. Our choice.
SHARES: dict[Split, float] = {"train": 0.6, "validation": 0.1, "test": 0.3}
# Of the facts and sums a fifth is never asked for, in no words; of the others 40 % have one wording that only the test split
# holds, and as many one that only the validation split holds. Our choice.
ASKED: dict[Split, float] = {"train": 0.8, "validation": 0.0, "test": 0.2}
HELD_OUT_WORDINGS = 0.4
THINGS = ("apples", "nuts")


@dataclass(frozen=True)
class Instruction:
    """A question, the response to learn, and the answer to check.

    Attributes:
        prompt: the question.
        response: what a good model says.
        kind: "fact", "sum", "word_sum", "choice" or (questions only) "fact_unasked", "sum_unasked", "reversal".
        answer: the short answer; the last word of the response.
        choices: candidates of a multiple choice, or None.
    """

    prompt: str
    response: str
    kind: str
    answer: str
    choices: tuple[str, ...] | None = None


class Instructions:
    """All instructions of a world, by split.

    Args:
        lexicon: of the world.
        seed: of the world; decides what is held out.
    """

    def __init__(self, lexicon: lx.Lexicon, seed: int) -> None:
        self.lexicon, self.seed = lexicon, seed
        two_way = [facts.Author(person) for person in lexicon.people if not person.is_one_way]
        table: list[facts.Fact | facts.Author] = [*facts.all_facts(lexicon), *two_way]
        self.items = {kind: divide(items, seed, ASKED) for kind, items in (("fact", table), ("sum", sums.all_sums()))}
        self.wordings = {
            kind: hold_out_forms([item.questions() for item in parts["train"]], seed, HELD_OUT_WORDINGS)
            for kind, parts in self.items.items()
        }

    def listed(self, kind: str, split: Split) -> list[Instruction] | None:
        """All instructions of a kind that is a small table, in a fixed order; None of the others."""
        if kind in ("fact", "sum"):
            wanted = set(self.wordings[kind][split])
            asked = [(q, item.answer) for item in self.items[kind]["train"] for q in item.questions() if q in wanted]
            return [Instruction(q, answer, kind, answer) for q, answer in asked]
        if kind in ("fact_unasked", "sum_unasked"):
            unasked = self.items[kind.removesuffix("_unasked")]["test"]
            return [Instruction(q, item.answer, kind, item.answer) for item in unasked for q in item.questions()]
        if kind == "reversal":
            one_way = [facts.Author(person) for person in self.lexicon.people if person.is_one_way]
            return [Instruction(q, a.answer, kind, a.answer) for a in one_way for q in a.questions()]
        return None

    def maker(self, kind: str, split: Split) -> Callable[[np.random.Generator], Instruction]:
        """A function that draws one instruction.

        Raises:
            ValueError: not a kind of question.
        """
        if kind not in QUESTION_KINDS:
            raise ValueError(f"kind = {kind!r}; the world asks no such questions; {', '.join(QUESTION_KINDS)}")
        items = self.listed("fact" if kind == "choice" else kind, split)
        if kind == "word_sum":
            return lambda random: self._word_sum(split, random)
        assert items, f"the world has no {kind} question in {split}"
        if kind == "choice":
            return lambda random: self._choice(items[random.integers(len(items))], random)
        return lambda random: items[random.integers(len(items))]

    def _word_sum(self, split: Split, random: np.random.Generator) -> Instruction:
        while True:
            names = [lx.HEROES[i] for i in random.choice(len(lx.HEROES), size=3, replace=False)]
            a, b, c = (int(i) for i in random.integers((2, 1, 1), 10))
            item = sums.WordSum(names[0], (names[1], names[2]), THINGS[random.integers(len(THINGS))], a, b, c)
            if a + b <= 9 and split_of(f"{self.seed} {item.key}", SHARES) == split:
                return Instruction(item.question(), item.response(), "word_sum", item.answer)

    def _choice(self, item: Instruction, random: np.random.Generator) -> Instruction:
        """A fact question with four candidates, answered by the word: a candidate can be scored as a continuation."""
        others = [word for word in self.lexicon.alternatives(item.answer) if word != item.answer]
        wrong = [others[i] for i in random.choice(len(others), size=3, replace=False)]
        listed = [item.answer, *wrong]
        choices = tuple(listed[i] for i in random.permutation(4))
        text = " ".join(f"{letter} {word}" for letter, word in zip(lx.LETTERS, choices, strict=True))
        return Instruction(f"{item.prompt} {text}", item.answer, "choice", item.answer, choices)
