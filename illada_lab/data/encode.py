"""Tables of texts or conversations to token ids, a block of documents at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from illada_lab.data.chat import ChatTemplate
from illada_lab.data.packing import Documents
from illada_lab.data.tokenizer import Tokenizer

# Documents handed to the tokenizer at once: enough to keep all cores busy, little enough to stay in the cache.
TEXTS_PER_CALL = 1024


@dataclass(kw_only=True)
class Encoder:
    """Encodes documents of one tokenizer.

    Args:
        tokenizer: the tokenizer.
        adds_bos: put BOS in front of every text (conversations bring their own).
        adds_eos: put EOS behind every text.

    Raises:
        ValueError: the tokenizer has no BOS to add.
    """

    tokenizer: Tokenizer
    adds_bos: bool = False
    adds_eos: bool = True

    def __post_init__(self) -> None:
        if self.adds_bos and self.tokenizer.tokens.bos is None:
            raise ValueError("data.adds_bos = True; this tokenizer has no BOS; data.adds_bos=false")

    def encode(self, columns: Mapping[str, Sequence[Any]], first: int = 0) -> Documents:
        """Token ids of some documents.

        Args:
            columns: `text` (strings) or `messages` (conversations).
            first: number of the first of them in its table, for error messages.

        Raises:
            ValueError: names the document that is no text or no conversation.
        """
        if "messages" in columns:
            return self._conversations(columns["messages"], first)
        texts = columns["text"]
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(f"document = {first + i}; holds {type(text).__name__}, not text; a string, or drop it")
        tokens = self.tokenizer.tokens
        head = [tokens.bos] if self.adds_bos else []
        tail = [tokens.eos] if self.adds_eos else []
        return Documents.from_lists([[*head, *ids, *tail] for ids in self.tokenizer.encode_batch(texts)])

    def _conversations(self, conversations: Sequence[Any], first: int) -> Documents:
        chat = ChatTemplate(self.tokenizer)
        rendered = []
        for i, messages in enumerate(conversations):
            try:
                rendered.append(chat.render(messages))
            except ValueError as error:
                raise ValueError(f"document = {first + i}, {error}") from error
        return Documents.from_lists([ids for ids, _ in rendered], [flags for _, flags in rendered])

    def blocks(self, table: Any, n_tokens: int) -> Iterator[Documents]:
        """All documents of a `datasets.Dataset` or `IterableDataset`, in blocks of at least `n_tokens` tokens (the last: what is left)."""
        parts: list[Documents] = []
        size, first = 0, 0
        for columns in table.iter(batch_size=TEXTS_PER_CALL):
            part = self.encode(columns, first)
            first += len(part.offsets) - 1
            size += len(part.tokens)
            parts.append(part)
            if size >= n_tokens:
                yield Documents.join(parts)
                parts, size = [], 0
        if parts:
            yield Documents.join(parts)
