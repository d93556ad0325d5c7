"""All claims of a scale in one figure: effect, interval and threshold, drawn from the result files of the ledger."""

import io
from collections.abc import Sequence
from typing import Any

from illada_lab.report.plots import COLOURS, LIMIT

# Verdict: colour and marker; open circles decide nothing.
LOOKS: dict[str, dict[str, Any]] = {
    "replicated": {"color": COLOURS[0], "marker": "o"},
    "not replicated": {"color": COLOURS[1], "marker": "X"},
    "inconclusive": {"color": LIMIT, "marker": "o", "markerfacecolor": "white"},
}
# Axes that are linear up to here and logarithmic beyond: our choice, most claims turn on a few hundredths of a nat or a few points.
LINEAR = {"nats/token": 0.1, "points": 10}
ROW = 0.2  # inches
SMALLEST = "#b0a060"  # stroke at the smallest effect worth the name
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "illada_lab",
    "text.parse_math": False,
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def forest(results: Sequence[dict[str, Any]]) -> str:
    """SVG: a panel per unit, a row per claim, in the order of the ledger, with the two limits between which its test decides.

    Args:
        results: of studies at one scale.

    Raises:
        ValueError: nothing to draw.
    """
    rows = [(result["study"], claim) for result in results for claim in result["claims"]]
    if not rows:
        raise ValueError("results = no claims; there is nothing to draw; results of one study or more")
    by_unit: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for study, claim in rows:
        by_unit.setdefault(claim["unit"], []).append((study, claim))
    panels = sorted(by_unit.items(), key=lambda item: -len(item[1]))

    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        height = sum(ROW * len(claims) + 0.62 for _, claims in panels) + 0.35
        figure = Figure(figsize=(11, height), layout="constrained")
        all_axes = figure.subplots(len(panels), squeeze=False, height_ratios=[ROW * len(c) + 0.3 for _, c in panels])[
            :, 0
        ]
        for axes, (unit, claims) in zip(all_axes, panels, strict=True):
            _panel(axes, unit, claims)
        _legend(figure, [claim["verdict"] for _, claim in rows])
        return saved(figure)


def _panel(axes: Any, unit: str, claims: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """One unit: rows from above to below, thresholds as short strokes."""
    factor = 100 if unit == "points" else 1
    for place, (_, claim) in enumerate(claims):
        look = LOOKS[claim["verdict"]]
        if claim["ci_low"] is not None:
            ends = [factor * claim["ci_low"], factor * claim["ci_high"]]
            axes.plot(ends, [place, place], color=look["color"], lw=1.8, solid_capstyle="butt")
        if claim["smallest"] is not None:
            axes.plot([factor * claim["smallest"]] * 2, [place - 0.38, place + 0.38], color=SMALLEST, lw=1)
        axes.plot([factor * claim["threshold"]] * 2, [place - 0.38, place + 0.38], color="black", lw=1)
        axes.plot(factor * claim["effect"], place, ls="", markersize=5.5, **look)
    axes.set_ylim(len(claims) - 0.4, -0.6)
    axes.set_yticks(range(len(claims)), [f"{claim['sentence']}  [{study}]" for study, claim in claims])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#dddddd", lw=0.6)
    for place in range(1, len(claims), 2):  # the eye finds its way from a sentence to its interval
        axes.axhspan(place - 0.5, place + 0.5, color="#f5f5f5", zorder=0, lw=0)
    if unit in LINEAR:
        axes.set_xscale("symlog", linthresh=LINEAR[unit])
        axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.04)
    axes.set_xlabel(f"effect, {unit}")


def _legend(figure: Any, verdicts: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], lw=1.8, markersize=5.5, label=f"{name} ({verdicts.count(name)})", **look)
        for name, look in LOOKS.items()
    ]
    strokes = {"black": "replicated: all above", SMALLEST: "not replicated: all below this one, if drawn"}
    handles += [Line2D([], [], color=c, marker="|", ls="", markersize=9, label=label) for c, label in strokes.items()]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles), frameon=False)


def saved(figure: Any) -> str:
    """The figure as SVG on white, the same bytes at every call."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
