"""Columns of a table as documents: chosen, checked, under our names, without those that are empty."""

import sys
from collections.abc import Mapping
from functools import partial
from itertools import islice
from typing import Any

from illada_lab.data.fields import Fields


def as_documents(table: Any, fields: Fields, path: str, *, is_streaming: bool) -> Any:
    """The documents of a table under our name, their type checked.

    Args:
        table: `datasets.Dataset` or `IterableDataset`.
        fields: its columns that make a document.
        path: for messages.
        is_streaming: the end of the table is not known.

    Raises:
        ValueError: no row, no such column, or null in one.
    """
    first = first_row(table, path)
    fields.check(first, path)
    named = fields.named
    table = table.select_columns(list(named.values()))
    for key, field in named.items():
        may_be_null = is_streaming or key == "input_field"
        if not may_be_null and (n_null := table.data.column(field).null_count):
            raise ValueError(
                f"data.source.{key} = {field}; null in {n_null} of {len(table)} rows; a field that is always there"
            )
    document = fields.document(first, f"{path}, row 1")
    (column,) = document
    if "prompt_field" in named or (column == "messages" and not _has_roles(first[named["messages_field"]])):
        convert = partial(_document, fields=fields, path=path)
        return table.map(convert, with_indices=True, remove_columns=list(named.values()))
    (field,) = named.values()
    return table if field == column else table.rename_column(field, column)


def first_row(rows: Any, path: str) -> dict[str, Any]:
    """The first row; ValueError where there is none."""
    for row in islice(rows, 1):
        return row
    raise ValueError(f"data.path = {path}; holds no document; a file with text")


def _document(row: Mapping[str, Any], index: int, *, fields: Fields, path: str) -> dict[str, Any]:
    return fields.document(row, f"{path}, row {index + 1}")


def without_empty(table: Any, path: str) -> Any:
    """The texts that say something: an empty one would be an EOS behind nothing, and line-wise corpora have many.

    Args:
        table: with the column `text`.
        path: for messages.

    Raises:
        ValueError: all are empty; of a stream that is not known.
    """
    import datasets
    from lightning.pytorch.utilities import rank_zero_only

    if isinstance(table, datasets.IterableDataset):
        return table.filter(_is_text, input_columns=["text"])
    import pyarrow.compute as pc

    kept = pc.call_function("not_equal", [table.data.column("text"), ""]).to_numpy(zero_copy_only=False).nonzero()[0]
    if len(kept) == len(table):
        return table
    if not len(kept):
        raise ValueError(f"data.path = {path}; holds no document that is not empty; a file with text")
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        print(f"data: {len(table) - len(kept):,} of {len(table):,} texts left out, empty", file=sys.stderr)
    return table.select(kept)


def _is_text(text: str) -> bool:
    return text != ""


def _has_roles(conversation: list[Any]) -> bool:
    """Whether a conversation that is one needs no other names."""
    return bool(conversation) and all(turn.get("role") is not None for turn in conversation)
