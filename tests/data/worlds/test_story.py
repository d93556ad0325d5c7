"""Stories: probabilities are exact, text and choices determine each other."""

import math
from collections import Counter
from itertools import product

import numpy as np
import pytest

from illada_lab.data.worlds import World
from illada_lab.data.worlds.story import FORMS

TINY = {
    "n_heroes": 2, "n_animals": 2, "n_places": 3, "n_objects": 3, "n_colours": 2, "n_days": 2, "n_foods": 2, "n_moods":
    2, "places_per_hero": 2, "objects_per_place": 2, "n_people": 4,
}  # fmt: skip


def every_tiny_story(world: World) -> list[str]:
    """All ways to fill all forms, legal or not: what parsing refuses has probability 0."""
    lexicon = world.lexicon
    words = {
        "hero": lexicon.heroes, "pronoun": ("he", "she"), "place": lexicon.places, "object": lexicon.objects,
        "animal": lexicon.animals, "colour": lexicon.colours, "day": lexicon.days, "food": lexicon.foods,
        "mood": lexicon.moods,
    }  # fmt: skip
    texts = []
    for form in FORMS:
        slots = sorted(form.slots)
        for filling in product(*(words[slot] for slot in slots)):
            table = dict(zip(slots, filling, strict=True))
            texts.append(" ".join(table[w[1:-1]] if w[0] == "{" else w for w in form.words))
    return texts


def test_probabilities_sum_to_one_and_give_the_entropy() -> None:
    world = World(seed=3, **TINY)
    texts = every_tiny_story(world)
    assert len(set(texts)) == len(texts)  # unambiguous: no two ways to tell the same story
    log_p = np.array([world.log_prob(text, "story") for text in texts])
    p = np.exp(log_p)
    assert math.isclose(p.sum(), 1.0, rel_tol=1e-9)
    assert (log_p == -math.inf).any()  # the enumeration held illegal stories too
    assert math.isclose(-(p[p > 0] * log_p[p > 0]).sum(), world.entropy("story", is_length_given=False), rel_tol=1e-9)


def test_length_distribution_by_enumeration() -> None:
    world = World(seed=3, **TINY)
    p_of_length: Counter[int] = Counter()
    conditional = 0.0
    for text in every_tiny_story(world):
        value = world.log_prob(text, "story")
        if value > -math.inf:
            p_of_length[len(text.split())] += math.exp(value)
            conditional -= math.exp(value) * world.log_prob_given_length(text, "story")
    for n_words, p in p_of_length.items():
        assert math.isclose(math.log(p), world.log_prob_of_length(n_words, {"story": 2.0}), rel_tol=1e-9, abs_tol=1e-12)
    assert world.log_prob_of_length(3, {"story": 1.0}) == -math.inf
    assert math.isclose(conditional, world.entropy("story"), rel_tol=1e-9)
    mean = 1 + sum(n * p for n, p in p_of_length.items())
    assert math.isclose(mean, world.mean_tokens("story"), rel_tol=1e-9)


def test_sampling_agrees_with_the_probabilities() -> None:
    world = World(seed=3, **TINY)
    random = np.random.default_rng(0)
    n = 20_000
    drawn = Counter(world.stories.sample(random) for _ in range(n))
    for (text, log_prob), count in drawn.items():
        assert math.isclose(log_prob, world.log_prob(text, "story"), rel_tol=1e-12)
        p = math.exp(log_prob)
        assert abs(count / n - p) < 6 * math.sqrt(p / n)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_monte_carlo_entropy_equals_exact_entropy(seed: int) -> None:
    world = World(seed=seed)
    for split, n in (("train", 2000), ("validation", 300)):
        documents = world.documents(split, n, seed=5)
        values = -np.array([document.log_prob for document in documents])
        assert abs(values.mean() - world.entropy("story")) < 4 * values.std() / math.sqrt(len(values))


def test_parsing_inverts_sampling() -> None:
    world = World(seed=1)
    mixture = {"story": 0.5, "fact": 0.25, "sum": 0.25}
    for document in world.documents("train", 2000, mixture=mixture):
        value = world.log_prob_given_length(document.text, document.kind, mixture)
        assert math.isclose(value, document.log_prob, rel_tol=1e-12)


def test_the_limit_of_a_mixture_counts_that_the_kind_is_not_told() -> None:
    """Probabilities of a small language, text by text, against the formulas; facts and sums share the length of six words."""
    world = World(seed=3, **TINY)
    mixture = {"story": 2.0, "fact": 1.0, "sum": 5.0}
    texts = {"story": every_tiny_story(world)}
    texts |= {kind: [text for split in table.values() for text in split] for kind, table in world.tables.items()}
    p: dict[str, float] = {}
    kind_of = {}
    for kind, found in texts.items():
        for text in set(found):
            p[text] = mixture[kind] / 8 * math.exp(world.log_prob(text, kind))
            kind_of[text] = kind
    assert math.isclose(sum(p.values()), 1.0, rel_tol=1e-9)
    p_of_length: Counter[int] = Counter()
    for text, value in p.items():
        p_of_length[len(text.split())] += value
    for n_words, value in p_of_length.items():
        if value:
            assert math.isclose(world.log_prob_of_length(n_words, mixture), math.log(value), rel_tol=1e-9)
    for kind, share in mixture.items():
        own = {text: value for text, value in p.items() if kind_of[text] == kind and value}
        given = -sum(8 / share * v * math.log(v / p_of_length[len(text.split())]) for text, v in own.items())
        whole = -sum(8 / share * v * math.log(v) for v in own.values())
        assert math.isclose(world.entropy(kind, mixture), given, rel_tol=1e-9)
        assert math.isclose(world.entropy(kind, mixture, is_length_given=False), whole, rel_tol=1e-9)
    # A story's length tells that it is one; of a fact it does not.
    assert math.isclose(world.entropy("story", mixture), world.entropy("story"), rel_tol=1e-9)
    assert world.entropy("fact", mixture) > world.entropy("fact") + 0.1
    for document in world.documents("validation", 50, mixture=mixture, seed=2):
        value = p[document.text]
        assert math.isclose(document.log_prob + document.log_prob_of_length, math.log(value), rel_tol=1e-9)


def test_a_world_without_held_out_stories_says_so() -> None:
    world = World(seed=0, **{**dict.fromkeys(TINY, 1), "n_people": 4})
    with pytest.raises(ValueError, match="split = test; so small a world holds no story out"):
        world.documents("test", 1)


def test_what_is_no_story_has_no_probability() -> None:
    world = World(seed=0)
    hero = world.lexicon.heroes[0]
    place = world.lexicon.places_of[hero][0]
    thing = world.lexicon.objects_at[place][0]
    story = f"{hero} was at the {place} . he found a red {thing} . a fox came but {hero} kept the red {thing} ."
    story += " the fox was sad ."
    assert world.log_prob(story, "story") > -math.inf
    elsewhere = next(p for p in world.lexicon.places if p not in world.lexicon.places_of[hero])
    for wrong in (
        story.replace("he found", "she found"),
        story.replace("the fox was", "the owl was"),
        story.replace(f"the {place}", f"the {elsewhere}"),
        story.replace(f"kept the red {thing}", "kept the red moon"),
        story[:-2],
        story + " .",
        "",
        story.replace(" ", "  ", 1),
    ):
        assert world.log_prob(wrong, "story") == -math.inf


def test_names_and_objects_come_back() -> None:
    """What a bidirectional model can use: most stories hold a hero, an object and an animal twice or more."""
    world = World(seed=0)
    for document in world.documents("train", 200):
        counts = Counter(document.text.split())
        assert max(counts[hero] for hero in world.lexicon.heroes) >= 2
        assert max(counts[thing] for thing in world.lexicon.objects) >= 2
        assert max(counts[animal] for animal in world.lexicon.animals) in (2, 3)  # three where it eats
