"""Held-out documents in the form in which frozen-mask validation takes them."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from illada_lab.data.encode import Encoder
from illada_lab.data.packing import Documents, Dropped, Packing, pack_blocks

# Documents encoded at once; a data set may hold far more than validation wants.
BLOCK = 2**16


def held_out_documents(table: Any, encoder: Encoder, *, n: int, max_length: int) -> list[dict[str, Any]]:
    """Documents of a table, each for itself; one longer than `max_length` is several, in equal parts.

    Args:
        table: `datasets.Dataset` or `IterableDataset` with `text` or `messages`, and perhaps `kind`, `log_prob` and
            `log_prob_of_length`.
        encoder: encodes them.
        n: at most so many.
        max_length: tokens.

    Returns:
        For each: ids, is_prompt, kind, log_prob, log_prob_of_length (nats; None for a part) and n_bytes.
    """
    found = []
    rows = iter(table)
    for documents in encoder.blocks(table, BLOCK):
        for (ids, is_prompt), row in zip(_each(documents), rows, strict=False):
            n_parts = -(-len(ids) // max_length)
            for part, flags in zip(
                np.array_split(ids, max(1, n_parts)), np.array_split(is_prompt, max(1, n_parts)), strict=True
            ):
                known = {name: row.get(name) if n_parts == 1 else None for name in ("log_prob", "log_prob_of_length")}
                found.append(_document(part, flags, encoder, kind=row.get("kind"), **known))
        if len(found) >= n:
            break
    return [document for document in found if document["n_bytes"]][:n]


def held_out_rows(
    table: Any,
    encoder: Encoder,
    *,
    n: int,
    length: int,
    packing: Packing,
    is_isolated: bool = False,
    dropped: Dropped | None = None,
) -> list[dict[str, Any]]:
    """Rows of the held-out documents, packed as for training: what a model sees whose documents run on in a row.

    Args:
        table, encoder, n: as above.
        length: tokens per row.
        packing: how documents become rows.
        is_isolated: documents of a row do not see each other.
        dropped: leaves out documents longer than a row, and counts them; None: what the packing does with them.

    Returns:
        As `held_out_documents`, without kind and log_prob, and with `segment_ids` where documents are isolated.
    """
    found: list[dict[str, Any]] = []
    blocks = encoder.blocks(table, BLOCK)
    blocks = blocks if dropped is None else dropped.left(blocks)
    for rows in pack_blocks(blocks, packing, length, encoder.tokenizer.tokens.filler):
        columns = zip(rows.tokens, rows.is_prompt, rows.segment_ids, strict=True)
        for ids, flags, segments in islice(columns, n - len(found)):
            valid = segments > 0
            known = {"segment_ids": segments[valid].tolist()} if is_isolated else {}
            found.append(_document(ids[valid], flags[valid], encoder, kind=None, log_prob=None, **known))
        if len(found) >= n:
            break
    return [document for document in found if document["n_bytes"]]


def padded(documents: list[dict[str, Any]], *, n_together: int, pad_with: int) -> list[dict[str, Any]]:
    """Documents as a step of training shows them where its rows are padded: alone, a model would see a text end where none has ended.

    Args:
        documents: as `held_out_documents` and `held_out_rows` make them; one without a response stays as it is.
        n_together: rows of a step; so many documents are padded to the longest of them.
        pad_with: id of the padding, which is part of the response.

    Returns:
        The same, without the probability of a text that has become another one.
    """
    found = []
    for first in range(0, len(documents), n_together):
        group = documents[first : first + n_together]
        longest = max(len(document["ids"]) for document in group)
        for document in group:
            if (missing := longest - len(document["ids"])) and not all(document["is_prompt"]):
                known = {key: None for key in ("log_prob", "log_prob_of_length") if key in document}
                ids, is_prompt = document["ids"] + [pad_with] * missing, document["is_prompt"] + [False] * missing
                document = {**document, **known, "ids": ids, "is_prompt": is_prompt}
                document.pop("segment_ids", None)  # one sequence, padding and all
            found.append(document)
    return found


def _each(documents: Documents) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start, end in zip(documents.offsets[:-1], documents.offsets[1:], strict=True):
        yield documents.tokens[start:end], documents.is_prompt[start:end]


def _document(ids: np.ndarray, is_prompt: np.ndarray, encoder: Encoder, **known: Any) -> dict[str, Any]:
    listed = ids.tolist()
    return {"ids": listed, "is_prompt": is_prompt.tolist(), **known, "n_bytes": encoder.tokenizer.n_bytes(listed)}
