"""Tables for the terminal."""

from collections.abc import Sequence
from typing import Any


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """Print evaluation rows: share, 95 % interval, chance, target."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name, side in (("task", "left"), ("metric", "left"), ("share", "right"), ("95 % interval", "right"), ("n", "right"),
                       ("chance", "right"), ("target", "right")):  # fmt: skip
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for row in rows:
        target = "" if row["target"] is None else f">= {row['target']:.0%}"
        table.add_row(
            row["task"], row["metric"], f"{row['value']:.1%}", f"{row['ci_low']:.1%} to {row['ci_high']:.1%}", str(row["n"]),
            f"{row['chance']:.1%}", target,
        )  # fmt: skip
    Console(width=110, highlight=False).print(table)
