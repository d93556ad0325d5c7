"""`illada-lab report`: a page of a training run, or of several beside each other; what differs and what came out, in the terminal too."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

USES = {"report": "report RUN [RUN ...] [out=PAGE.html]: folders of runs, or folders that hold some"}


def run(words: Sequence[str], *, is_json: bool = False) -> int:
    """Write the page, print what it says in numbers.

    Args:
        words: folders, and where the page goes.
        is_json: print the numbers as JSON, and nothing else.

    Raises:
        FileNotFoundError, ValueError: see `read_runs`; more runs than a figure tells apart; a word that is neither.
    """
    from illada_lab.report.comparison import runs_results, side_by_side
    from illada_lab.report.figures import MOST_RUNS
    from illada_lab.report.html import write_report
    from illada_lab.report.runs import read_runs, runs_below

    given = [word.partition("=")[2] for word in words if word.startswith("out=")]
    folders = [word for word in words if not word.startswith("out=")]
    if not folders or len(given) > 1 or "" in given:
        raise ValueError(f"{' '.join(['report', *words])}; not a use of it; {USES['report']}")
    # A folder of a sweep may have = in its name.
    for word in folders:
        if "=" in word and not Path(word).exists():
            raise ValueError(f"{word}; neither a folder nor out=; {USES['report']}")
    runs = read_runs(folders)
    for run_ in runs:
        if below := [folder for folder in runs_below(run_.folder) if folder not in {other.folder for other in runs}]:
            print(
                f"{run_.folder}: {len(below)} more below it, of a sweep; {run_.folder}/*/ shows them", file=sys.stderr
            )
    if len(runs) > MOST_RUNS:
        raise ValueError(
            f"runs = {len(runs)}; a figure tells {MOST_RUNS} apart; name {MOST_RUNS} of them or fewer, such as {runs[0].folder}"
        )
    page = Path(given[0]) if given else runs[0].folder / "report.html" if len(runs) == 1 else Path("comparison.html")
    if page.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"out = {page}; no name of a page; such as {page.stem or 'report'}.html")
    beside = side_by_side(runs)
    write_report(page, runs_results(runs))
    if is_json:
        print(json.dumps({**beside, "page": str(page)}, ensure_ascii=False))
    else:
        _print(beside, is_one=len(runs) == 1)
        print(f"page: {page}")
    return 0


def _print(beside: dict[str, Any], *, is_one: bool) -> None:
    """The tables of the page; of one run what came out alone."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if Console().is_terminal else 40 + 24 * len(beside["names"]), highlight=False)
    for part in ("settings", "outcome"):
        if is_one and part == "settings":
            continue
        table = Table(box=None, pad_edge=False)
        for name in ({"settings": "what differs", "outcome": "what came out"}[part], *beside["names"]):
            # As Text: a folder named "[x]" is no markup of rich.
            table.add_column(Text(name), overflow="fold")
        for row in beside[part]:
            table.add_row(*map(Text, (row["name"], *row["values"])))
        console.print(table)
        if part == "settings" and len(beside[part]) == 1:
            print("nothing else that they learn from")
        print()
    for note in () if is_one else beside["notes"]:
        print(note)
