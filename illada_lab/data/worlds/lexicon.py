"""Words of a world, and who goes with what: drawn once from the world's seed."""

from dataclasses import dataclass

import numpy as np

# Stories. Heroes and animals are different sets of words, so that a word tells its role; he and she alternate, so that
# any even number of heroes is balanced.
HEROES = (
    "tom", "mia", "leo", "ella", "max", "ruth", "sam", "anna", "ben", "zoe", "jack", "lily", "finn", "nora", "hugo",
    "iris",
)  # fmt: skip
IS_HE = frozenset(HEROES[::2])
ANIMALS = ("fox", "owl", "bear", "duck", "frog", "goat", "cat", "dog")
PLACES = (
    "forest", "river", "garden", "market", "castle", "harbour", "meadow", "school", "farm", "beach", "mill", "bridge",
)  # fmt: skip
OBJECTS = (
    "kite", "ball", "lamp", "drum", "boat", "coat", "ring", "cup", "map", "bell", "doll", "key", "hat", "box", "coin",
    "flute", "rope", "shell", "stone", "spoon",
)  # fmt: skip
COLOURS = ("red", "blue", "green", "white", "black", "yellow", "golden", "silver")
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
FOODS = ("bread", "soup", "cake", "rice", "cheese", "honey", "apples", "nuts")
MOODS = ("happy", "sad", "calm", "angry")

# Facts.
PEOPLE = (
    "ada", "bram", "cora", "dana", "egon", "fay", "gil", "hana", "ivan", "jana", "karl", "lena", "milo", "nina", "otto",
    "pia", "quinn", "rosa", "sven", "tara", "ugo", "vera", "wim", "xena", "yves", "zara", "alma", "boris", "clara",
    "dirk", "edda", "fritz", "greta", "hilde", "igor", "judit", "klara", "lars", "mona", "nils",
)  # fmt: skip
TOWNS = ("rome", "paris", "oslo", "cairo", "lima", "delhi", "tokyo", "bern")
JOBS = ("baker", "nurse", "pilot", "tailor", "judge", "miner", "poet", "farmer")
BOOKS = (
    "sunrise", "storm", "winter", "island", "shadow", "garland", "voyage", "thunder", "orchard", "lantern", "desert",
    "comet", "harvest", "mirage", "glacier", "tempest", "meridian", "canyon", "ember", "horizon", "labyrinth",
    "monsoon", "nebula", "oasis", "pilgrim", "quarry", "riddle", "saga", "twilight", "umbra", "valley", "whisper",
    "zenith", "aurora", "beacon", "citadel", "dynasty", "eclipse", "falcon", "granite",
)  # fmt: skip

NUMBERS = tuple(str(n) for n in range(19))
LETTERS = ("a", "b", "c", "d")


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
    """What there is in one world and what goes with what.

    Attributes:
        heroes, animals, colours, days, foods, moods: what a story chooses from, each with equal probability.
        places_of: hero -> the places they go to.
        objects_at: place -> the objects found there.
        people: entities of the facts.
    """

    heroes: tuple[str, ...]
    animals: tuple[str, ...]
    colours: tuple[str, ...]
    days: tuple[str, ...]
    foods: tuple[str, ...]
    moods: tuple[str, ...]
    places_of: dict[str, tuple[str, ...]]
    objects_at: dict[str, tuple[str, ...]]
    people: tuple[Person, ...]

    @property
    def places(self) -> tuple[str, ...]:
        """All places."""
        return tuple(self.objects_at)

    @property
    def objects(self) -> tuple[str, ...]:
        """All objects that are found somewhere."""
        found = {thing for things in self.objects_at.values() for thing in things}
        return tuple(thing for thing in OBJECTS if thing in found)

    def alternatives(self, answer: str) -> tuple[str, ...]:
        """All words that a question about the facts could have for an answer, where this is right: towns, jobs, books or people.

        Raises:
            StopIteration: a word of none of them.
        """
        books, people = zip(*((person.book, person.name) for person in self.people), strict=True)
        return next(words for words in (TOWNS, JOBS, books, people) if answer in words)

    @classmethod
    def draw(
        cls,
        *,
        seed: int,
        n_heroes: int = len(HEROES),
        n_animals: int = len(ANIMALS),
        n_places: int = len(PLACES),
        n_objects: int = len(OBJECTS),
        n_colours: int = len(COLOURS),
        n_days: int = len(DAYS),
        n_foods: int = len(FOODS),
        n_moods: int = len(MOODS),
        places_per_hero: int = 4,
        objects_per_place: int = 5,
        n_people: int = 24,
    ) -> "Lexicon":
        """Draw the world of a seed.

        Raises:
            ValueError: a number that the lists of words do not give.
        """
        limits = {
            "n_heroes": (n_heroes, len(HEROES)),
            "n_animals": (n_animals, len(ANIMALS)),
            "n_places": (n_places, len(PLACES)),
            "n_objects": (n_objects, len(OBJECTS)),
            "n_colours": (n_colours, len(COLOURS)),
            "n_days": (n_days, len(DAYS)),
            "n_foods": (n_foods, len(FOODS)),
            "n_moods": (n_moods, len(MOODS)),
            "places_per_hero": (places_per_hero, n_places),
            "objects_per_place": (objects_per_place, n_objects),
            "n_people": (n_people, len(PEOPLE)),
        }
        for name, (value, most) in limits.items():
            # Four people give a multiple choice four candidates.
            least = 4 if name == "n_people" else 1
            if not least <= value <= most:
                raise ValueError(f"{name} = {value}; the world has words for at most {most}; {least} to {most}")
        random = np.random.Generator(np.random.PCG64([seed, 1]))

        def choose(words: tuple[str, ...], n: int) -> tuple[str, ...]:
            return tuple(words[i] for i in sorted(random.choice(len(words), size=n, replace=False)))

        heroes, places, objects = HEROES[:n_heroes], PLACES[:n_places], OBJECTS[:n_objects]
        places_of = {hero: choose(places, places_per_hero) for hero in heroes}
        objects_at = {place: choose(objects, objects_per_place) for place in places}
        books = random.permutation(BOOKS[:n_people])
        one_way = set(random.choice(n_people, size=n_people // 2, replace=False).tolist())
        people = tuple(
            Person(PEOPLE[i], str(random.choice(TOWNS)), str(random.choice(JOBS)), str(books[i]), i in one_way)
            for i in range(n_people)
        )
        return cls(
            heroes, ANIMALS[:n_animals], COLOURS[:n_colours], DAYS[:n_days], FOODS[:n_foods], MOODS[:n_moods],
            places_of, objects_at, people,
        )  # fmt: skip
