"""What the notebooks share: one look for all figures, and the table "the paper reports / this run measured"."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from illada_lab.report.tables import effect_text

# Okabe and Ito's colours, which colour-blind readers can tell apart, in an order that keeps neighbours far apart; each series
# has a marker of its own as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
LIMIT = "#666666"
# Places in COLOURS of those who appear in several notebooks: each looks the same in all.
PLACES = {
    "diffusion": 0, "diffusion (bound)": 0, "iLLaDA's recipe": 0, "LLaDA's recipe": 1, "autoregressive twin": 2, "twin, inputs masked": 3,
    "iLLaDA": 0, "LLaDA": 1, "low_confidence": 0, "random": 1, "entropy": 2, "left_to_right": 3,
    "variable": 0, "fixed": 1, "confidence": 0, "likelihood": 1,  # iLLaDA's way, LLaDA's way
}  # fmt: skip


def use_style() -> None:
    """Set matplotlib's defaults for a notebook: dark ink on a white card, so that a dark page shows it as well as a light one."""
    import matplotlib.pyplot as plt
    from cycler import cycler

    plt.rcParams.update(
        {
            "axes.prop_cycle": cycler(color=COLOURS) + cycler(marker=MARKERS),
            "figure.facecolor": "white",
            "axes.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.figsize": (7.2, 3.4),
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
            "axes.grid": True,
            "grid.color": "#dddddd",
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "font.size": 10,
            "legend.frameon": False,
            "lines.markersize": 5,
        }
    )


def pick(rows: Sequence[Mapping[str, Any]], **wanted: Any) -> list[Mapping[str, Any]]:
    """Rows of a tidy table that have these values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def looks(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Colour and marker of each series of one figure, as keywords of `plot`: those of `PLACES` have their own, others what is free.

    Raises:
        ValueError: more series than colours.
    """
    names = list(dict.fromkeys(names))
    if len(names) > len(COLOURS):
        raise ValueError(f"{len(names)} series; one figure tells {len(COLOURS)} apart; draw several figures")
    free = [place for place in range(len(COLOURS)) if place not in {PLACES.get(name) for name in names}]
    places = {name: PLACES[name] if name in PLACES else free.pop(0) for name in names}
    return {name: {"color": COLOURS[place], "marker": MARKERS[place]} for name, place in places.items()}


def lines(axes: Any, rows: Sequence[Mapping[str, Any]], x: str, y: str, by: str) -> None:
    """One line per value of `by`, in order of first appearance, each with its colour and marker."""
    for name, look in looks([row[by] for row in rows]).items():
        chosen = pick(rows, **{by: name})
        axes.plot([row[x] for row in chosen], [row[y] for row in chosen], label=name, **look)
    axes.set(xlabel=x, ylabel=y)


def paper_and_run(
    claims: Sequence[Any], effects: Mapping[str, float], scale: str, ledger: str | Path | None = None
) -> list[dict[str, str]]:
    """The table of a notebook: what the paper reports at 8B, what this run measured at its own scale, what the ledger says.

    Args:
        claims: of a study.
        effects: what one seed measured.
        scale: of this run.
        ledger: result file with the verdict over seeds; None or missing: the column says so.
    """
    verdicts = {}
    if ledger is not None and Path(ledger).is_file():
        verdicts = {c["id"]: c for c in json.loads(Path(ledger).read_text(encoding="utf-8"))["claims"]}
    rows = []
    for claim in claims:
        known = verdicts.get(claim.id)
        says = "not run at this scale" if known is None else f"{known['verdict']}: {effect_text(known)}"
        measured = effect_text({"effect": effects[claim.id], "unit": claim.unit})
        rows.append(
            {"claim": claim.sentence, "paper reports (8B)": claim.paper, "what is measured here": claim.metric,
             f"this run (scale {scale}, one seed)": measured, "ledger (all seeds)": says}
        )  # fmt: skip
    return rows
