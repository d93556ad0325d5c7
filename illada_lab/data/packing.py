"""Packing: documents into rows of one length, without losing or doubling a token."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Protocol, runtime_checkable

import numpy as np


@dataclass
class Documents:
    """Token ids of many documents, one after the other.

    Attributes:
        tokens: int32 [N].
        is_prompt: bool [N].
        offsets: int64 [n_documents + 1], where each starts and N at the end.
        first: number of the first of them in the data they are a block of, for messages.
    """

    tokens: np.ndarray
    is_prompt: np.ndarray
    offsets: np.ndarray
    first: int = 0

    @classmethod
    def from_lists(cls, ids: list[list[int]], is_prompt: list[list[bool]] | None = None) -> "Documents":
        """Documents from lists; without `is_prompt` nothing is prompt."""
        lengths = np.fromiter((len(document) for document in ids), dtype=np.int64, count=len(ids))
        n = int(lengths.sum())
        flat = np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=n)
        prompt = np.zeros(n, dtype=bool)
        if is_prompt is not None:
            prompt = np.fromiter(chain.from_iterable(is_prompt), dtype=bool, count=n)
        return cls(flat, prompt, np.concatenate(([0], lengths.cumsum())))

    @classmethod
    def join(cls, parts: "Iterable[Documents]") -> "Documents":
        """All documents of some blocks, in order."""
        parts = list(parts)
        lengths = np.concatenate([np.diff(part.offsets) for part in parts])
        return cls(
            np.concatenate([part.tokens for part in parts]),
            np.concatenate([part.is_prompt for part in parts]),
            np.concatenate(([0], lengths.cumsum())),
        )

    def split_at(self, n: int) -> "tuple[Documents, Documents]":
        """The first `n` tokens and the rest; a document across the cut becomes one on each side."""
        first, rest = self.offsets[self.offsets < n], self.offsets[self.offsets > n] - n
        return (
            Documents(self.tokens[:n], self.is_prompt[:n], np.append(first, n)),
            Documents(self.tokens[n:], self.is_prompt[n:], np.insert(rest, 0, 0)),
        )

    def pieces(self, n_documents: int) -> "Iterator[Documents]":
        """At most so many documents at a time, in order."""
        for start in range(0, len(self.offsets) - 1, n_documents):
            offsets = self.offsets[start : start + n_documents + 1]
            tokens = slice(offsets[0], offsets[-1])
            yield Documents(self.tokens[tokens], self.is_prompt[tokens], offsets - offsets[0], self.first + start)


@dataclass
class Rows:
    """Rows of one length.

    Attributes:
        tokens: int32 [n_rows, length], padding filled with the filler id.
        segment_ids: int32 [n_rows, length]; 0 is padding, documents count from 1 in each row.
        is_prompt: bool [n_rows, length].
    """

    tokens: np.ndarray
    segment_ids: np.ndarray
    is_prompt: np.ndarray

    @property
    def n_tokens(self) -> int:
        """Tokens that are not padding."""
        return int((self.segment_ids > 0).sum())


@runtime_checkable
class Packing(Protocol):
    """Puts documents into rows of `length` tokens.

    Attributes:
        is_stream: rows go on where the rows before ended, so that only the very last one may have padding.
    """

    is_stream: bool

    def __call__(self, documents: Documents, length: int, filler: int) -> Rows:
        """Rows of `length` tokens; padding holds `filler`."""
        ...


class ConcatAndCut:
    """The paper's packing: one stream of all documents, cut every `length` tokens. Only the last row has padding.

    Source: iLLaDA, pre-training recipe (sequences of 8192, packed without padding) and fine-tuning.
    """

    is_stream = True

    def __call__(self, documents: Documents, length: int, filler: int) -> Rows:
        """Rows in the order of the documents; one that crosses a cut goes on in the next row as a segment of its own."""
        lengths = np.diff(documents.offsets)
        number = np.repeat(np.arange(len(lengths)), lengths)
        return _place(documents, np.arange(len(documents.tokens)), number, length, filler)


class WholeDocuments:
    """Rows of whole documents: each goes where it fits best, the rest of a row is padding.

    A document longer than a row is cut into pieces of a row each, so that nothing is lost.

    Source: our choice for documents much shorter than a row, whose fragments would be a language of their own: the known
        entropy is that of whole documents.
    """

    is_stream = False

    def __call__(self, documents: Documents, length: int, filler: int) -> Rows:
        """Rows filled by best fit, documents in their order where the choice is free."""
        lengths = np.diff(documents.offsets)
        n_pieces = -(-lengths // length)
        owner = np.repeat(np.arange(len(lengths)), n_pieces)
        piece = np.arange(len(owner)) - np.repeat(n_pieces.cumsum() - n_pieces, n_pieces)
        starts = documents.offsets[owner] + piece * length
        sizes = np.minimum(lengths[owner] - piece * length, length)
        row, place, n_rows = _best_fit(sizes, length)
        # Position of every token: its row's start, its piece's place in the row, its place in the piece.
        target = np.repeat(row * length + place, sizes) + counts_within(sizes)
        source = np.repeat(starts, sizes) + counts_within(sizes)
        number = np.repeat(np.arange(len(owner)), sizes)
        order = np.argsort(target, kind="stable")
        return _place(documents, target[order], number[order], length, filler, source[order], n_rows)


class OnePerRow:
    """One example per row; rows end where the example ends. The loader pads a batch with EOS to its longest (see `DataModule`).

    Source: LLaDA, fine-tuning: EOS padding is part of the response and of the loss.
    """

    is_stream = False

    def __call__(self, documents: Documents, length: int, filler: int) -> Rows:
        """One row per document.

        Raises:
            ValueError: an example is longer than a row; cutting it would cut its answer.
        """
        lengths = np.diff(documents.offsets)
        self.check(lengths, length, documents.first)
        target = np.repeat(np.arange(len(lengths)) * length, lengths) + counts_within(lengths)
        number = np.repeat(np.arange(len(lengths)), lengths)
        return _place(documents, target, number, length, filler, n_rows=len(lengths))

    @staticmethod
    def check(lengths: np.ndarray, length: int, first: int) -> None:
        """Refuse examples that do not fit.

        Args:
            lengths: tokens of each.
            length: tokens per row.
            first: number of the first of them, for the message.

        Raises:
            ValueError: names the longest, and how many are too long so far.
        """
        if n_long := int((lengths > length).sum()):
            longest = int(lengths.argmax())
            raise ValueError(
                f"example = {first + longest}; {int(lengths[longest])} tokens, longer than a row and cannot be cut (the longest of "
                f"{n_long:,} too long among {first + len(lengths):,}); scale.length={int(lengths[longest])} or more, or "
                "data.drops_long=true leaves out what is longer"
            )


@dataclass
class Dropped:
    """Examples that are left out because they are longer than a row.

    Args:
        length: tokens per row.

    Attributes:
        n: of them.
        n_seen: of all examples.
        longest: tokens of the longest of all.
    """

    length: int
    n: int = 0
    n_seen: int = 0
    longest: int = 0

    def fitting(self, lengths: np.ndarray) -> np.ndarray:
        """Which of some examples fit into a row, bool; they are counted.

        Args:
            lengths: tokens of each.
        """
        fits = lengths <= self.length
        self.n, self.n_seen = self.n + int((~fits).sum()), self.n_seen + len(lengths)
        self.longest = max(self.longest, int(lengths.max(initial=0)))
        return fits

    def left(self, blocks: Iterable[Documents]) -> Iterator[Documents]:
        """The examples that fit, block by block."""
        for block in blocks:
            lengths = np.diff(block.offsets)
            fits = self.fitting(lengths)
            is_left = np.repeat(fits, lengths)
            offsets = np.concatenate(([0], lengths[fits].cumsum()))
            yield Documents(block.tokens[is_left], block.is_prompt[is_left], offsets)

    def say(self, what: str) -> None:
        """Print their number, on the error stream of the first process.

        Args:
            what: of which examples.

        Raises:
            ValueError: nothing is left.
        """
        from lightning.pytorch.utilities import rank_zero_only

        if self.n and self.n == self.n_seen:
            raise ValueError(
                f"data.drops_long = true; all {self.n:,} {what} are longer than a row of {self.length:,} tokens; "
                f"scale.length={self.longest} takes all"
            )
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            print(
                f"data: {self.n:,} of {self.n_seen:,} {what} left out, longer than a row of {self.length:,} tokens (data.drops_long)",
                file=sys.stderr,
            )


def pack_blocks(blocks: Iterable[Documents], packing: Packing, length: int, filler: int) -> Iterator[Rows]:
    """Pack a corpus block by block, so that it need not fit into memory.

    A stream is cut exactly as if it were packed at once: what does not fill a row waits for the next block.

    Args:
        blocks: the documents, some at a time.
        packing: how documents become rows.
        length: tokens per row.
        filler: id of padding.
    """
    rest: list[Documents] = []
    n_documents = 0
    for block in blocks:
        block = replace(block, first=n_documents)
        n_documents += len(block.offsets) - 1
        if packing.is_stream:
            joined = Documents.join([*rest, block])
            block, left = joined.split_at(len(joined.tokens) // length * length)
            rest = [left]
        if len(block.tokens):
            yield packing(block, length, filler)
    if rest and len(rest[0].tokens):
        yield packing(rest[0], length, filler)


def counts_within(sizes: np.ndarray) -> np.ndarray:
    """0 ... n-1 for each size n, one after the other."""
    return np.arange(int(sizes.sum())) - np.repeat(sizes.cumsum() - sizes, sizes)


def _place(
    documents: Documents,
    target: np.ndarray,
    number: np.ndarray,
    length: int,
    filler: int,
    source: np.ndarray | None = None,
    n_rows: int | None = None,
) -> Rows:
    """Rows from the target position of every token; `number` is the document of each, in order of the targets."""
    n_rows = -(-len(target) // length) if n_rows is None else n_rows
    tokens = np.full(n_rows * length, filler, dtype=np.int32)
    segment_ids = np.zeros(n_rows * length, dtype=np.int32)
    is_prompt = np.zeros(n_rows * length, dtype=bool)
    tokens[target] = documents.tokens if source is None else documents.tokens[source]
    is_prompt[target] = documents.is_prompt if source is None else documents.is_prompt[source]
    # Segments count from 1 in each row and rise where the document changes.
    row = target // length
    is_new_row = np.diff(row, prepend=-1) > 0
    rises = np.diff(number, prepend=-1) != 0
    count = np.cumsum(rises | is_new_row)
    first = np.maximum.accumulate(np.where(is_new_row, count, 0))
    segment_ids[target] = count - first + 1
    shape = (n_rows, length)
    return Rows(tokens.reshape(shape), segment_ids.reshape(shape), is_prompt.reshape(shape))


def _best_fit(sizes: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Row and place of every piece: into the fullest row it still fits in, among the rows open."""
    rows_with_room: list[list[int]] = [[] for _ in range(length + 1)]
    open_rooms = (
        0  # bit r: there is a row with room r, so that the smallest room that is large enough is one bit operation
    )
    row, place = np.zeros(len(sizes), dtype=np.int64), np.zeros(len(sizes), dtype=np.int64)
    n_rows = 0
    for i, size in enumerate(sizes.tolist()):
        fitting = open_rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            chosen = rows_with_room[room].pop()
            if not rows_with_room[room]:
                open_rooms ^= 1 << room
        else:
            room, chosen, n_rows = length, n_rows, n_rows + 1
        row[i], place[i] = chosen, length - room
        if room > size:
            rows_with_room[room - size].append(chosen)
            open_rooms |= 1 << (room - size)
    return row, place, n_rows
