"""Where a response ends: at a token, at a sequence of tokens, or at a piece of text."""

from collections.abc import Iterable, Sequence, Sized
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Decoder(Protocol):
    """What stop strings need of a tokenizer."""

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of ids."""
        ...

    def encode_known(self, text: str) -> list[int]:
        """Ids of a text; ValueError if a word is unknown."""
        ...


def check_stop_strings(strings: Sequence[str], tokenizer: Decoder | None) -> None:
    """Raise ValueError for stop strings that are empty, that nobody can look for, or that the model cannot write."""
    if isinstance(strings, str):
        raise ValueError(f"stop_strings = {strings!r}; a text, not several; [{strings!r}]")
    if any(not isinstance(string, str) or not string.strip(" ") for string in strings):
        raise ValueError(
            f"stop_strings = {list(strings)}; an empty string would stop everything; text, for example '\\n\\n'"
        )
    if strings and tokenizer is None:
        raise ValueError(f"stop_strings = {list(strings)}; text can be looked for with a tokenizer only; tokenizer=...")
    for string in strings:
        try:
            assert tokenizer is not None
            ids = tokenizer.encode_known(string)
        except ValueError as error:
            raise ValueError(f"stop_strings = {string!r}; cannot be tokenised, so it never comes; {error}") from error
        if not ids:
            raise ValueError(f"stop_strings = {string!r}; has no token, so it never comes; text the model can write")


def check_stop_tokens(stop_ids: Any, sequences: Any) -> None:
    """Raise ValueError for stop ids (or None) that are not several, and for stop sequences that are not sequences of ids, or empty."""
    if stop_ids is not None and not isinstance(stop_ids, Iterable):
        raise ValueError(f"stop_ids = {stop_ids!r}; one id, not several; [{stop_ids!r}]")
    nested = [sequences] if isinstance(sequences, str) or not isinstance(sequences, Iterable) else sequences
    if any(isinstance(sequence, str) or not isinstance(sequence, Sized) for sequence in nested):
        raise ValueError(
            f"stop_sequences = {sequences!r}; not sequences of token ids; [[id, id, ...], ...], or stop_strings for text"
        )
    if any(len(sequence) == 0 for sequence in sequences):
        raise ValueError(
            "stop_sequences = [[]]; an empty sequence would stop everything; token ids of each stop string"
        )


def find_end(
    response: Sequence[int],
    stop_ids: Sequence[int],
    sequences: Sequence[Sequence[int]] = (),
    strings: Sequence[str] = (),
    tokenizer: Decoder | None = None,
) -> tuple[int, str] | None:
    """How many tokens of a response stand before its end, and what ended it: "eos" or "stop"; None: nothing yet.

    Stop strings are looked for in the decoded text, as the published evaluation does: a string may be made of other tokens inside a
    text than alone. A token that is partly in front of the string still belongs to the response, whose text is to be cut: `response_text`.

    Args:
        response: tokens written so far.
        stop_ids: ids that end it.
        sequences: token sequences that end it.
        strings: texts that end it.
        tokenizer: for `strings`.
    """
    found = [(i, "eos") for i, token in enumerate(response) if token in stop_ids][:1]
    for sequence in map(list, sequences):
        n = len(sequence)
        found += [(i, "stop") for i in range(len(response) - n + 1) if list(response[i : i + n]) == sequence][:1]
    if strings:
        assert tokenizer is not None, "check_stop_strings has seen to it"
        # What stands behind the end is no part of the answer, and must not complete a string that began before it.
        n = _before_strings(response[: min((i for i, _ in found), default=len(response))], strings, tokenizer)
        if n is not None:
            return n, "stop"
    return min(found, default=None)


def response_text(response: Sequence[int], stop_reason: str, strings: Sequence[str], tokenizer: Decoder) -> str:
    """Text of a response, special tokens shown: up to the stop string that ended it, of which its last token may hold a part.

    Args:
        response: tokens, as a sampler returns them.
        stop_reason: of the response, as a sampler returns it.
        strings: texts that were to end it.
        tokenizer: which decodes it.
    """
    text = tokenizer.decode(response, skip_special=False)
    if stop_reason != "stop" or not strings:
        return text
    plain = tokenizer.decode(response)  # as the strings were looked for
    return text[: len(text) - len(plain) + len(_cut(plain, strings))]


def _before_strings(response: Sequence[int], strings: Sequence[str], tokenizer: Decoder) -> int | None:
    """How many tokens hold the text in front of the first stop string; None: there is none."""
    text = tokenizer.decode(response)
    places = [place for place in map(text.find, strings) if place >= 0]
    if not places:
        return None
    place, n = min(places), len(response)
    # The longest beginning whose text ends before the string does begin.
    while len(tokenizer.decode(response[:n])) > place:
        n -= 1
    # Where the next token's own text begins: at the string, or in front of it. Words have a space between, which is no token's.
    begin = len(tokenizer.decode(response[: n + 1])) - len(tokenizer.decode(response[n : n + 1]))
    n += begin < place
    # More tokens where these would be cut elsewhere: before "aab", "xa" looks as if it ended within the string.
    wanted = text[:place].rstrip(" ")
    fitting = (
        k for k in range(n, len(response)) if _cut(tokenizer.decode(response[:k]), strings).rstrip(" ") == wanted
    )
    return next(fitting, len(response))


def _cut(text: str, strings: Sequence[str]) -> str:
    """What stands in front of the first stop string, or else of the beginning of one that a text ends with."""
    places = [place for place in map(text.find, strings) if place >= 0]
    if not places:
        longest = max(map(len, strings)) - 1
        starts = range(max(0, len(text) - longest), len(text))
        places = [i for i in starts if any(string.startswith(text[i:]) for string in strings)][:1]
    return text[: min(places, default=len(text))]
