"""The best possible mask predictor for stories: exact probabilities of masked words, by summing over the grammar."""

from collections import defaultdict
from collections.abc import Sequence

from illada_lab.data.worlds.lexicon import IS_HE
from illada_lab.data.worlds.story import FORMS, Form, StoryGrammar

Weights = dict[str, float]


class StoryPosterior:
    """p(word at a position | the visible words, the length) under the grammar.

    Its bound is the entropy: what a model loses against it, position by position and ratio by ratio, is what the model
        has not
    learnt. It is also a predictor of known quality for samplers.

    Args:
        grammar: of the stories.
    """

    def __init__(self, grammar: StoryGrammar) -> None:
        self.grammar = grammar

    def __call__(self, words: Sequence[str | None]) -> list[Weights]:
        """Distributions of all words of one story.

        Args:
            words: the story; None where a word is masked.

        Returns:
            For each position word -> probability; a visible word has probability 1.

        Raises:
            ValueError: no story has these words at these places.
        """
        total = 0.0
        found: list[Weights] = [defaultdict(float) for _ in words]
        for form in FORMS:
            given = _match(form, words)
            if given is None:
                continue
            weight, of_slot = self._slots(form, given)
            total += weight
            for position, expected in enumerate(form.words):
                if expected[0] != "{":
                    found[position][expected] += weight
                else:
                    for word, p in of_slot[expected[1:-1]].items():
                        found[position][word] += p
        if total == 0:
            raise ValueError(f"words = {list(words)}; no story of this world has them; None for masked words")
        return [{word: p / total for word, p in weights.items() if p > 0} for weights in found]

    def _slots(self, form: Form, given: dict[str, str]) -> tuple[float, dict[str, Weights]]:
        """p(form, given words), and for each slot the part of it that goes to each word."""
        of_slot: dict[str, Weights] = {slot: defaultdict(float) for slot in form.slots}
        total = 0.0
        lexicon = self.grammar.lexicon
        for hero in _allowed(lexicon.heroes, given.get("hero")):
            pronoun = "he" if hero in IS_HE else "she"
            if given.get("pronoun", pronoun) != pronoun:
                continue
            places = lexicon.places_of[hero]
            for place in _allowed(places, given.get("place")):
                options = self.grammar.options({"hero": hero, "place": place})
                weight = 1 / (len(lexicon.heroes) * len(places))
                open_slots = {}
                for slot in form.slots - {"hero", "pronoun", "place"}:
                    allowed = _allowed(options[slot], given.get(slot))
                    weight *= len(allowed) / len(options[slot])
                    open_slots[slot] = allowed
                total += weight
                if weight:
                    for slot, word in (("hero", hero), ("pronoun", pronoun), ("place", place)):
                        of_slot[slot][word] += weight
                    for slot, allowed in open_slots.items():
                        for word in allowed:
                            of_slot[slot][word] += weight / len(allowed)
        return total, of_slot


def _match(form: Form, words: Sequence[str | None]) -> dict[str, str] | None:
    """Visible words of the slots, or None where the words do not fit the form."""
    if len(form.words) != len(words):
        return None
    given: dict[str, str] = {}
    for expected, word in zip(form.words, words, strict=True):
        if word is None:
            continue
        if expected[0] == "{":
            if given.setdefault(expected[1:-1], word) != word:
                return None
        elif word != expected:
            return None
    return given


def _allowed(words: tuple[str, ...], given: str | None) -> tuple[str, ...]:
    """The words a slot may still hold."""
    return words if given is None else (given,) if given in words else ()
