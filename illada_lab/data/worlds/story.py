"""Stories: an unambiguous grammar, sampled from the top, with the probability of every story known.

A story is three to five short sentences. Where somebody goes depends on who it is, what is found depends on the place,
and the hero, the animal, the object and its colour come back later, so that a masked word can often be known from
either side. Each choice is made once, with equal probability among what earlier choices leave; text and choices
determine each other, so the probability of a story is the product of its choices'.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from illada_lab.data.worlds.lexicon import IS_HE, Lexicon

# Alternatives of each sentence, equally likely. {slots} are filled by the choices. The fixed words of an alternative
# tell it from the others of its sentence, which makes the grammar unambiguous.
SENTENCES = (
    ("on {day} {hero} went to the {place} .", "{hero} was at the {place} ."),
    ("{pronoun} found a {colour} {object} .", "{pronoun} saw a {colour} {object} there ."),
    (
        "{hero} gave the {colour} {object} to a {animal} . now the {animal} has a {colour} {object} .",
        "a {animal} came but {hero} kept the {colour} {object} . the {animal} was {mood} .",
    ),
    ("", "the {animal} ate {food} ."),
)
Choices = dict[str, str]


@dataclass(frozen=True)
class Form:
    """One combination of alternatives.

    Attributes:
        words: the words of the story, slots in braces.
        slots: the slots in it.
    """

    words: tuple[str, ...]
    slots: frozenset[str]

    @classmethod
    def of(cls, sentences: tuple[str, ...]) -> "Form":
        """The form of a combination of sentences."""
        words = tuple(" ".join(sentences).split())
        return cls(words, frozenset(word[1:-1] for word in words if word.startswith("{")))


FORMS = tuple(Form.of(sentences) for sentences in product(*SENTENCES))
SLOTS = frozenset[str]().union(*(form.slots for form in FORMS))


@dataclass(frozen=True)
class StoryGrammar:
    """Distribution over stories.

    Args:
        lexicon: who goes where, what is found there.
    """

    lexicon: Lexicon

    def options(self, choices: Choices) -> dict[str, tuple[str, ...]]:
        """What each slot may hold, given the hero and the place."""
        lexicon = self.lexicon
        hero = choices["hero"]
        return {
            "hero": lexicon.heroes,
            "place": lexicon.places_of.get(hero, ()),
            "pronoun": ("he" if hero in IS_HE else "she",),
            "object": lexicon.objects_at.get(choices["place"], ()),
            "animal": lexicon.animals,
            "colour": lexicon.colours,
            "day": lexicon.days,
            "food": lexicon.foods,
            "mood": lexicon.moods,
        }

    def sample(self, random: np.random.Generator) -> tuple[str, float]:
        """Draw a story.

        Returns:
            Its text and log p in nats.
        """
        # One number per slot, whether the form has it or not: cheaper than asking for each.
        u = random.random(len(SLOTS) + 1).tolist()
        heroes = self.lexicon.heroes
        hero = heroes[int(u[0] * len(heroes))]
        places = self.lexicon.places_of[hero]
        place = places[int(u[1] * len(places))]
        options, number = self._options_of[hero, place], int(u[-1] * len(FORMS))
        form = FORMS[number]
        filling = {f"{{{slot}}}": words[int(u[i] * len(words))] for i, (slot, words) in enumerate(options.items())}
        text = " ".join([filling.get(word, word) for word in form.words])
        return text, self._log_probs_of[hero, place][number]

    def parse(self, text: str) -> tuple[Form, Choices] | None:
        """The form and the choices behind a text, or None where it is no story."""
        words = text.split(" ")
        for form in FORMS:
            if len(form.words) != len(words):
                continue
            choices: Choices = {}
            if all(
                choices.setdefault(expected[1:-1], word) == word if expected[0] == "{" else expected == word
                for expected, word in zip(form.words, words, strict=True)
            ):
                options = self.options(choices)
                if all(choices[slot] in options[slot] for slot in form.slots):
                    return form, choices
        return None

    def log_prob(self, text: str) -> float:
        """log p of a text in nats, by parsing it; -inf where it is no story."""
        parsed = self.parse(text)
        if parsed is None:
            return -math.inf
        form, choices = parsed
        return self._log_prob_of_choices(form, self.options(choices))

    @cached_property
    def _options_of(self) -> dict[tuple[str, str], dict[str, tuple[str, ...]]]:
        pairs = [(hero, place) for hero in self.lexicon.heroes for place in self.lexicon.places_of[hero]]
        return {(hero, place): self.options({"hero": hero, "place": place}) for hero, place in pairs}

    @cached_property
    def _log_probs_of(self) -> dict[tuple[str, str], list[float]]:
        """log p of a story of each form with a hero and a place: which words fill it does not matter."""
        return {
            pair: [self._log_prob_of_choices(form, options) for form in FORMS]
            for pair, options in self._options_of.items()
        }

    @staticmethod
    def _log_prob_of_choices(form: Form, options: dict[str, tuple[str, ...]]) -> float:
        return -math.log(len(FORMS)) - sum(math.log(len(options[slot])) for slot in form.slots)

    @cached_property
    def length_probabilities(self) -> dict[int, float]:
        """Number of words -> probability. No slot is empty or longer than a word, so the form decides."""
        table: dict[int, float] = {}
        for form in FORMS:
            table[len(form.words)] = table.get(len(form.words), 0.0) + 1 / len(FORMS)
        return table

    def entropy(self) -> float:
        """H(story) in nats, exact: of the form, and of every slot in it on average over hero and place."""
        lexicon = self.lexicon
        of_slot = dict.fromkeys(SLOTS, 0.0)
        for hero in lexicon.heroes:
            for place in lexicon.places_of[hero]:
                p = 1 / (len(lexicon.heroes) * len(lexicon.places_of[hero]))
                for slot, words in self._options_of[hero, place].items():
                    of_slot[slot] += p * math.log(len(words))
        of_slots = sum(of_slot[slot] for form in FORMS for slot in form.slots) / len(FORMS)
        return math.log(len(FORMS)) + of_slots
