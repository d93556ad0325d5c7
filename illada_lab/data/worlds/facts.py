"""Facts about people: a small table that pre-training states and questions ask for."""

from dataclasses import dataclass

from illada_lab.data.worlds.lexicon import Lexicon, Person

# Forms of a statement by attribute. {name} comes first in all but the last form of `book`, which states the same fact from the
# other side and is left out for one-way people.
STATEMENTS = {
    "town": ("{name} lives in {town} .", "the home of {name} is {town} ."),
    "job": ("{name} works as a {job} .", "the job of {name} is {job} ."),
    "book": ("{name} wrote {book} .", "the book of {name} is {book} .", "{book} was written by {name} ."),
}
QUESTIONS = {
    "town": ("where does {name} live ?", "what is the home of {name} ?"),
    "job": ("what does {name} do ?", "what is the job of {name} ?"),
    "book": ("what did {name} write ?", "what is the book of {name} ?"),
}
# Asked from the book's side. For one-way people no text ever states the answer in this direction.
REVERSE_QUESTIONS = ("who wrote {book} ?", "who is {book} by ?")


@dataclass(frozen=True)
class Fact:
    """One entry of the table: a person and one of their attributes."""

    person: Person
    attribute: str

    @property
    def answer(self) -> str:
        """Value of the attribute."""
        return str(getattr(self.person, self.attribute))

    def statements(self) -> list[str]:
        """All sentences that may state it."""
        forms = STATEMENTS[self.attribute]
        if self.attribute == "book" and self.person.is_one_way:
            forms = forms[:-1]
        return [form.format(**vars(self.person)) for form in forms]

    def questions(self) -> list[str]:
        """All questions that ask for it, from the person's side."""
        return [form.format(**vars(self.person)) for form in QUESTIONS[self.attribute]]


def all_facts(lexicon: Lexicon) -> list[Fact]:
    """The table, in a fixed order."""
    return [Fact(person, attribute) for person in lexicon.people for attribute in STATEMENTS]


def all_statements(lexicon: Lexicon) -> list[str]:
    """Every fact in every form; all different."""
    return [text for fact in all_facts(lexicon) for text in fact.statements()]
