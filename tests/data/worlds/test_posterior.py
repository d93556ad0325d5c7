"""The exact posterior: its bound is the entropy."""

import math

import numpy as np
import pytest

from illada_lab.data.worlds import World
from illada_lab.data.worlds.posterior import StoryPosterior


def test_posterior_by_enumeration() -> None:
    """Probabilities of a masked word equal those of all stories that fit, weighed by the grammar."""
    world = World(
        seed=3, n_heroes=2, n_animals=2, n_places=2, places_per_hero=2, n_objects=2, objects_per_place=1, n_colours=2,
        n_days=1, n_foods=1, n_moods=1, n_people=4,
    )  # fmt: skip
    stories = {text: math.exp(log_p) for text, log_p in (world.stories.sample(r) for r in _generators(4000))}
    assert math.isclose(sum(stories.values()), 1.0)  # all of them were drawn
    text = next(text for text in sorted(stories) if "ate" in text and "gave" in text)
    words: list[str | None] = list(text.split())
    for masked in ((1, 2, 3), (0, 6, 7, 10), tuple(range(len(words)))):
        given = [None if i in masked else word for i, word in enumerate(words)]
        fitting = [(t.split(" "), p) for t, p in stories.items() if _fits(t.split(" "), given)]
        total = sum(p for _, p in fitting)
        for position, weights in enumerate(StoryPosterior(world.stories)(given)):
            expected: dict[str, float] = {}
            for other, p in fitting:
                expected[other[position]] = expected.get(other[position], 0.0) + p / total
            assert weights == pytest.approx(expected)


def test_chain_rule_in_any_order() -> None:
    """Revealing words one after the other, in any order, adds up to log p(story | length)."""
    world = World(seed=0)
    posterior = StoryPosterior(world.stories)
    for document in world.documents("test", 4):
        words = document.text.split()
        for order in (range(len(words)), reversed(range(len(words)))):
            given: list[str | None] = [None] * len(words)
            total = 0.0
            for position in order:
                total += math.log(posterior(given)[position][words[position]])
                given[position] = words[position]
            assert math.isclose(total, document.log_prob, rel_tol=1e-9)


def test_words_of_no_story() -> None:
    posterior = StoryPosterior(World(seed=0).stories)
    with pytest.raises(ValueError, match="no story of this world"):
        posterior(["moon", *[None] * 25])


def _fits(words: list[str], given: list[str | None]) -> bool:
    return len(words) == len(given) and all(g in (None, w) for w, g in zip(words, given, strict=True))


def _generators(n: int) -> list[np.random.Generator]:
    return [np.random.default_rng(i) for i in range(n)]
