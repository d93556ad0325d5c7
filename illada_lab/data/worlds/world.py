"""The world: documents of known probability, and instructions about what they state."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial

import numpy as np

from illada_lab.data.worlds import facts, story, sums
from illada_lab.data.worlds import lexicon as lx
from illada_lab.data.worlds.instructions import INSTRUCTION_KINDS, THINGS, Instruction, Instructions
from illada_lab.data.worlds.splits import SPLITS, Split, check_split, hold_out_forms, split_of

KINDS = ("story", "fact", "sum")
# Of millions of stories little is enough to measure; a twentieth is found soon enough by drawing until it is hit.
STORY_SHARES: dict[Split, float] = {"train": 0.9, "validation": 0.05, "test": 0.05}
# Even of a world of a few hundred stories one in twenty is found within so many; where there are fewer there may be none.
MAX_STORIES_DRAWN = 10_000
# Share of the facts and sums that have a form which only the validation (test) split holds.
HELD_OUT = 0.2


@dataclass(frozen=True)
class Document:
    """A text and its exact probability.

    Attributes:
        text: words separated by single spaces.
        kind: "story", "fact" or "sum".
        log_prob: log p(text | number of words), nats, in the mixture that it was drawn from. A masked diffusion model is shown how long
            the text is, but not of which kind, so this is what its bound is to be compared with; the end of the text costs nothing.
        log_prob_of_length: log p(number of words), nats, in that mixture: what an autoregressive model has to predict as well.
    """

    text: str
    kind: str
    log_prob: float
    log_prob_of_length: float


class World:
    """A synthetic language whose every document has an exactly known probability.

    Documents are stories (a grammar), facts (a table of people, each fact in at least three forms) and sums (the table
    of single-digit sums in three forms). Of half of the people the book is stated from the person's side only: the
    marked subset for reversal experiments.

    Probabilities are those of the language, whatever the split. Held out are:

    - stories: 5 % each for validation and test, by a hash of the text. The hash does not depend on what makes a story
      likely, so a held-out set is an unbiased sample of the language. A model that has not memorised the training set
      cannot know which stories are missing there; one that has could gain at most log(1 / 0.9) = 0.1 nats on training
      stories.
    - facts and sums: knowledge that training may state. A fifth of the items has one form of statement that only the
      validation split holds, another fifth one that only the test split holds; training states them in their other
      forms.
    - questions on facts and sums: by wording. An item whose question stands in the test split is asked for in fine-tuning in other
      words only. A fifth of the items is never asked for in any words (kinds `fact_unasked`, `sum_unasked`; of a sum neither a + b nor
      b + a): the answer must come from the statements of pre-training. Multiple choices go with their fact's question.
    - word sums: by their three numbers, whoever has the things. Their answers spell their steps out, and most sums that are never asked
      for are such a step (9 of the 11 of the toy world): what fine-tuning teaches of a fact never asked for is nothing, of such a sum it
      is the sum in another form.
    - reversal: no text states a one-way book from the book's side, and no split but the evaluation asks.

    Args:
        seed: of the world: who lives where, what is found where, what is held out.
        sizes: sizes of the lexicon, see `Lexicon.draw`: n_heroes, n_animals, n_places, n_objects, n_colours, n_days,
            n_foods, n_moods, places_per_hero, objects_per_place, n_people.

    Raises:
        ValueError: a size that the lists of words do not give.

    Source: our choice; LLaDA's reversal experiment and iGSM are the models of the one-way facts and the word sums.
    """

    def __init__(self, *, seed: int = 0, **sizes: int) -> None:
        self.seed = seed
        self.lexicon = lx.Lexicon.draw(seed=seed, **sizes)
        self.stories = story.StoryGrammar(self.lexicon)
        self.asked = Instructions(self.lexicon, seed)

    @cached_property
    def words(self) -> list[str]:
        """Every word of the world once, in a fixed order."""
        lexicon = self.lexicon
        frames = [
            *(word for form in story.FORMS for word in form.words), *sums.FORMS, *sums.QUESTIONS,
            *facts.REVERSE_STATEMENTS,
            *facts.REVERSE_QUESTIONS, *(text for forms in facts.STATEMENTS.values() for text in forms),
            *(text for forms in facts.QUESTIONS.values() for text in forms), "he she",
            sums.WordSum("1", ("1", "1"), "1", 1, 1, 1).question(), sums.WordSum("1", ("1", "1"), "1", 1, 1,
            1).response(),
        ]  # fmt: skip
        fixed = [word for frame in frames for word in frame.split() if word[0] != "{" and not word.isdigit()]
        # Word sums name any hero, whatever the size of the world.
        open_words = [
            *lx.NUMBERS, *lx.LETTERS, *lx.HEROES, *lexicon.animals, *lexicon.places, *lexicon.objects,
            *lexicon.colours, *lexicon.days, *lexicon.foods, *THINGS, *lexicon.moods, *lx.TOWNS, *lx.JOBS,
            *(person.name for person in lexicon.people), *(person.book for person in lexicon.people),
        ]  # fmt: skip
        return list(dict.fromkeys([*fixed, *open_words]))

    @cached_property
    def tables(self) -> dict[str, dict[Split, list[str]]]:
        """Documents of the finite kinds, by split."""
        stated = {"fact": facts.all_facts(self.lexicon), "sum": sums.all_sums()}
        return {
            kind: hold_out_forms([item.statements() for item in items], self.seed, HELD_OUT)
            for kind, items in stated.items()
        }

    @cached_property
    def _all_statements(self) -> dict[str, frozenset[str]]:
        return {
            kind: frozenset(text for texts in table.values() for text in texts) for kind, table in self.tables.items()
        }

    @cached_property
    def _length_probabilities(self) -> dict[str, dict[int, float]]:
        """Kind -> number of words -> its probability."""
        found = {"story": self.stories.length_probabilities}
        for kind, texts in self._all_statements.items():
            counts = Counter(len(text.split()) for text in texts)
            found[kind] = {n_words: count / len(texts) for n_words, count in counts.items()}
        return found

    def documents(
        self, split: str, n: int, *, mixture: dict[str, float] | None = None, seed: int = 0
    ) -> list[Document]:
        """Draw documents.

        Args:
            split: train, validation or test; disjoint.
            n: how many.
            mixture: share of each kind, any positive numbers; None: stories only.
            seed: of the draw (the world itself has its own).

        Raises:
            ValueError: no such split or kind, or shares that cannot be.
        """
        shares = _shares(mixture or {"story": 1.0})
        chosen = check_split(split)
        random = self._random(2, chosen, seed)
        kinds = list(shares)
        drawn = random.choice(len(kinds), size=n, p=np.array(list(shares.values())))
        of_length = cache(partial(self.log_prob_of_length, mixture=shares))  # a few lengths, and many documents
        return [self._draw(kinds[k], chosen, random, shares, of_length) for k in drawn]

    def _draw(
        self,
        kind: str,
        split: Split,
        random: np.random.Generator,
        shares: dict[str, float],
        log_prob_of_length: Callable[[int], float],
    ) -> Document:
        if kind == "story":
            text, log_prob = self._draw_story(split, random)
        else:
            texts = self.tables[kind][split]
            if not texts:
                raise ValueError(f"split = {split}; so small a world holds no {kind} out; more people, or stories only")
            text, log_prob = texts[random.integers(len(texts))], self._log_prob_of_statement(kind)
        of_length = log_prob_of_length(text.count(" ") + 1)
        return Document(text, kind, math.log(shares[kind]) + log_prob - of_length, of_length)

    def _draw_story(self, split: Split, random: np.random.Generator) -> tuple[str, float]:
        for _ in range(MAX_STORIES_DRAWN):
            text, log_prob = self.stories.sample(random)
            if split_of(text, STORY_SHARES) == split:
                return text, log_prob
        raise ValueError(f"split = {split}; so small a world holds no story out; larger sizes, or facts and sums only")

    def _log_prob_of_statement(self, kind: str) -> float:
        return -math.log(len(self._all_statements[kind]))

    def log_prob(self, text: str, kind: str) -> float:
        """log p(text | kind), nats, found by parsing; -inf outside of the language."""
        if kind == "story":
            return self.stories.log_prob(text)
        return self._log_prob_of_statement(kind) if text in self._all_statements[kind] else -math.inf

    def log_prob_of_length(self, n_words: int, mixture: Mapping[str, float]) -> float:
        """log p(number of words), nats, in a mixture of kinds (kind -> share)."""
        p = sum(share * self._length_probabilities[kind].get(n_words, 0.0) for kind, share in _shares(mixture).items())
        return math.log(p) if p else -math.inf

    def log_prob_given_length(self, text: str, kind: str, mixture: Mapping[str, float] | None = None) -> float:
        """log p(text | its number of words), nats; see `entropy` for `mixture`."""
        value = self.log_prob(text, kind)
        shares = _shares(mixture or {kind: 1.0})
        if value == -math.inf:
            return value
        return math.log(shares[kind]) + value - self.log_prob_of_length(len(text.split()), shares)

    def entropy(self, kind: str, mixture: Mapping[str, float] | None = None, *, is_length_given: bool = True) -> float:
        """Mean of -log p(text) over the documents of a kind, nats, exact; by default given their length.

        Args:
            kind: of the documents.
            mixture: share of each kind in the language. Who reads a text whose length other kinds have as well must also tell which kind
                it is: facts and sums of six words. None: the kind is known.
            is_length_given: the length is known.
        """
        shares, lengths = _shares(mixture or {kind: 1.0}), self._length_probabilities[kind]
        whole = self.stories.entropy() if kind == "story" else -self._log_prob_of_statement(kind)
        of_length = -sum(p * self.log_prob_of_length(n_words, shares) for n_words, p in lengths.items())
        return whole - math.log(shares[kind]) - (of_length if is_length_given else 0.0)

    def mean_tokens(self, kind: str) -> float:
        """Mean number of tokens of a document: its words and the end."""
        return 1 + sum(n_words * p for n_words, p in self._length_probabilities[kind].items())

    def instructions(
        self, split: str, n: int, *, kinds: Sequence[str] = INSTRUCTION_KINDS, seed: int = 0
    ) -> list[Instruction]:
        """Draw instructions, the kinds in turn; they repeat where a kind has fewer (see `questions` for each once)."""
        chosen = check_split(split)
        random = self._random(3, chosen, seed)
        makers = [self.asked.maker(kind, chosen) for kind in kinds]
        return [makers[i % len(makers)](random) for i in range(n)]

    def questions(self, split: str, kind: str, n: int | None = None, *, seed: int = 0) -> list[Instruction]:
        """Different instructions of one kind, in a random order.

        Args:
            split: train, validation or test.
            kind: a kind of instruction, or (the same in every split) "fact_unasked", "sum_unasked": what fine-tuning never asks for,
                "reversal": who wrote a one-way person's book.
            n: at most so many; None: all of a finite kind.
            seed: of the order and the draw.

        Raises:
            ValueError: no such split or kind, or n = None where there is no end of questions.
        """
        chosen = check_split(split)
        random = self._random(4, chosen, seed)
        make = self.asked.maker(kind, chosen)
        items = self.asked.listed(kind, chosen)
        if items is not None:
            return [items[i] for i in random.permutation(len(items))[:n]]
        if n is None:
            raise ValueError(f"n = None; {kind} questions are made, not listed; a number")
        found: dict[str, Instruction] = {}
        for _ in range(100 * n):
            item = make(random)
            found[item.prompt] = item
            if len(found) == n:
                break
        return list(found.values())

    def _random(self, purpose: int, split: Split, seed: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([self.seed, seed, purpose, SPLITS.index(split)]))


def _shares(mixture: Mapping[str, float]) -> dict[str, float]:
    """Shares of the kinds that there are, adding up to one."""
    if unknown := sorted(set(mixture) - set(KINDS)):
        raise ValueError(f"mixture = {unknown}; not a kind of document; {', '.join(KINDS)}")
    if min(mixture.values()) < 0 or sum(mixture.values()) <= 0:
        raise ValueError(f"mixture = {dict(mixture)}; shares of the kinds; positive numbers")
    total = sum(mixture.values())
    return {kind: share / total for kind, share in mixture.items() if share > 0}
