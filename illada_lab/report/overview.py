"""The picture on the README: a text being written, a loss beside its limit, two figures over seeds; from result files, no run of its own.

python -m illada_lab.report.overview results
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from illada_lab.files import write_text
from illada_lab.report.forest import STYLE, saved
from illada_lab.report.page_svg import plain_numbers
from illada_lab.report.plots import COLOURS, LIMIT, looks
from illada_lab.report.results import read_results
from illada_lab.report.tables import Number

FILE = "overview.svg"
MASK_FACE, NEW, OLD = "#d9d9d9", COLOURS[1], "#222222"
KIND = "story"  # its limit can be reached: nothing of a held-out story was told in training
N_ROWS = 6  # of the text being written


def overview(
    runs: Sequence[dict[str, Any]], epochs: dict[str, Any], repetition: dict[str, Any], n_rows: int = N_ROWS
) -> str:
    """SVG of four panels.

    Args:
        runs: results of the main job, one per seed; the first trace of the first is the text that is written.
        epochs: result of the study `sft_epochs`.
        repetition: result of the study `data_repetition`.
        n_rows: moments at which the text is shown.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE | {"font.size": 9, "axes.titlesize": 9.5, "axes.spines.left": True}):  # type: ignore[arg-type]
        figure = Figure(figsize=(11, 5), layout="constrained")
        rows: Any = figure.subfigures(2, 1, height_ratios=[1, 1.75])
        above, below = rows
        below.get_layout_engine().set(w_pad=0.12, h_pad=0.08)
        _text(above.subplots(), runs[0]["traces"][0], n_rows)
        limit, figure_1, repeated = below.subplots(1, 3)
        _limit(limit, runs)
        _epochs(figure_1, epochs)
        _repeated(repeated, repetition)
        return saved(figure)


def _text(axes: Any, trace: dict[str, Any], n_rows: int) -> None:
    """The canvas at a few moments: masks as grey boxes, what came since the row above in colour."""
    from matplotlib.patches import FancyBboxPatch

    words, records = trace["tokens"], trace["records"]
    step_of = {record["position"]: record["step"] for record in records}
    n_steps = max(step_of.values())
    moments = [round(n_steps * row / (n_rows - 1)) for row in range(n_rows)]
    starts = [sum(len(word) + 1 for word in words[:place]) for place in range(len(words))]
    for row, moment in enumerate(moments):
        before = moments[row - 1] if row else 0
        axes.text(-1.5, row, f"step {moment}", ha="right", va="center", color=LIMIT)
        for place, (word, start) in enumerate(zip(words, starts, strict=True)):
            step = step_of[place]
            if step > moment:
                box = FancyBboxPatch(
                    (start, row - 0.22), len(word), 0.44, boxstyle="round,pad=0,rounding_size=0.2", fc=MASK_FACE, lw=0
                )
                axes.add_patch(box)
            else:
                colour = NEW if step > before else OLD
                middle = start + len(word) / 2
                axes.text(middle, row, word, ha="center", va="center", color=colour, family="monospace", fontsize=7.6)
    axes.set(xlim=(-12, starts[-1] + len(words[-1]) + 1), ylim=(n_rows - 0.4, -0.6))
    axes.set_axis_off()
    title = (
        f"A story, written by revealing masked words ({trace['sampler']}; {trace['model']} model, new words in colour)"
    )
    axes.set_title(title, loc="left")


def _limit(axes: Any, runs: Sequence[dict[str, Any]]) -> None:
    stages = [run["stages"][0] for run in runs]
    for number, stage in enumerate(stages):
        points = [point for point in stage["validation_curve"] if point["kind"] == KIND]
        steps, bound = [p["step"] for p in points], [p["nelbo_per_token"] for p in points]
        label = f"bound on held-out stories, {len(stages)} seeds" if number == 0 else None
        axes.plot(steps, bound, color=COLOURS[0], marker="o", markersize=3, lw=1.2, label=label)
    entropies = [stage["entropy_per_token"][KIND] for stage in stages]
    axes.axhspan(min(entropies), max(entropies), color=LIMIT, lw=1, label="their entropy")
    axes.set(xlabel="step of pre-training", ylabel="nats/token", ylim=(0, None))
    axes.set_title("A loss beside its known limit", loc="left")
    axes.legend(frameon=False)


def _epochs(axes: Any, result: dict[str, Any]) -> None:
    rows = [row for seed in result["seeds"] for row in seed["tables"]["epochs"]]
    for name, look in looks([row["model"] for row in rows]).items():
        own = [row for row in rows if row["model"] == name]
        _mean_line(axes, [(row["epochs"], 100 * row["right"]) for row in own], name, look)
    axes.set(xlabel="epochs of fine-tuning", ylabel="held-out questions right, %", ylim=(0, None))
    axes.set_xticks(sorted({row["epochs"] for row in rows}))
    axes.set_title(f"Figure 1 in miniature, {len(result['seeds'])} seeds", loc="left")
    axes.legend(frameon=False)


def _repeated(axes: Any, result: dict[str, Any]) -> None:
    rows = [row for seed in result["seeds"] for row in seed["tables"]["curves"] if row["data"] == "repeated"]
    names = [name for name in dict.fromkeys(row["model"] for row in rows) if "masked" not in name]
    for name, look in looks(names).items():
        own = [row for row in rows if row["model"] == name]
        _mean_line(axes, [(row["step"], row["loss"]) for row in own], name, look)
    documents = rows[0]["documents"]
    axes.set(xlabel="step", ylabel="held-out nats/token", xscale="log")
    plain_numbers(axes.xaxis)
    axes.set_title(f"{documents} documents, read again and again", loc="left")
    axes.legend(frameon=False)


def _mean_line(axes: Any, points: Sequence[tuple[Number, Number]], name: str, look: dict[str, str]) -> None:
    """Mean of the seeds as a line, every seed as a dot."""
    places = sorted({x for x, _ in points})
    axes.plot(places, [mean(y for x, y in points if x == place) for place in places], label=name, lw=1.6, ms=4, **look)
    axes.plot([x for x, _ in points], [y for _, y in points], ls="", marker=".", ms=3, alpha=0.5, color=look["color"])


def write_overview(folder: Path) -> Path:
    """Write the picture of a folder of results beside its ledger, from the main job's and the studies' files at scale toy."""
    toy = folder / "toy"
    runs = [read_results(path) for path in sorted(toy.glob("reproduce/*.json"))]
    epochs, repetition = (json.loads((toy / f"{name}.json").read_text()) for name in ("sft_epochs", "data_repetition"))
    return write_text(folder / FILE, overview(runs, epochs, repetition))


if __name__ == "__main__":
    print(write_overview(Path(sys.argv[1])))
