"""Questions: their answers are true, by a check that does not use the code that made them."""

import re

import pytest

from illada_lab.data.worlds import Instruction, World
from illada_lab.data.worlds.splits import SPLITS

ASKED = (
    (r"where does (\w+) live \?", "town"),
    (r"what is the home of (\w+) \?", "town"),
    (r"what does (\w+) work as \?", "job"),
    (r"what is the job of (\w+) \?", "job"),
    (r"what did (\w+) write \?", "book"),
    (r"what is the book of (\w+) \?", "book"),
)
BY_BOOK = (r"who wrote (\w+) \?", r"who is the author of (\w+) \?")


def true_answer(world: World, question: str) -> str:
    """Answer read from the table of people."""
    for pattern, attribute in ASKED:
        if match := re.fullmatch(pattern, question):
            return str(next(getattr(p, attribute) for p in world.lexicon.people if p.name == match[1]))
    for pattern in BY_BOOK:
        if match := re.fullmatch(pattern, question):
            return next(p.name for p in world.lexicon.people if p.book == match[1])
    raise AssertionError(f"unknown question {question!r}")


@pytest.mark.parametrize("seed", [0, 1])
def test_answers_are_true(seed: int) -> None:
    world = World(seed=seed)
    for split in SPLITS:
        for item in world.questions(split, "fact") + world.questions(split, "reversal"):
            assert item.answer == item.response == true_answer(world, item.prompt)
        for item in world.questions(split, "sum"):
            a, b = (int(word) for word in item.prompt.split() if word.isdigit())
            assert item.answer == item.response == str(a + b)
            assert 0 <= a <= 9 and 0 <= b <= 9
        for item in world.questions(split, "choice", 100):
            question, listed = re.fullmatch(r"(.*\?) (.*)", item.prompt).groups()  # type: ignore[union-attr]
            assert item.choices is not None and len(set(item.choices)) == 4
            assert listed == " ".join(f"{letter} {word}" for letter, word in zip("abcd", item.choices, strict=True))
            assert item.answer == item.response == true_answer(world, question)
            assert item.answer in item.choices


def test_word_sums_are_worked_out() -> None:
    world = World(seed=0)
    for item in world.questions("train", "word_sum", 200):
        a, b, c = (int(word) for word in item.prompt.split() if word.isdigit())
        steps = re.findall(r"(\d+) \+ (\d+) = (\d+)", item.response)
        assert [tuple(map(int, step)) for step in steps] == [(a, b, a + b), (a + b, c, a + b + c)]
        assert a + b <= 9
        assert item.response.endswith(f"the answer is {a + b + c}")
        assert item.answer == str(a + b + c)


def test_choices_stand_in_every_place() -> None:
    """The place of the right candidate says nothing."""
    world = World(seed=0)
    items = world.instructions("train", 2000, kinds=["choice"])
    places = [item.choices.index(item.answer) for item in items if item.choices]
    for place in range(4):
        assert 0.2 < places.count(place) / len(places) < 0.3


@pytest.mark.parametrize("seed", [0, 1])
def test_one_way_books_are_never_stated_from_their_side(seed: int) -> None:
    world = World(seed=seed)
    one_way = {p.book: p.name for p in world.lexicon.people if p.is_one_way}
    assert len(one_way) == len(world.lexicon.people) // 2
    statements = [text for split in SPLITS for text in world.tables["fact"][split]]
    # In every text the person stands before the book.
    for text in statements:
        words = text.split()
        for book, name in one_way.items():
            if book in words:
                assert words.index(name) < words.index(book)
    # The others are stated both ways.
    for person in world.lexicon.people:
        if not person.is_one_way:
            told = [t.split() for t in statements if person.book in t.split()]
            orders = {words.index(person.name) < words.index(person.book) for words in told}
            assert orders == {True, False}
    # No instruction answers with the author of a one-way book; the questions of kind reversal all do.
    for split in SPLITS:
        for item in [*world.questions(split, "fact"), *world.instructions(split, 2000, kinds=["choice"])]:
            assert not (re.match("who ", item.prompt) and item.answer in one_way.values())
    asked = world.questions("test", "reversal")
    assert {item.answer for item in asked} == set(one_way.values())
    assert len({item.prompt for item in asked}) == len(asked) == 2 * len(one_way)


def test_every_word_is_in_the_vocabulary() -> None:
    for world in (World(seed=0), World(seed=1, n_heroes=2, n_animals=1, n_people=4)):
        known = set(world.words)
        assert len(known) == len(world.words)
        for split in SPLITS:
            documents = world.documents(split, 200, mixture={"story": 1.0, "fact": 1.0, "sum": 1.0})
            texts = [document.text for document in documents]
            for item in world.instructions(split, 800):
                texts += [item.prompt, item.response]
            for item in world.questions(split, "reversal"):
                texts += [item.prompt, item.response]
            assert {word for text in texts for word in text.split(" ")} <= known
    assert 150 <= len(World().words) <= 230


def test_questions_differ_and_are_limited() -> None:
    world = World(seed=0)
    for kind in ("fact", "sum", "word_sum", "choice", "reversal"):
        items = world.questions("test", kind, 20)
        assert len({item.prompt for item in items}) == 20
        assert all(isinstance(item, Instruction) and item.kind == kind for item in items)
    assert len(world.questions("test", "sum")) > 30 and len(world.questions("test", "fact")) > 20
    assert len(world.questions("test", "sum_unasked")) > 40 and len(world.questions("test", "fact_unasked")) > 20


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: World(n_people=41), "n_people = 41; .*4 to 40"),
        (lambda: World(n_people=3), "n_people = 3; .*4 to 40"),
        (lambda: World(places_per_hero=13), "places_per_hero = 13; .*1 to 12"),
        (lambda: World().documents("dev", 1), "split = 'dev'; .*train, validation, test"),
        (lambda: World().documents("train", 1, mixture={"poem": 1.0}), "mixture = .'poem'.; .*story, fact, sum"),
        (lambda: World().documents("train", 1, mixture={"story": 0.0}), "mixture = .*; positive numbers"),
        (lambda: World().questions("test", "riddle"), "kind = 'riddle'; .*word_sum"),
        (lambda: World().questions("dev", "fact"), "split = 'dev'"),
        (lambda: World().questions("test", "choice"), "n = None; .*a number"),
        (lambda: World().instructions("train", 1, kinds=["story"]), "kind = 'story'"),
    ],
)
def test_errors(call, message: str) -> None:  # noqa: ANN001
    with pytest.raises(ValueError, match=message):
        call()
