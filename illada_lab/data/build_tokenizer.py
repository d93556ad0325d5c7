"""Tokenizers as configurations name them: functions of the data source."""

from typing import Any

from illada_lab.data.tokenizer import Tokenizer, byte_tokenizer, pretrained, train_bpe, word_tokenizer


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
        ValueError: the source has no texts to train on (a world has words), or `vocab_size` is too small.
    """
    if not hasattr(source, "tokenizer_texts"):
        raise ValueError("tokenizer = bpe; a world's language consists of words; tokenizer=word")
    return train_bpe(source.tokenizer_texts(), vocab_size)


def load(source: Any, *, path: str, **ids: int | None) -> Tokenizer:
    """A pretrained tokenizer (see `pretrained`); the source does not matter."""
    return pretrained(path, **ids)
