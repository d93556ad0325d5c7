"""Our own tokenizers (byte, word, byte-level BPE trained here), and all tokenizers as functions of the data source."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from illada_lab.data.pretrained_tokenizer import pretrained
from illada_lab.data.tokenizer import Tokenizer
from illada_lab.tokens import ILLADA, OWN_SPECIAL_TEXT

# Our own special tokens are entries of the vocabulary that no text can reach: with white space in them no word tokenizer meets
# them in one piece, and a byte-level alphabet has neither white space nor private-use characters.
_OWN = {i: text for i, text in enumerate(OWN_SPECIAL_TEXT)}
_RESERVED = [f"\ue000 {text}" for text in OWN_SPECIAL_TEXT]


def byte_tokenizer() -> Tokenizer:
    """One token per UTF-8 byte: 256 and our special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return _byte_level({token: i for i, token in enumerate([*_RESERVED, *alphabet])}, [])


def word_tokenizer(words: Sequence[str]) -> Tokenizer:
    """One token per word, words separated by white space; words that are not listed become `<unk>`.

    Args:
        words: the vocabulary, without repetition.

    Raises:
        ValueError: no words, one of them twice, or white space inside one.
    """
    words = list(words)
    if len(set(words)) != len(words) or not words:
        raise ValueError(
            f"words = {len(words)} entries, {len(set(words))} of them different; a vocabulary lists each once"
        )
    if broken := [word for word in words if word.split() != [word]]:
        raise ValueError(f"words = {broken[0]!r}; white space separates words, so no text can reach it; one word")
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


# What conf/tokenizer names.


def words(source: Any) -> Tokenizer:
    """One token per word of a world.

    Raises:
        ValueError: the source has no list of words.
    """
    if not hasattr(source, "words"):
        raise ValueError("tokenizer = word; this data has no word list; tokenizer=bpe or tokenizer=byte")
    return word_tokenizer(source.words)


def byte(source: Any) -> Tokenizer:
    """One token per byte; the source does not matter."""
    return byte_tokenizer()


def bpe(source: Any, *, vocab_size: int) -> Tokenizer:
    """Byte-level BPE trained on the source's training split.

    Args:
        source: gives the texts.
        vocab_size: tokens in all.

    Raises:
        ValueError: the source has no texts to train on, or `vocab_size` is too small.
    """
    if not hasattr(source, "tokenizer_texts"):
        raise ValueError(
            "tokenizer = bpe; this data has no texts to train it on; tokenizer=byte or tokenizer=pretrained"
        )
    return train_bpe(source.tokenizer_texts(), vocab_size)


def load(source: Any, *, path: str, adds_mask: bool = False, **ids: int | None) -> Tokenizer:
    """A pretrained tokenizer (see `pretrained`); the source does not matter."""
    return pretrained(path, adds_mask=adds_mask, **ids)


def prepared(source: Any) -> Tokenizer:
    """The tokenizer that prepared data was made with.

    Raises:
        ValueError: the source is not prepared data.
    """
    found = getattr(source, "tokenizer", None)
    if not isinstance(found, Tokenizer):
        raise ValueError("tokenizer = prepared; this data has no tokenizer of its own; data=shards, or tokenizer=bpe")
    return found
