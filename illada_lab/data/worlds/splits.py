"""Which document or question belongs to which split: by hash, the same on every machine and in every process."""

import hashlib
from collections.abc import Sequence
from typing import Literal, Protocol, TypeVar, runtime_checkable

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@runtime_checkable
class HasKey(Protocol):
    """An item of a table, with a name of its own (items of equal keys stay together)."""

    @property
    def key(self) -> str:
        """Its name."""
        ...


Item = TypeVar("Item", bound=HasKey)


def check_split(split: str) -> Split:
    """The split of this name.

    Raises:
        ValueError: there is none.
    """
    for known in SPLITS:
        if split == known:
            return known
    raise ValueError(f"split = {split!r}; there are three; {', '.join(SPLITS)}")


def fraction(text: str) -> float:
    """A number in [0, 1) that depends on the text alone (Python's `hash` differs between processes)."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) / 2**64


def split_of(text: str, shares: dict[Split, float]) -> Split:
    """Split of one element of a large set. Independent of everything that makes the text likely."""
    position = fraction(text)
    for split, share in shares.items():
        position -= share
        if position < 0:
            return split
    return next(reversed(shares))


def divide(items: Sequence[Item], seed: int, shares: dict[Split, float]) -> dict[Split, list[Item]]:
    """Splits of a small table: exact shares, whichever the seed, drawn among the keys.

    Args:
        items: the table.
        seed: of the world.
        shares: of each split; the last takes what rounding leaves.
    """
    keys = sorted({item.key for item in items}, key=lambda key: fraction(f"{seed} {key}"))
    found: dict[Split, list[Item]] = {}
    start = 0.0
    for split, share in shares.items():
        chosen = set(keys[round(start * len(keys)) : round((start + share) * len(keys))])
        found[split] = [item for item in items if item.key in chosen]
        start += share
    return found


def hold_out_forms(statements: Sequence[Sequence[str]], seed: int, share: float) -> dict[Split, list[str]]:
    """Splits of the statements of a table such that training states every item, but not in every form.

    A share of the items has one form that only the validation split holds, another share one that only the test split
    holds.

    Args:
        statements: of each item all its forms.
        seed: of the world.
        share: of the items, for each of the two splits.
    """
    order = sorted(statements, key=lambda forms: fraction(f"{seed} statement {forms[0]}"))
    n = round(share * len(order)) if len(order) > 2 else 0
    found: dict[Split, list[str]] = {"train": [], "validation": [], "test": []}
    for i, forms in enumerate(order):
        held_out = min(forms, key=lambda form: fraction(f"{seed} form {form}"))
        owner: Split = "validation" if i < n else "test" if i < 2 * n else "train"
        found[owner].append(held_out)
        found["train"] += [form for form in forms if form != held_out]
    return {split: sorted(texts) for split, texts in found.items()}
