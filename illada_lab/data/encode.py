"""Tables of texts or conversations to token ids, a block of documents at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from illada_lab.data.chat import ChatTemplate
from illada_lab.data.packing import Documents
from illada_lab.data.tokenizer import Tokenizer

# Documents read at once, and characters after which the tokenizer gets what has come together: enough to keep all cores busy; it takes a
# hundred times as much memory meanwhile.
TEXTS_PER_READ, CHARACTERS_PER_CALL = 1024, 2**20


@runtime_checkable
class Encoded(Protocol):
    """Documents that are tokens already."""

    def blocks(self, n_tokens: int) -> Iterator[Documents]:
        """All documents in order, in blocks of about `n_tokens` tokens."""
        ...


@dataclass(kw_only=True)
class Encoder:
    """Encodes documents of one tokenizer.

    Args:
        tokenizer: the tokenizer.
        adds_bos: put BOS in front of every text (conversations bring their own).
        adds_eos: put EOS behind every text.
        max_extra_eos: behind each conversation up to so many further EOS, their number uniform from 0.
        seed: of those numbers.

    Raises:
        ValueError: the tokenizer has no BOS to add.
    """

    tokenizer: Tokenizer
    adds_bos: bool = False
    adds_eos: bool = True
    max_extra_eos: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.adds_bos and self.tokenizer.tokens.bos is None:
            raise ValueError("data.adds_bos = True; this tokenizer has no BOS; data.adds_bos=false")

    def blocks(self, table: Any, n_tokens: int) -> Iterator[Documents]:
        """All documents of a `datasets.Dataset` or `IterableDataset`, in blocks of `n_tokens` tokens or a little more.

        Args:
            table: with the column `text` (strings) or `messages` (conversations), or documents that are tokens already.
            n_tokens: a block ends where it has so many.

        Raises:
            ValueError: names the document that is no text or no conversation.
        """
        if isinstance(table, Encoded):
            yield from table.blocks(n_tokens)
            return
        random = np.random.Generator(np.random.PCG64([self.seed, 5]))
        parts: list[Documents] = []
        size, first = 0, 0
        for columns in table.iter(batch_size=TEXTS_PER_READ):
            part = self.encode(columns, first, random)
            first += len(part.offsets) - 1
            size += len(part.tokens)
            parts.append(part)
            if size >= n_tokens:
                yield Documents.join(parts)
                parts, size = [], 0
        if parts:
            yield Documents.join(parts)

    def encode(
        self, columns: Mapping[str, Sequence[Any]], first: int, random: np.random.Generator | None = None
    ) -> Documents:
        """Some documents of a table.

        Args:
            columns: `text` or `messages`.
            first: number of the first of them in the table.
            random: draws the extra EOS; None: one that depends on the seed and on `first`.

        Raises:
            ValueError: names the document that is no text or no conversation.
        """
        if "messages" in columns:
            random = random or np.random.Generator(np.random.PCG64([self.seed, 5, first]))
            return self._conversations(columns["messages"], first, random)
        return self._texts(columns["text"], first)

    def _texts(self, texts: Sequence[Any], first: int) -> Documents:
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(f"document = {first + i}; holds {type(text).__name__}, not text; a string, or drop it")
        tokens = self.tokenizer.tokens
        head = [tokens.bos] if self.adds_bos and tokens.bos is not None else []
        tail = [tokens.eos] if self.adds_eos else []
        return Documents.join(
            Documents.from_lists([[*head, *ids, *tail] for ids in self.tokenizer.encode_batch(some)])
            for some in _calls(texts)
        )

    def _conversations(self, conversations: Sequence[Any], first: int, random: np.random.Generator) -> Documents:
        chat = ChatTemplate(self.tokenizer)
        all_ids, all_flags = [], []
        extra = random.integers(self.max_extra_eos + 1, size=len(conversations)).tolist()
        for i, (messages, n) in enumerate(zip(conversations, extra, strict=True)):
            try:
                ids, is_prompt = chat.render(messages)
            except ValueError as error:
                raise ValueError(f"document = {first + i}, {error}") from error
            all_ids.append(ids + [self.tokenizer.tokens.eos] * n)
            all_flags.append(is_prompt + [False] * n)
        return Documents.from_lists(all_ids, all_flags)


def _calls(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Texts in runs of `CHARACTERS_PER_CALL` or a little more; of no text one run without any."""
    start, n_characters = 0, 0
    for end, text in enumerate(texts, 1):
        n_characters += len(text)
        if n_characters >= CHARACTERS_PER_CALL or end == len(texts):
            yield texts[start:end]
            start, n_characters = end, 0
    if not texts:
        yield texts
