"""Facts about people: a small table that pre-training states and questions ask for."""

from dataclasses import dataclass

from illada_lab.data.worlds.lexicon import Lexicon, Person

# Sentences that state a fact, by attribute; all name the person first.
STATEMENTS = {
    "town": ("{name} lives in {town} .", "the home of {name} is {town} .", "{name} has a house in {town} ."),
    "job": ("{name} works as a {job} .", "the job of {name} is {job} .", "{name} is a good {job} ."),
    "book": ("{name} wrote {book} .", "the book of {name} is {book} .", "{name} is the author of {book} ."),
}
# Sentences that name the book first. They are left out for one-way people.
REVERSE_STATEMENTS = ("{book} was written by {name} .", "{book} is a book by {name} .")
QUESTIONS = {
    "town": ("where does {name} live ?", "what is the home of {name} ?"),
    "job": ("what does {name} work as ?", "what is the job of {name} ?"),
    "book": ("what did {name} write ?", "what is the book of {name} ?"),
}
# Asked from the book's side. For one-way people no text ever states the answer in this direction.
REVERSE_QUESTIONS = ("who wrote {book} ?", "who is the author of {book} ?")


@dataclass(frozen=True)
class Fact:
    """One entry of the table.

    Attributes:
        person: whom it is about.
        attribute: "town", "job" or "book".
    """

    person: Person
    attribute: str

    @property
    def key(self) -> str:
        """A name of its own."""
        return f"{self.person.name} {self.attribute}"

    @property
    def answer(self) -> str:
        """Value of the attribute."""
        return str(getattr(self.person, self.attribute))

    def statements(self) -> list[str]:
        """All sentences that may state it."""
        has_reverse = self.attribute == "book" and not self.person.is_one_way
        forms = STATEMENTS[self.attribute] + (REVERSE_STATEMENTS if has_reverse else ())
        return [form.format(**vars(self.person)) for form in forms]

    def questions(self) -> list[str]:
        """All questions that ask for it, from the person's side."""
        return [form.format(**vars(self.person)) for form in QUESTIONS[self.attribute]]


@dataclass(frozen=True)
class Author:
    """The fact behind a book, asked for from the book's side."""

    person: Person

    @property
    def key(self) -> str:
        """That of the same fact asked from the other side, so that both are held out or neither."""
        return f"{self.person.name} book"

    @property
    def answer(self) -> str:
        """The author."""
        return self.person.name

    def questions(self) -> list[str]:
        """All questions that ask for it."""
        return [form.format(book=self.person.book) for form in REVERSE_QUESTIONS]


def all_facts(lexicon: Lexicon) -> list[Fact]:
    """The table, in a fixed order."""
    return [Fact(person, attribute) for person in lexicon.people for attribute in STATEMENTS]
