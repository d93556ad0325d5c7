"""Packed rows as an Arrow table: in memory while it is small, in a file that is mapped into memory when it is not."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from illada_lab.data.packing import Rows

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

# Nine bytes per token: up to about 600 MB stay in memory.
TOKENS_IN_MEMORY = 2**26
COLUMNS = ("tokens", "segment_ids", "is_prompt")


@runtime_checkable
class RowTable(Protocol):
    """Rows that are looked up by their numbers: a `datasets.Dataset` that gives numpy arrays, or what behaves like one."""

    def __len__(self) -> int: ...

    def __getitem__(self, chosen: np.ndarray, /) -> Mapping[str, np.ndarray]:
        """The columns `COLUMNS` of some rows."""
        ...


def store(
    blocks: Iterable[Rows], folder: Callable[[], Path], *, tokens_in_memory: int = TOKENS_IN_MEMORY
) -> "tuple[datasets.Dataset, int]":
    """Rows as a data set with the columns of `Rows`.

    Args:
        blocks: the rows, some at a time.
        folder: where a large table is written; asked for then, and made if need be.
        tokens_in_memory: positions up to which it stays in memory.

    Returns:
        The table, giving numpy arrays, and the number of tokens in it that are not padding.
    """
    import datasets
    import pyarrow as pa
    from datasets.table import InMemoryTable

    batches: list[pa.RecordBatch] = []
    writer, file = None, None
    n_positions = n_tokens = 0
    try:
        for rows in blocks:
            n_positions, n_tokens = n_positions + rows.tokens.size, n_tokens + rows.n_tokens
            batches.append(_to_arrow(rows))
            if writer is None and n_positions > tokens_in_memory:
                file = folder() / "rows.arrow"
                file.parent.mkdir(parents=True, exist_ok=True)
                writer = pa.ipc.new_stream(str(file), batches[0].schema)
            if writer is not None:
                for batch in batches:
                    writer.write_batch(batch)
                batches = []
    finally:
        if writer is not None:
            writer.close()
    if writer is not None:
        table = datasets.Dataset.from_file(str(file))
    elif batches:
        table = datasets.Dataset(InMemoryTable(pa.Table.from_batches(batches)))
    else:
        table = datasets.Dataset.from_dict({name: [] for name in COLUMNS})
    return table.with_format("numpy"), n_tokens


def take(table: Any, chosen: np.ndarray) -> Rows:
    """Some rows of a table (see `RowTable`)."""
    columns = table[chosen]
    return Rows(*(columns[name] for name in COLUMNS))


def _to_arrow(rows: Rows) -> "pa.RecordBatch":
    import pyarrow as pa

    length = rows.tokens.shape[1]
    arrays = [pa.FixedSizeListArray.from_arrays(pa.array(getattr(rows, name).ravel()), length) for name in COLUMNS]
    return pa.RecordBatch.from_arrays(arrays, names=list(COLUMNS))
