"""Splits: nothing is in two of them, and they are the same everywhere."""

import os
import subprocess
import sys
import time
from itertools import combinations

import pytest

from illada_lab.data.worlds import World
from illada_lab.data.worlds.facts import all_facts
from illada_lab.data.worlds.splits import SPLITS, fraction
from illada_lab.data.worlds.sums import all_sums

MIXTURE = {"story": 0.4, "fact": 0.3, "sum": 0.3}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_document_in_two_splits(seed: int) -> None:
    world = World(seed=seed)
    texts = {split: {d.text for d in world.documents(split, 600, mixture=MIXTURE, seed=seed)} for split in SPLITS}
    for one, other in combinations(SPLITS, 2):
        assert not texts[one] & texts[other]


def test_small_world_has_no_leak_either() -> None:
    """Where the language has few stories every one of them is drawn, so a leak would show."""
    world = World(
        seed=0, n_heroes=2, n_places=2, places_per_hero=1, objects_per_place=2, n_foods=1, n_days=1, n_animals=1,
        n_colours=2, n_moods=1,
    )  # fmt: skip
    texts = {split: {d.text for d in world.documents(split, 300)} for split in SPLITS}
    for one, other in combinations(SPLITS, 2):
        assert not texts[one] & texts[other]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_training_states_every_item_in_another_form(seed: int) -> None:
    world = World(seed=seed)
    for kind, items in (("fact", all_facts(world.lexicon)), ("sum", all_sums())):
        train = set(world.tables[kind]["train"])
        for item in items:
            stated = [text in train for text in item.statements()]
            assert sum(stated) >= len(stated) - 1 >= 2
        sizes = {split: len(texts) for split, texts in world.tables[kind].items()}
        assert sizes["validation"] == sizes["test"] == round(0.2 * len(items))
        assert sum(sizes.values()) == sum(len(item.statements()) for item in items)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_question_in_two_splits(seed: int) -> None:
    world = World(seed=seed)
    for kind in ("fact", "sum", "word_sum", "choice"):
        n = None if kind in ("fact", "sum") else 400
        asked = {split: {item.prompt for item in world.questions(split, kind, n)} for split in SPLITS}
        for one, other in combinations(SPLITS, 2):
            assert not asked[one] & asked[other]
        trained = {item.prompt for item in world.instructions("train", 3000, kinds=[kind])}
        assert not trained & (asked["validation"] | asked["test"])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_is_never_asked_for_is_asked_for_in_no_words(seed: int) -> None:
    world = World(seed=seed)
    for kind in ("fact", "sum"):
        unasked = {item.prompt for item in world.questions("test", f"{kind}_unasked")}
        everything = {item.prompt for split in SPLITS for item in world.questions(split, kind)}
        assert unasked and not unasked & everything
        trained = {item.prompt for item in world.instructions("train", 4000, kinds=[kind])}
        # Other wordings of what the test split asks are trained on; of what is unasked none is.
        numbers = {tuple(sorted(w for w in q.split() if w.isdigit())) for q in trained}
        for item in world.questions("test", f"{kind}_unasked"):
            if kind == "sum":
                assert tuple(sorted(w for w in item.prompt.split() if w.isdigit())) not in numbers
    unasked = {(item.person.name, item.answer) for item in world.asked.items["fact"]["test"]}
    asked = {(item.person.name, item.answer) for item in world.asked.items["fact"]["train"]}
    assert not unasked & asked


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_word_sums_are_held_out_by_their_numbers_and_choices_by_their_question(seed: int) -> None:
    world = World(seed=seed)
    triples = {
        split: {tuple(w for w in q.prompt.split() if w.isdigit()) for q in world.questions(split, "word_sum", 600)}
        for split in SPLITS
    }
    for one, other in combinations(SPLITS, 2):
        assert not triples[one] & triples[other]
    for split in SPLITS:
        plain = {question.prompt for question in world.questions(split, "fact")}
        assert all(q.prompt[: q.prompt.index("?") + 1] in plain for q in world.questions(split, "choice", 100))


def test_same_documents_in_another_process() -> None:
    program = (
        "from illada_lab.data.worlds import World\n"
        "w = World(seed=4)\n"
        f"print([d.text for d in w.documents('test', 50, mixture={MIXTURE}, seed=2)])\n"
        "print([q.prompt for k in ('fact', 'sum', 'choice', 'reversal') for q in w.questions('test', k, 9)], w.words)"
    )
    outputs = set()
    for hash_seed in ("1", "2"):
        environment = dict(os.environ, PYTHONHASHSEED=hash_seed)
        command = [sys.executable, "-c", program]
        outputs.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(outputs) == 1


def test_seeds_matter() -> None:
    assert World(seed=0).lexicon != World(seed=1).lexicon
    world = World(seed=0)
    assert world.documents("train", 20, seed=0) == world.documents("train", 20, seed=0)
    assert world.documents("train", 20, seed=0) != world.documents("train", 20, seed=1)
    assert fraction("a story") == pytest.approx(0.5575523, abs=1e-6)


def test_documents_are_cheap() -> None:
    start = time.perf_counter()
    assert len(World(seed=0).documents("train", 6000, mixture=MIXTURE)) == 6000
    assert time.perf_counter() - start < 10  # about 0.05 s without type checks on an idle machine
