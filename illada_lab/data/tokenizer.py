"""Tokenizers: byte, word, byte-level BPE trained here, or any pretrained one, behind one small class."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from illada_lab.tokens import ILLADA, OWN_SPECIAL_TEXT, SpecialTokens


class Tokenizer:
    """Text to token ids and back, with the special tokens a model needs beside it.

    Text never turns into a special token: "<mask>" typed by a user is encoded as the characters it consists of.

    Args:
        backend: tokenizer of the `tokenizers` library.
        tokens: special tokens; for our own tokenizers iLLaDA's ids.
        chat_template: Jinja text of a pretrained tokenizer, or None for our own chat format.
        is_word_level: words are separated by spaces, so decoding puts spaces between them.
        special_text: what ids that are no text look like to a reader.

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
        self.backend.encode_special_tokens = True
        tokens.check(self.vocab_size)
        self._special = set(self.special_text) | {i for i in tokens.to_dict().values() if i is not None}
        added = self.backend.get_added_tokens_decoder()
        text = self.backend.id_to_token(tokens.mask)
        if tokens.mask not in self.special_text and tokens.mask not in added and text is not None:
            raise ValueError(
                f"tokens.mask = {tokens.mask}; an ordinary token of this tokenizer ({text!r}), so text could hold masks; "
                "pass the id that the model masks with"
            )

    @property
    def vocab_size(self) -> int:
        """Number of ids, special ones included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Ids of a text; no special token is added, and none can come out."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts, on all cores."""
        return [encoding.ids for encoding in self.backend.encode_batch(list(texts), add_special_tokens=False)]

    def encode_known(self, text: str) -> list[int]:
        """`encode` that refuses a text with unknown words.

        Raises:
            ValueError: names the first unknown word.
        """
        ids = self.encode(text)
        if self.is_word_level and self.tokens.unk in ids:
            import difflib

            word = text.split()[ids.index(self.tokens.unk)]
            near = difflib.get_close_matches(word, self.backend.get_vocab(), n=3) or ["see the world's word list"]
            raise ValueError(f"text = {word!r}; not a word of this model's vocabulary; {', '.join(near)}")
        return ids

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
        """UTF-8 bytes of the decoded text, for bits per byte."""
        return len(self.decode(ids).encode())

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


# Our own special tokens are entries of the vocabulary that no text can reach: a private-use character stands in front, and
# no pre-tokenizer below lets it through as one piece.
_OWN = {i: text for i, text in enumerate(OWN_SPECIAL_TEXT)}
_RESERVED = [f"\ue000{text}" for text in OWN_SPECIAL_TEXT]


def byte_tokenizer() -> Tokenizer:
    """One token per UTF-8 byte: 256 and our special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return _byte_level({token: i for i, token in enumerate([*_RESERVED, *alphabet])}, [])


def word_tokenizer(words: Sequence[str]) -> Tokenizer:
    """One token per word, words separated by white space; words that are not listed become `<unk>`.

    Args:
        words: the vocabulary, without repetition.
    """
    if len(set(words)) != len(words) or not words:
        raise ValueError(f"words = {len(words)} entries, {len(set(words))} of them different; a vocabulary lists each once")
    vocabulary = {word: i for i, word in enumerate([*_RESERVED, *words])}
    backend = Backend(models.WordLevel(vocabulary, unk_token=_RESERVED[3]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Tokenizer(backend, ILLADA, is_word_level=True, special_text=_OWN)


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE trained on a corpus; any text survives encoding and decoding.

    Args:
        texts: the corpus.
        vocab_size: tokens in all, at least 256 bytes and our special tokens.
    """
    minimum = 256 + len(_RESERVED)
    if vocab_size < minimum:
        raise ValueError(f"vocab_size = {vocab_size}; byte-level BPE starts from the bytes; {minimum} or more")
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(_RESERVED),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    model = json.loads(backend.to_str())["model"]
    learnt = sorted(model["vocab"], key=model["vocab"].get)
    merges = [tuple(pair) for pair in model["merges"]]
    return _byte_level({token: i for i, token in enumerate([*_RESERVED, *learnt])}, merges)


def _byte_level(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    backend = Backend(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend, ILLADA, special_text=_OWN)


def pretrained(path: str, *, mask: int | None = None, **roles: int | None) -> Tokenizer:
    """A tokenizer from a folder, a `tokenizer.json` file, or a Hugging Face hub id.

    Args:
        path: where it is.
        mask: id of [MASK]; needed where the tokenizer names none (LLaDA's and iLLaDA's do not).
        roles: other special ids (eos, bos, pad, unk, eot) that override the tokenizer's own.

    Raises:
        FileNotFoundError: there is no such file or folder and the hub cannot be reached.
        ValueError: a special id is missing; nothing is guessed.
    """
    folder = Path(path)
    config: dict[str, Any] = {}
    if folder.is_dir() and not (folder / "tokenizer.json").is_file():
        raise FileNotFoundError(f"tokenizer.path = {path}; no tokenizer.json in this folder; a folder, a file or a hub id")
    file = folder / "tokenizer.json" if folder.is_dir() else folder
    if file.is_file():
        backend = Backend.from_file(str(file))
        beside = file.with_name("tokenizer_config.json")
        config = json.loads(beside.read_text()) if beside.is_file() else {}
    else:
        try:
            backend = Backend.from_pretrained(path)
        except Exception as error:  # the hub client has no common error class
            raise FileNotFoundError(
                f"tokenizer.path = {path}; neither a local file nor reachable on the hub ({type(error).__name__}); "
                "a folder with tokenizer.json, or a network"
            ) from error
    ids: dict[str, int | None] = {}
    for role in ("bos", "eos", "pad", "unk", "mask"):
        named = config.get(f"{role}_token")
        text = named.get("content") if isinstance(named, dict) else named
        ids[role] = backend.token_to_id(text) if text else None
    ids |= {role: value for role, value in {"mask": mask, **roles}.items() if value is not None}
    if missing := [role for role in ("mask", "eos") if ids.get(role) is None]:
        raise ValueError(
            f"tokenizer.{missing[0]} = null; {path} does not name its {missing[0]} token, and it is not guessed; "
            f"pass tokenizer.{missing[0]}=<id> (see the model card)"
        )
    return Tokenizer(backend, SpecialTokens.from_dict(ids), chat_template=config.get("chat_template"))
