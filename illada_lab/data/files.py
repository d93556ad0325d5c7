"""Text and JSONL files, read document by document with errors that name the place."""

import codecs
import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from illada_lab.data.fields import Fields, kind
from illada_lab.data.find import Stamp, open_bytes

# Without a separator a file is one running text; it is handed on in pieces of about this many characters.
PIECE = 16_384
CHUNK = 1 << 20  # bytes read at once
ROWS = 256  # of a table, read at once
# Characters of a document of a text file, which is held in memory whole: ten long books. More has another separator than was thought.
LONGEST = 2**26


def read_text(files: list[Stamp], separator: str | None) -> Iterator[dict[str, str]]:
    """Documents of plain text files; joined they are the files, byte for byte.

    Args:
        files: stamps of the files (`stamp`).
        separator: stands between two documents and stays with the first; None: pieces of about 16,000 characters that end at a line.

    Raises:
        ValueError: a file is not UTF-8, or a document has more than `LONGEST` characters.
    """
    for name, *_ in files:
        waiting = ""
        for text in _decoded(name):
            n_searched = len(waiting)
            waiting += text
            pieces = pieces_of(waiting, separator, n_searched)
            waiting = pieces.pop()
            yield from ({"text": piece} for piece in pieces)
            if len(waiting) > LONGEST:
                way = "a file with line ends" if separator is None else "data.source.separator=null, or one that occurs"
                raise ValueError(
                    f"data.path = {name}; a document of more than {LONGEST:,} characters would be held in memory whole; {way}"
                )
        if waiting:
            yield {"text": waiting}


def pieces_of(text: str, separator: str | None, n_searched: int = 0) -> list[str]:
    """Finished documents at the beginning of a text and, last, the rest.

    Args:
        text: the text.
        separator: see `read_text`.
        n_searched: characters in which no document ends: a long one that grows is not searched again and again.
    """
    if separator:
        if text.find(separator, max(0, n_searched - len(separator) + 1)) < 0:
            return [text]
        parts = text.split(separator)
        return [part + separator for part in parts[:-1]] + parts[-1:]
    pieces, start = [], 0
    while len(text) - start > PIECE and (end := text.find("\n", max(start + PIECE, n_searched)) + 1):
        pieces.append(text[start:end])
        start = end
    return [*pieces, text[start:]]


def _decoded(name: str) -> Iterator[str]:
    """A file's text, some at a time. Line ends stay as they are: bytes are counted."""
    decoder, n_read = codecs.getincrementaldecoder("utf-8")(), 0
    with open_bytes(name) as file:
        while True:
            chunk = file.read(CHUNK)
            waiting = len(decoder.getstate()[0])
            try:
                yield decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                place = n_read - waiting + error.start
                raise ValueError(f"data.path = {name}; not UTF-8 text (byte {place}); save it as UTF-8") from error
            n_read += len(chunk)
            if not chunk:
                return


def read_json(files: list[Stamp], fields: Fields, *, needs_all: bool = False) -> Iterator[dict[str, Any]]:
    """Documents of JSONL files (one object per line), or of .json files that hold one list of objects.

    Args:
        files: stamps of the files (`stamp`).
        fields: of an object that make a document.
        needs_all: refuse an object without the field of the input: of a stream, whose end may never come, a misspelt one would not show.

    Raises:
        ValueError: a line is no JSON object, lacks a field (of the input: all do), or holds something else in it; with the line's number.
    """
    has_input = False
    for name, *_ in files:
        for where, record in _records(name):
            fields.check(record, where, may_lack_input=not needs_all)
            has_input = has_input or fields.input in record
            yield fields.document(record, where)
    if fields.input and not has_input:
        raise ValueError(f"data.source.input_field = {fields.input}; not a field of any object; null, or its name")


def read_parquet(files: list[Stamp], fields: Fields) -> Iterator[dict[str, Any]]:
    """Documents of Parquet files, a few hundred rows in memory at a time.

    Args:
        files, fields: as `read_json`.

    Raises:
        ValueError: a file is damaged or truncated, lacks a field, or holds something else in it; with the row's number.
    """
    import pyarrow.parquet as pq
    from pyarrow.lib import ArrowException

    columns = list(fields.named.values())
    for name, *_ in files:
        n_read = 0
        with open_bytes(name) as opened:
            try:
                file = pq.ParquetFile(opened)
                fields.check(file.schema_arrow.names, name)
                rows = (
                    row for batch in file.iter_batches(batch_size=ROWS, columns=columns) for row in batch.to_pylist()
                )
                for n_read, row in enumerate(rows, 1):
                    yield fields.document(row, f"{name}, row {n_read}")
            except (OSError, EOFError, ArrowException) as error:
                raise ValueError(
                    f"data.path = {name}; cannot be read as Parquet behind row {n_read} ({str(error).splitlines()[0][:120]}); "
                    "the whole file"
                ) from error


def _records(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects of a file, each with its place."""
    n_found = 0
    for where, text in _json_texts(name):
        try:
            record = json.loads(text) if isinstance(text, bytes) else text
        except ValueError as error:  # also bytes that are no UTF-8
            reason = getattr(error, "msg", None) or "not UTF-8"
            raise ValueError(f"data.path = {where}; not JSON ({reason}); one object per line") from error
        if not isinstance(record, dict):
            raise ValueError(f"data.path = {where}; holds {kind(record)}, not an object; one object per line")
        n_found += 1
        yield where, record
    if not n_found:
        raise ValueError(f"data.path = {name}; holds no object; one object per line")


def _json_texts(name: str) -> Iterator[tuple[str, Any]]:
    with open_bytes(name) as file:
        if ".json" in PurePosixPath(name).suffixes and file.read(64).removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"[":
            file.seek(0)
            try:
                values = json.load(file)
            except ValueError as error:
                reason = getattr(error, "msg", None) or "not UTF-8"
                raise ValueError(
                    f"data.path = {name}; not JSON ({reason}); a list of objects, or one object per line"
                ) from error
            yield from ((f"{name}, entry {number}", value) for number, value in enumerate(values, 1))
            return
        file.seek(0)
        yield from ((f"{name}, line {number}", line) for number, line in enumerate(file, 1) if line.strip())


def reason_of(error: BaseException) -> str:
    """What an error says of its cause, in a line."""
    text = str(error.__cause__ or error).strip() or type(error).__name__
    return text.splitlines()[0][:120]
