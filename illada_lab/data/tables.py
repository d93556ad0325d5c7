"""From the parts of a source to the rows of training and their order."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from illada_lab.data.encode import Encoder
from illada_lab.data.mixture import Mixed
from illada_lab.data.order import Computed, Order
from illada_lab.data.packing import ConcatAndCut, Documents, Dropped, OnePerRow, Packing, pack_blocks
from illada_lab.data.rows import RowTable, store
from illada_lab.data.shards.read import Split
from illada_lab.data.shards.rows import DocumentRows, JoinedRows, ShardRows
from illada_lab.data.shards.source import ShardSource

# Tokens packed at once: best fit is as good as over everything, and memory stays small.
BLOCK = 2**22


@dataclass(frozen=True)
class Part:
    """A part of a source.

    Attributes:
        table: its documents.
        name: None where it is the whole.
        weight: its weight among the parts, None where it is the whole.
        share: of all rows.
    """

    table: Any
    name: str | None = None
    weight: float | int | None = None
    share: float = 1.0


def parts_of(source: Any, split: str) -> list[Part]:
    """The parts of a mixture, or the whole of any other source. Several folders are validated one by one also where they are one corpus."""
    weights = getattr(source, "weights", None)
    if weights is None and split != "train" and isinstance(source, ShardSource) and len(source.paths) > 1:
        weights = [part.n_tokens for part in source.parts("train")]
    if weights is None:
        return [Part(source.load(split))]
    return [
        Part(table, name, weight, weight / sum(weights))
        for table, name, weight in zip(source.parts(split), source.names, weights, strict=True)
    ]


def row_table(
    parts: Sequence[Part],
    *,
    encoder: Encoder,
    packing: Packing,
    length: int,
    seed: int,
    folder: Callable[[], Path],
    drops_long: bool = False,
) -> tuple[RowTable, Order | None, int]:
    """The rows of all parts, the order in which they are seen, and the number of tokens in them.

    Documents that are tokens already are cut into rows where they are, if the packing is one stream or one document per row;
    everything else is packed into a table. Both give the same rows.

    Args:
        parts: of the source.
        encoder: encodes what is no tokens yet.
        packing: how documents become rows.
        length: tokens per row.
        seed: of the order.
        folder: where large tables are written; asked for then.
        drops_long: leave out documents longer than a row, and say how many.

    Returns:
        Table, order (None: drawn as a whole, see `StreamOrder`), tokens.

    Raises:
        ValueError: a document is too long for the packing, or all that there are would be left out.
    """
    filler = encoder.tokenizer.tokens.filler
    tables: list[RowTable] = []
    n_tokens = 0
    dropped = Dropped(length) if drops_long else None
    for i, part in enumerate(parts):
        if isinstance(part.table, Split) and isinstance(packing, ConcatAndCut):
            tables.append(ShardRows(part.table, length=length, filler=filler))
            n_tokens += part.table.n_tokens
        elif isinstance(part.table, Split) and isinstance(packing, OnePerRow):
            tables.append(found := DocumentRows(part.table, length=length, filler=filler, dropped=dropped))
            n_tokens += found.n_tokens
        else:
            blocks: Iterable[Documents] = encoder.blocks(part.table, BLOCK)
            if isinstance(packing, OnePerRow):  # a short example becomes a whole row
                blocks = (piece for block in blocks for piece in block.pieces(max(1, BLOCK // length)))
            rows = pack_blocks(blocks if dropped is None else dropped.left(blocks), packing, length, filler)
            table, n = store(rows, lambda i=i: folder() / str(i))
            tables.append(table)  # type: ignore[arg-type]  # a data set that gives numpy arrays
            n_tokens += n
    if dropped is not None:
        dropped.say("training examples")
    weights = [part.weight for part in parts if part.weight is not None]
    if weights:
        for part, table in zip(parts, tables, strict=True):
            if dropped is not None and not len(table):
                raise ValueError(
                    f"data.drops_long = true; all examples of {part.name} are longer than a row of {length:,} tokens; "
                    "a larger scale.length, or leave it out of data.path"
                )
        order = Mixed(sizes=[len(table) for table in tables], weights=weights, seed=seed)
        return JoinedRows(tables), order, n_tokens
    is_computed = isinstance(tables[0], ShardRows)
    return tables[0], Computed(n_rows=len(tables[0]), seed=seed) if is_computed else None, n_tokens
