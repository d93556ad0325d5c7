"""The world: documents of known probability, and instructions about what they state."""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from illada_lab.data.worlds import facts, sums
from illada_lab.data.worlds import lexicon as lx
from illada_lab.data.worlds.story import StoryGrammar

Split = Literal["train", "validation", "test"]
KINDS = ("story", "fact", "sum")
INSTRUCTION_KINDS = ("fact", "sum", "word_sum", "choice")
# Shares of the splits. Of stories little is enough to measure; of the small tables a question set must be large enough to count.
STORY_SHARES = {"train": 0.96, "validation": 0.02, "test": 0.02}
TABLE_SHARES = {"train": 0.6, "validation": 0.1, "test": 0.3}


@dataclass(frozen=True)
class Document:
    """A text and its exact probability.

    Attributes:
        text: words separated by single spaces.
        kind: "story", "fact" or "sum".
        log_prob: log p(text | kind, number of words), nats. A masked diffusion model is shown how long the text is, so this is what
            its bound is to be compared with; the end of the text costs nothing.
    """

    text: str
    kind: str
    log_prob: float


@dataclass(frozen=True)
class Instruction:
    """A question, the response to learn, and the answer to check.

    Attributes:
        prompt: the question.
        response: what a good model says.
        kind: "fact", "sum", "word_sum", "choice" or (questions only) "reversal".
        answer: the short answer; equal to the response but for worked ones.
        choices: candidates of a multiple choice, or None.
    """

    prompt: str
    response: str
    kind: str
    answer: str
    choices: tuple[str, ...] | None = None


class World:
    """A synthetic language.

    Three kinds of documents: stories (a grammar), facts (a table of people, each fact in two or three forms) and sums (the table
    of single-digit sums, three forms). The books of half of the people are stated from the person's side only, for the
    reversal experiment.

    What is held out: stories by the hash of their text, so no story is in two splits (the split keeps 96 % of all stories for
    training, which moves log p by less than 0.05 nats and is not corrected for). Facts and sums are knowledge that every
    document split may state; held out are the *questions*: a fact or sum asked in the test split is never asked in fine-tuning,
    in whatever words. Word sums and multiple choices are held out by the hash of their text, multiple choices also by their
    fact.

    Args:
        seed: of the world: who lives where, and so on.
        n_people: entities of the facts, at most 40.

    Raises:
        ValueError: n_people out of range.

    Source: our choice; LLaDA's reversal experiment (Appendix B.8) and iGSM are the models of the one-way facts and word sums.
    """

    def __init__(self, *, seed: int = 0, n_people: int = 40) -> None:
        if not 2 <= n_people <= len(lx.PEOPLE):
            raise ValueError(f"n_people = {n_people}; the lexicon names {len(lx.PEOPLE)}; 2 to {len(lx.PEOPLE)}")
        self.seed = seed
        self.lexicon = lx.Lexicon.draw(seed, n_people)
        self.stories = StoryGrammar(self.lexicon)
        self.words = lx.all_words()

    @cached_property
    def tables(self) -> dict[str, list[str]]:
        """All documents of the finite kinds."""
        return {"fact": facts.all_statements(self.lexicon), "sum": sums.all_statements()}

    @cached_property
    def _length_counts(self) -> dict[str, Counter[int]]:
        return {kind: Counter(len(text.split()) for text in texts) for kind, texts in self.tables.items()}

    def documents(
        self, split: Split, n: int, *, mixture: dict[str, float] | None = None, seed: int = 0
    ) -> list[Document]:
        """Draw documents.

        Args:
            split: stories of different splits are disjoint; facts and sums are the same tables in each.
            n: how many.
            mixture: share of each kind; None: stories only.
            seed: of the draw (the world itself has its own).
        """
        mixture = mixture or {"story": 1.0}
        if unknown := sorted(set(mixture) - set(KINDS)):
            raise ValueError(f"mixture = {unknown}; not a kind of document; {', '.join(KINDS)}")
        random = np.random.Generator(np.random.PCG64([self.seed, seed, 2, list(STORY_SHARES).index(split)]))
        kinds = list(mixture)
        shares = np.array([mixture[kind] for kind in kinds], dtype=float)
        drawn = random.choice(len(kinds), size=n, p=shares / shares.sum())
        return [self._draw(kinds[k], split, random) for k in drawn]

    def _draw(self, kind: str, split: Split, random: np.random.Generator) -> Document:
        if kind != "story":
            text = self.tables[kind][random.integers(len(self.tables[kind]))]
            return Document(text, kind, self.log_prob_given_length(text, kind))
        while True:
            choices = self.stories.sample(random)
            text = self.stories.text(choices)
            if split_of(text, STORY_SHARES) == split:
                length = math.log(self.stories.length_probabilities[len(text.split())])
                return Document(text, kind, self.stories.log_prob(choices) - length)

    def log_prob(self, text: str, kind: str) -> float:
        """log p(text | kind), nats, found by parsing; -inf outside of the language."""
        if kind == "story":
            choices = self.stories.parse(text)
            return -math.inf if choices is None else self.stories.log_prob(choices)
        return -math.log(len(self.tables[kind])) if text in self.tables[kind] else -math.inf

    def log_prob_of_length(self, n_words: int, kind: str) -> float:
        """log p(number of words | kind), nats."""
        if kind == "story":
            p = self.stories.length_probabilities.get(n_words, 0.0)
        else:
            p = self._length_counts[kind][n_words] / len(self.tables[kind])
        return math.log(p) if p else -math.inf

    def log_prob_given_length(self, text: str, kind: str) -> float:
        """log p(text | kind, its number of words), nats."""
        value = self.log_prob(text, kind)
        return value if value == -math.inf else value - self.log_prob_of_length(len(text.split()), kind)

    def entropy(self, kind: str, *, is_length_given: bool = True) -> float:
        """Entropy of a document, nats, exact; by default given its length."""
        if kind == "story":
            return self.stories.entropy_given_length() if is_length_given else self.stories.entropy()
        n, counts = len(self.tables[kind]), self._length_counts[kind]
        return sum(c / n * math.log(c) for c in counts.values()) if is_length_given else math.log(n)

    def instructions(
        self, split: Split, n: int, *, kinds: Sequence[str] = INSTRUCTION_KINDS, seed: int = 0
    ) -> list[Instruction]:
        """Draw instructions, the kinds in turn; with repetition where a kind has fewer (see `questions` for each once)."""
        random = np.random.Generator(np.random.PCG64([self.seed, seed, 3, list(STORY_SHARES).index(split)]))
        makers = self._makers(split)
        if unknown := sorted(set(kinds) - set(makers)):
            raise ValueError(f"kinds = {unknown}; not a kind of instruction; {', '.join(makers)}")
        return [makers[kinds[i % len(kinds)]](random) for i in range(n)]

    def questions(self, split: Split, kind: str, n: int | None = None, *, seed: int = 0) -> list[Instruction]:
        """Different instructions of one kind, in a random order.

        Args:
            split: train, validation or test.
            kind: one of INSTRUCTION_KINDS, or "reversal": who wrote a one-way person's book (the same in every split, because no
                text ever says it in this direction).
            n: at most so many; None: all of a finite kind.
        """
        random = np.random.Generator(np.random.PCG64([self.seed, seed, 4, list(STORY_SHARES).index(split)]))
        finite = {"fact": self._fact_questions, "sum": self._sum_questions, "reversal": self._reversal_questions}
        if kind in finite:
            items = finite[kind](split)
            order = random.permutation(len(items))
            return [items[i] for i in order[: n or len(items)]]
        if n is None:
            raise ValueError(f"n = None; {kind} questions are made, not listed; a number")
        found: dict[str, Instruction] = {}
        while len(found) < n:
            item = self._makers(split)[kind](random)
            found[item.prompt] = item
        return list(found.values())

    def _makers(self, split: Split) -> dict[str, Callable[[np.random.Generator], Instruction]]:
        fact_items, sum_items = self._fact_questions(split), self._sum_questions(split)
        return {
            "fact": lambda random: fact_items[random.integers(len(fact_items))],
            "sum": lambda random: sum_items[random.integers(len(sum_items))],
            "word_sum": lambda random: self._word_sum(split, random),
            "choice": lambda random: self._choice(split, random),
        }

    def _fact_questions(self, split: Split) -> list[Instruction]:
        items = []
        for fact in facts.all_facts(self.lexicon):
            key = f"{self.seed} {fact.person.name} {fact.attribute}"
            if split_of(key, TABLE_SHARES) == split:
                items += [Instruction(q, fact.answer, "fact", fact.answer) for q in fact.questions()]
        for person in self.lexicon.people:
            # Two-way people are asked for in both directions, so that the form of the reverse question is known.
            if not person.is_one_way and split_of(f"{self.seed} {person.book} author", TABLE_SHARES) == split:
                items += [self._author_question(form, person, "fact") for form in facts.REVERSE_QUESTIONS]
        return items

    def _reversal_questions(self, split: Split) -> list[Instruction]:
        people = [person for person in self.lexicon.people if person.is_one_way]
        return [self._author_question(form, person, "reversal") for person in people for form in facts.REVERSE_QUESTIONS]

    @staticmethod
    def _author_question(form: str, person: lx.Person, kind: str) -> Instruction:
        return Instruction(form.format(book=person.book), person.name, kind, person.name)

    def _sum_questions(self, split: Split) -> list[Instruction]:
        chosen = [item for item in sums.all_sums() if split_of(f"{self.seed} {item.a} + {item.b}", TABLE_SHARES) == split]
        return [Instruction(q, item.answer, "sum", item.answer) for item in chosen for q in item.questions()]

    def _word_sum(self, split: Split, random: np.random.Generator) -> Instruction:
        while True:
            hero, friend = random.choice(len(lx.NAMES), size=2, replace=False)
            a, b, c = (int(i) for i in random.integers(1, 10, size=3))
            thing = ("apples", "nuts")[random.integers(2)]
            item = sums.WordSum(lx.NAMES[hero], lx.NAMES[friend], thing, a, b, c)
            if split_of(item.question(), TABLE_SHARES) == split:
                return Instruction(item.question(), item.response(), "word_sum", item.answer)

    def _choice(self, split: Split, random: np.random.Generator) -> Instruction:
        """A fact question with four candidates, answered by the word (the candidates are scored as continuations)."""
        items = [item for item in self._fact_questions(split)]
        item = items[random.integers(len(items))]
        pool = next(words for words in (lx.TOWNS, lx.JOBS, lx.BOOKS, lx.PEOPLE) if item.answer in words)
        others = [word for word in pool if word != item.answer]
        wrong = [others[i] for i in random.choice(len(others), size=3, replace=False)]
        choices = [item.answer, *wrong]
        choices = [choices[i] for i in random.permutation(4)]
        listed = " ".join(f"{letter} {word}" for letter, word in zip(lx.LETTERS, choices, strict=True))
        return Instruction(f"{item.prompt} {listed}", item.answer, "choice", item.answer, tuple(choices))


def split_of(key: str, shares: dict[str, float]) -> str:
    """Split of a text by a hash that is the same on every machine (Python's own `hash` is not)."""
    position = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) / 2**64
    for split, share in shares.items():
        position -= share
        if position < 0:
            return split
    return next(reversed(shares))
