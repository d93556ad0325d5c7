"""Stories: an unambiguous grammar, sampled from the top, with the probability of every story known.

A story is four or five short sentences. Who goes where depends on the person, what is found depends on the place, and the
hero, the friend and the object come back later, so that a masked word can be known from either side. Every choice is made
once, from a distribution that depends on earlier choices; text and choices determine each other, so that the probability of
a story is the product of its choices.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from illada_lab.data.worlds import lexicon as lx

# Sentence patterns; {slots} are filled by the choices of a story. The words of each alternative tell it from the others.
OPENINGS = ("{time} {hero} went to the {place} .", "{hero} was at the {place} {time} .")
FINDS = ("{pronoun} found a {colour} {object} .", "{pronoun} saw a {colour} {object} there .")
TURNS = (
    # The object is given away ...
    "then {hero} gave the {object} to {friend} .",
    # ... or kept.
    "{friend} came but {hero} kept the {object} .",
)
RESULTS = ("now {friend} has a {colour} {object} .", "now {hero} was {mood} with the {colour} {object} .")
MEALS = ("", "they ate {food} .")

Choices = dict[str, str | int]


@dataclass(frozen=True)
class StoryGrammar:
    """Distribution over stories.

    Args:
        lexicon: who goes where, what is found there.

    Lengths: the alternatives `opening`, `find`, `turn`, `meal` change the number of words, the filled words never do.
    """

    lexicon: lx.Lexicon

    def sample(self, random: np.random.Generator) -> Choices:
        """Draw all choices of one story, in the order in which they depend on each other."""
        hero = lx.NAMES[random.integers(len(lx.NAMES))]
        place = self.lexicon.places_of[hero][random.integers(len(self.lexicon.places_of[hero]))]
        objects = self.lexicon.objects_at[place]
        friends = [name for name in lx.NAMES if name != hero]
        # The second result belongs to the second turn: who has the object at the end is not a choice.
        opening, find, turn, meal = (int(i) for i in random.integers(2, size=4))
        return {
            "hero": hero,
            "place": place,
            "object": objects[random.integers(len(objects))],
            "colour": lx.COLOURS[random.integers(len(lx.COLOURS))],
            "time": lx.TIMES[random.integers(len(lx.TIMES))],
            "friend": friends[random.integers(len(friends))],
            "opening": opening,
            "find": find,
            "turn": turn,
            "mood": lx.MOODS[random.integers(len(lx.MOODS))] if turn else "",
            "meal": meal,
            "food": lx.FOODS[random.integers(len(lx.FOODS))] if meal else "",
        }

    def text(self, choices: Choices) -> str:
        """The story told by its choices."""
        words = dict(choices, pronoun="he" if choices["hero"] in lx.HE else "she")
        sentences = (
            OPENINGS[int(choices["opening"])],
            FINDS[int(choices["find"])],
            TURNS[int(choices["turn"])],
            RESULTS[int(choices["turn"])],
            MEALS[int(choices["meal"])],
        )
        return " ".join(s for s in sentences if s).format(**words)

    def parse(self, text: str) -> Choices | None:
        """The choices behind a text, or None where it is no story. Inverse of `text`."""
        for (opening, find, turn, meal), pattern in _patterns():
            match = pattern.fullmatch(text)
            if match is None:
                continue
            words = match.groupdict()
            choices: Choices = {"mood": "", "food": "", **words}
            del choices["pronoun"]
            choices |= {"opening": opening, "find": find, "turn": turn, "meal": meal}
            is_legal = (
                choices["hero"] in lx.NAMES
                and choices["friend"] in lx.NAMES
                and choices["friend"] != choices["hero"]
                and words["pronoun"] == ("he" if choices["hero"] in lx.HE else "she")
                and choices["place"] in self.lexicon.places_of[str(choices["hero"])]
                and choices["object"] in self.lexicon.objects_at[str(choices["place"])]
                and choices["colour"] in lx.COLOURS
                and choices["time"] in lx.TIMES
                and (not turn or choices["mood"] in lx.MOODS)
                and (not meal or choices["food"] in lx.FOODS)
            )
            return choices if is_legal else None
        return None

    def log_prob(self, choices: Choices) -> float:
        """log p of a story in nats, the sum over its choices."""
        place = str(choices["place"])
        n_ways = (
            len(lx.NAMES)
            * len(self.lexicon.places_of[str(choices["hero"])])
            * len(self.lexicon.objects_at[place])
            * len(lx.COLOURS)
            * len(lx.TIMES)
            * (len(lx.NAMES) - 1)
            * 2**4  # opening, find, turn, meal
            * (len(lx.MOODS) if choices["turn"] else 1)
            * (len(lx.FOODS) if choices["meal"] else 1)
        )
        return -math.log(n_ways)

    @cached_property
    def length_probabilities(self) -> dict[int, float]:
        """p(number of words), exact: the filled words never change it."""
        table: dict[int, float] = {}
        for alternatives in _alternatives():
            n = len(_template(*alternatives).split())
            table[n] = table.get(n, 0.0) + 1 / 16
        return table

    def entropy(self) -> float:
        """H(story) in nats, exact. All distributions are uniform and their sizes depend on `turn` and `meal` only."""
        sizes = [
            math.log(len(lx.NAMES) * (len(lx.NAMES) - 1) * len(lx.COLOURS) * len(lx.TIMES) * 16),
            sum(math.log(len(self.lexicon.places_of[h])) for h in lx.NAMES) / len(lx.NAMES),
            sum(
                math.log(len(self.lexicon.objects_at[p]))
                for h in lx.NAMES
                for p in self.lexicon.places_of[h]
            ) / sum(len(p) for p in self.lexicon.places_of.values()),
            0.5 * math.log(len(lx.MOODS)) + 0.5 * math.log(len(lx.FOODS)),
        ]  # fmt: skip
        return sum(sizes)

    def entropy_given_length(self) -> float:
        """H(story | number of words) in nats: what a model that is shown the length must still guess."""
        return self.entropy() + sum(p * math.log(p) for p in self.length_probabilities.values())


def _alternatives() -> Iterator[tuple[int, int, int, int]]:
    """All combinations of opening, find, turn and meal."""
    return ((o, f, t, m) for o in range(2) for f in range(2) for t in range(2) for m in range(2))


def _template(opening: int, find: int, turn: int, meal: int) -> str:
    parts = (OPENINGS[opening], FINDS[find], TURNS[turn], RESULTS[turn], MEALS[meal])
    return " ".join(part for part in parts if part)


@lru_cache(maxsize=1)
def _patterns() -> list[tuple[tuple[int, int, int, int], re.Pattern[str]]]:
    """One regular expression per combination: a slot is a word; when it comes back it must be the same word."""
    compiled = []
    for alternatives in _alternatives():
        seen: set[str] = set()

        def slot(match: re.Match[str], seen: set[str] = seen) -> str:
            name = match.group(1)
            if name in seen:
                return f"(?P={name})"
            seen.add(name)
            return f"(?P<{name}>[a-z]+)"

        # Braces survive re.escape as \{ \}.
        escaped = re.escape(_template(*alternatives)).replace(r"\ ", " ")
        compiled.append((alternatives, re.compile(re.sub(r"\\\{(\w+)\\\}", slot, escaped))))
    return compiled
