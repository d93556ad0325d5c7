"""Text to token ids and back: one small class around every tokenizer, our own and pretrained ones."""

import difflib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from illada_lab.tokens import SpecialTokens


class Tokenizer:
    """Text to token ids and back, with the special tokens a model needs beside it.

    Text never turns into a special token: "<mask>" typed by a user is encoded as the characters it consists of.

    Args:
        backend: tokenizer of the `tokenizers` library.
        tokens: special tokens; for our own tokenizers iLLaDA's ids.
        chat_template: Jinja text of a pretrained tokenizer, or None for our own chat format.
        is_word_level: words are separated by spaces, so decoding puts spaces between them.
        special_text: what ids that are no text look like to a reader.

    Attributes:
        vocab_size: number of ids, special ones included.

    Raises:
        ValueError: the mask id is an ordinary token of the tokenizer, or lies outside of its vocabulary.
    """

    def __init__(
        self,
        backend: Backend,
        tokens: SpecialTokens,
        *,
        chat_template: str | None = None,
        is_word_level: bool = False,
        special_text: dict[int, str] | None = None,
    ) -> None:
        self.backend, self.tokens = backend, tokens
        self.chat_template, self.is_word_level = chat_template, is_word_level
        self.special_text = special_text or {}
        # A file may say to cut and pad what it encodes: texts would lose their ends and gain padding, without a word.
        self.backend.no_truncation()
        self.backend.no_padding()
        # Text that spells a special token is text; one that has a role is special, however it was added.
        added = self.backend.get_added_tokens_decoder()
        roles = [added[i] for i in tokens.to_dict().values() if i in added and not added[i].special]
        self.backend.add_special_tokens([_as_special(token) for token in roles])
        self.backend.encode_special_tokens = True
        # Ids may have gaps (LLaDA's have), so the largest one counts, not how many there are.
        self.vocab_size: int = max(self.backend.get_vocab(with_added_tokens=True).values()) + 1
        tokens.check(self.vocab_size)
        self._special = set(self.special_text) | {i for i in tokens.to_dict().values() if i is not None}
        text = self.backend.id_to_token(tokens.mask)
        if tokens.mask not in self.special_text and tokens.mask not in added and text is not None:
            raise ValueError(
                f"tokens.mask = {tokens.mask}; an ordinary token of this tokenizer ({text!r}), so text could hold masks; "
                "pass the id that the model masks with"
            )

    def encode(self, text: str, name: str = "text") -> list[int]:
        """Ids of a text; no special token is added, and none can come out.

        Args:
            text: what is encoded.
            name: of the setting it comes from, for the message.

        Raises:
            ValueError: the text holds halves of characters, as bytes that are no UTF-8 become on a command line.
        """
        try:
            return self.backend.encode(text, add_special_tokens=False).ids
        except TypeError as error:
            raise ValueError(f"{name} = {text[:40]!a}; not UTF-8; save or type it as UTF-8") from error

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts, on all cores."""
        return [encoding.ids for encoding in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_known(self, text: str, name: str = "text") -> list[int]:
        """`encode` that refuses a text with unknown words.

        Args:
            text: what is encoded.
            name: of the setting it comes from, for the message.

        Raises:
            ValueError: names the unknown words, and what is near the first.
        """
        ids = self.encode(text, name)
        if self.is_word_level and self.tokens.unk in ids:
            pairs = zip(text.split(), ids, strict=False)  # unequal where a mark sticks to a word
            word, *others = dict.fromkeys(word for word, i in pairs if i == self.tokens.unk)
            special = {self.backend.id_to_token(i) for i in self.special_text}
            known = [known for known in self.backend.get_vocab() if known not in special]
            near = ", ".join(difflib.get_close_matches(word, known, n=3)) or _some(known)
            neither = f" (neither is {', '.join(map(repr, others))})" if others else ""
            raise ValueError(f"{name} = {word!r}; not a word of this model's vocabulary{neither}; {near}")
        return ids

    def encode_marker(self, text: str) -> list[int]:
        """Ids of what a model itself writes as a mark ("</think>"): the one id of an added token of that name, otherwise `encode_known`."""
        added = {token.content: i for i, token in self.backend.get_added_tokens_decoder().items()}
        return [added[text]] if text in added else self.encode_known(text)

    def encode_prompt(self, text: str, name: str = "prompt") -> list[int]:
        """`encode_known` of what a user says to a model.

        Args:
            text: what is encoded.
            name: of the setting it comes from, for the message.

        Raises:
            ValueError: the text spells the mask token (nobody who types it wants its characters, and a mask would be filled
                in by the sampler), or has an unknown word.
        """
        mask = self.literal_mask
        if mask and mask in text:
            raise ValueError(
                f"{name} = {_shorten(text, mask)!r}; spells the mask token {mask}; leave it out, the sampler adds the masks"
            )
        return self.encode_known(text, name)

    @property
    def literal_mask(self) -> str:
        """What the mask token looks like when it is written out."""
        return self.special_text.get(self.tokens.mask) or self.backend.id_to_token(self.tokens.mask) or ""

    def special_in(self, text: str) -> str | None:
        """The first special token of a pretrained tokenizer that a text spells, or None."""
        return next((token for token in self._added if token in text), None)

    @cached_property
    def _added(self) -> list[str]:
        return [token.content for token in self.backend.get_added_tokens_decoder().values() if token.special]

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Text of ids; special tokens are left out, or shown as `<name>`."""
        ids = [int(i) for i in ids]
        if skip_special:
            return self.backend.decode([i for i in ids if i not in self._special], skip_special_tokens=False)
        parts: list[str] = []
        run: list[int] = []
        for i in [*ids, None]:
            if i is not None and i not in self._special:
                run.append(i)
                continue
            if run:
                parts.append(self.backend.decode(run, skip_special_tokens=False))
                run = []
            if i is not None:
                parts.append(self.token_text(i))
        return (" " if self.is_word_level else "").join(parts)

    def token_text(self, token: int) -> str:
        """What one id looks like."""
        if token in self.special_text:
            return self.special_text[token]
        text = self.backend.decode([token], skip_special_tokens=False)
        return text if text else (self.backend.id_to_token(token) or f"<{token}>")

    def n_bytes(self, ids: Iterable[int]) -> int:
        """UTF-8 bytes of the text behind ids, for bits per byte; special tokens have none.

        Byte-level tokenizers are counted token by token, so that pieces of a text add up to the text even where a cut went
        through a character.
        """
        if self._bytes_of is None:
            return len(self.decode(ids).encode())
        return sum(self._bytes_of[int(i)] for i in ids)

    @cached_property
    def _bytes_of(self) -> list[int] | None:
        """Bytes of every id, where ids are made of bytes: each character of such a token stands for one."""
        decoder = json.loads(self.backend.to_str()).get("decoder") or {}
        if decoder.get("type") != "ByteLevel":
            return None
        added = {i: token.content for i, token in self.backend.get_added_tokens_decoder().items()}
        sizes = [0] * self.vocab_size
        for text, i in self.backend.get_vocab(with_added_tokens=True).items():
            sizes[i] = 0 if i in self._special else len(added[i].encode()) if i in added else len(text)
        return sizes

    def to_dict(self) -> dict[str, Any]:
        """Plain data for checkpoints; `from_dict` is the inverse."""
        return {
            "backend": self.backend.to_str(),
            "tokens": self.tokens.to_dict(),
            "chat_template": self.chat_template,
            "is_word_level": self.is_word_level,
            "special_text": [[i, text] for i, text in self.special_text.items()],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Tokenizer":
        """A tokenizer from its plain data."""
        return cls(
            Backend.from_str(values["backend"]),
            SpecialTokens.from_dict(values["tokens"]),
            chat_template=values["chat_template"],
            is_word_level=values["is_word_level"],
            special_text={int(i): text for i, text in values["special_text"]},
        )

    def with_chat_template(self, template: str | None) -> "Tokenizer":
        """The same tokenizer with another chat template (Jinja text), or none."""
        return type(self).from_dict({**self.to_dict(), "chat_template": template})

    def __reduce__(self) -> tuple[Any, ...]:
        """Through the plain data: a pickled backend forgets that text which spells a special token is text."""
        return type(self).from_dict, (self.to_dict(),)


def _as_special(token: AddedToken) -> AddedToken:
    shape = {name: getattr(token, name) for name in ("lstrip", "rstrip", "single_word", "normalized")}
    return AddedToken(token.content, special=True, **shape)


def _shorten(text: str, around: str, n: int = 20) -> str:
    """A text with no more than `n` characters either side of a part of it."""
    start = text.index(around)
    end = start + len(around)
    head, tail = "..." if start > n else "", "..." if len(text) > end + n else ""
    return head + text[max(0, start - n) : end + n] + tail


def _some(words: Sequence[str]) -> str:
    """A few words of a vocabulary, from its beginning to its end."""
    listed = sorted(words)
    return f"one of {len(listed)} words such as {', '.join(listed[len(listed) // 12 :: len(listed) // 6 or 1][:6])}"
