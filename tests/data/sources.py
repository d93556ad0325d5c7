"""Small sources that several tests of the data layer need."""

from typing import Any

import datasets

WORDS = ["red", "green", "blue", "cat", "dog", "sees", "a", "the"]


class ListSource:
    """A source of given columns; the same for every split."""

    words = WORDS

    def __init__(self, **columns: list[Any]) -> None:
        self.columns = columns

    def load(self, split: str) -> datasets.Dataset:
        return datasets.Dataset.from_dict(self.columns)


def numbered(n: int) -> ListSource:
    """Documents of different lengths, no two alike."""
    base = len(WORDS)
    return ListSource(text=[" ".join(WORDS[int(d, base)] for d in _digits(i + base, base)) for i in range(n)])


def _digits(i: int, base: int) -> str:
    text = ""
    while i:
        text = str(i % base) + text
        i //= base
    return text
