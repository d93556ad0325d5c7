"""Words of the world, and who goes with what: drawn once from the world's seed."""

from dataclasses import dataclass, field

import numpy as np

HE = ("tom", "leo", "max", "sam", "ben", "jack", "finn", "hugo")
SHE = ("mia", "ella", "ruth", "anna", "zoe", "lily", "nora", "iris")
NAMES = HE + SHE
PLACES = ("forest", "river", "garden", "market", "castle", "harbour", "meadow", "school", "farm", "beach", "mill", "bridge")
OBJECTS = (
    "kite", "ball", "lamp", "book", "drum", "boat", "coat", "ring", "cup", "map", "bell", "doll",
    "key", "hat", "box", "coin", "flute", "rope", "shell", "stone", "spoon", "basket", "mirror", "feather",
)  # fmt: skip
COLOURS = ("red", "blue", "green", "white", "black", "yellow", "golden", "silver")
TIMES = ("once", "today", "yesterday", "later", "soon", "again", "early", "late")
FOODS = ("bread", "soup", "cake", "apples", "rice", "cheese", "honey", "nuts")
MOODS = ("happy", "proud", "glad", "calm")

PEOPLE = (
    "ada", "bram", "cora", "dana", "egon", "fay", "gil", "hana", "ivan", "jana", "karl", "lena", "milo", "nina", "otto", "pia",
    "quinn", "rosa", "sven", "tara", "ugo", "vera", "wim", "xena", "yves", "zara", "alma", "boris", "clara", "dirk", "edda", "fritz",
    "greta", "hilde", "igor", "judit", "klara", "lars", "mona", "nils",
)  # fmt: skip
TOWNS = ("rome", "paris", "oslo", "cairo", "lima", "delhi", "tokyo", "bern", "kyiv", "quito", "seoul", "tunis")
JOBS = ("baker", "nurse", "pilot", "tailor", "judge", "miner", "poet", "farmer", "sailor", "teacher", "painter", "barber")
BOOKS = (
    "sunrise", "storm", "winter", "island", "shadow", "garland", "voyage", "thunder", "orchard", "lantern", "desert", "comet",
    "harvest", "mirage", "glacier", "tempest", "meridian", "canyon", "ember", "horizon", "labyrinth", "monsoon", "nebula", "oasis",
    "pilgrim", "quarry", "riddle", "saga", "twilight", "umbra", "valley", "whisper", "zenith", "aurora", "beacon", "citadel",
    "dynasty", "eclipse", "falcon", "granite",
)  # fmt: skip
NUMBERS = tuple(str(n) for n in range(31))
LETTERS = ("a", "b", "c", "d")
FUNCTION_WORDS = (
    ".", "?", "+", "=", "the", "went", "to", "at", "was", "he", "she", "him", "her", "found", "saw", "there", "gave", "kept", "came",
    "but", "now", "has", "they", "ate", "with", "then", "lives", "in", "home", "of", "is", "works", "as", "job", "wrote", "written",
    "by", "who", "where", "does", "live", "what", "do", "did", "write", "plus", "sum", "and", "how", "many", "have", "gives",
    "answer", "which", "book", "more",
)  # fmt: skip


def all_words() -> list[str]:
    """Every word of the world once, in a fixed order."""
    groups = (
        FUNCTION_WORDS, NUMBERS, LETTERS, NAMES, PLACES, OBJECTS, COLOURS, TIMES, FOODS, MOODS, PEOPLE, TOWNS, JOBS, BOOKS,
    )  # fmt: skip
    return list(dict.fromkeys(word for group in groups for word in group))


@dataclass(frozen=True)
class Person:
    """An entity of the facts.

    Attributes:
        name, town, job, book: what is true of them; books are unique, towns and jobs are shared.
        is_one_way: the book is only ever told from the person's side ("ada wrote sunrise"), never from the book's.
    """

    name: str
    town: str
    job: str
    book: str
    is_one_way: bool


@dataclass(frozen=True)
class Lexicon:
    """What goes with what in one world.

    Attributes:
        places_of: name -> the places they go to.
        objects_at: place -> the objects found there.
        people: entities of the facts.
    """

    places_of: dict[str, tuple[str, ...]]
    objects_at: dict[str, tuple[str, ...]]
    people: tuple[Person, ...] = field(default=())

    @classmethod
    def draw(cls, seed: int, n_people: int, n_places: int = 4, n_objects: int = 6) -> "Lexicon":
        """Draw the world of a seed."""
        random = np.random.Generator(np.random.PCG64([seed, 1]))

        def choose(words: tuple[str, ...], n: int) -> tuple[str, ...]:
            return tuple(words[i] for i in sorted(random.choice(len(words), size=n, replace=False)))

        places_of = {name: choose(PLACES, n_places) for name in NAMES}
        objects_at = {place: choose(OBJECTS, n_objects) for place in PLACES}
        books = random.permutation(BOOKS[:n_people])
        one_way = set(random.choice(n_people, size=n_people // 2, replace=False).tolist())
        people = tuple(
            Person(PEOPLE[i], str(random.choice(TOWNS)), str(random.choice(JOBS)), str(books[i]), i in one_way)
            for i in range(n_people)
        )
        return cls(places_of, objects_at, people)
