"""Figures of the report: losses by step and by masked share, of one run or of several."""

import itertools
from collections.abc import Sequence
from typing import Any

from illada_lab.report.page_svg import LIMIT, MARKERS, SERIES, SOFT, as_svg, canvas, plain_numbers, style

LN2 = 0.6931471805599453
# Runs beside each other: as many colours as the page has, each with a full line and a broken one.
LINE_STYLES = ("-", (0, (4, 1.5)))
MOST_RUNS = len(SERIES) * len(LINE_STYLES)

# A training loss has a point every few steps, more than a figure of this width can show.
MAX_POINTS = 240


def binned(points: Sequence[tuple[Any, Any]], n: int = MAX_POINTS) -> tuple[list[tuple[float, float]], int]:
    """Means of equally many points in a row, so that at most `n` are left.

    Args:
        points: (step, loss), in order.
        n: at most so many.

    Returns:
        (mean step, mean loss) of each group, and how many points a group has.
    """
    size = max(1, -(-len(points) // n))
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups], size


def loss_figure(stage: dict[str, Any], kind: str | None, limits: tuple[float, float]) -> str:
    """Loss of one kind of text over a stage, with the true entropy: the limit that no model can pass.

    Args:
        stage: an entry of `stages` of the results.
        kind: of the validation curve; None: training loss alone. The training loss is of all kinds together, so
            it stands with "all" or by itself.
        limits: of the loss axis, nats per token, the same for all figures of a stage.
    """
    figure, axes = canvas(4.5, 3.0)
    with style():
        axes.set_yscale("log")
        axes.set_ylim(*limits)
        if kind in (None, "all"):
            train, size = binned(
                [(r["step"], r["loss"]) for r in stage.get("train_curve") or () if r.get("loss") is not None]
            )
            if train:
                label = "training loss" + (f" (mean of {size} values)" if size > 1 else "")
                axes.plot(*zip(*train, strict=True), color=SOFT, lw=0.8, alpha=0.75, label=label)
        points = [
            r for r in stage.get("validation_curve") or () if r["kind"] == kind and r.get("nelbo_per_token") is not None
        ]
        if points:
            steps, values = [r["step"] for r in points], [r["nelbo_per_token"] for r in points]
            around = [1.96 * (r.get("stderr") or 0) for r in points]
            low = [max(v - a, limits[0] / 2) for v, a in zip(values, around, strict=True)]
            high = [v + a for v, a in zip(values, around, strict=True)]
            axes.fill_between(steps, low, high, color=SERIES[0], alpha=0.18, lw=0)
            axes.plot(steps, values, color=SERIES[0], marker="o", ms=3, label="bound on held-out text")
        _draw_usual(axes, points, limits)
        no_context = (stage.get("landmarks") or {}).get("no_context")
        if no_context and limits[0] < no_context < limits[1] and kind in (None, "all"):
            axes.axhline(no_context, color=SOFT, lw=0.9, ls=(0, (1, 2)))
            text = f"token frequencies without context, {no_context:.2f}"
            _write_below(axes, text, no_context, 0.985, ha="right", fontsize=8, color=SOFT)
        entropy = (stage.get("entropy_per_token") or {}).get(kind or "all")
        if entropy:
            _draw_entropy(axes, entropy, limits)
        axes.set(xlabel="optimiser step", ylabel="nats per token")
        axes.set_xlim(left=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
        bits = axes.secondary_yaxis("right", functions=(_to_bits, _to_nats))
        bits.set_ylabel("bits per token")
        bits.grid(False)
        for axis in (axes.yaxis, bits.yaxis):
            plain_numbers(axis)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="best", borderaxespad=0.2, handlelength=1.6)
        name = f"{stage['name']}, {kind or 'training'}: loss by step, against the true entropy"
        return as_svg(figure, name)


def _draw_usual(axes: Any, points: Sequence[dict[str, Any]], limits: tuple[float, float]) -> None:
    """Where other seeds are expected, as a band, from the first point to the last of which that is known."""
    known = [r for r in points if r.get("usual_low") is not None]
    if not known:
        return
    n = known[-1].get("n_recorded")
    ends = [[max(r["usual_low"], limits[0] / 2) for r in known], [r["usual_high"] for r in known]]
    label = "usual (95 % of other seeds" + (f", by {n} recorded runs)" if n else ")")
    axes.fill_between([r["step"] for r in known], *ends, color=SERIES[2], alpha=0.2, lw=0, label=label)


def _write_below(axes: Any, text: str, height: float, place: float, **look: Any) -> None:
    """Write under a horizontal line at `height`, beginning or ending at `place` of the width, 0 to 1."""
    axes.annotate(
        text, (place, height), (0, -3), xycoords=("axes fraction", "data"), textcoords="offset points", va="top", **look
    )


def overlay_figure(
    stages: Sequence[dict[str, Any]], kind: str, limits: tuple[float, float], *, has_legend: bool = True
) -> str:
    """Bounds on one kind of held-out text of several runs; by step, or by tokens where their steps are not equally large.

    Args:
        stages: entries of `stages` of the results, at most `MOST_RUNS`.
        kind: of the validation curve; with "all" the training losses are drawn too, faintly.
        limits: of the loss axis, nats per token.
        has_legend: tell which run is which.
    """
    figure, axes = canvas(4.5, 3.0)
    with style():
        axes.set_yscale("log")
        axes.set_ylim(*limits)
        sizes = [stage.get("tokens_per_step") for stage in stages]
        drawn: list[Any] = []
        known = [size for size in sizes if size is not None]
        is_by_tokens = len(known) == len(stages) and max(known) > 1.05 * min(known)
        for place, stage in enumerate(stages):
            scale = known[place] if is_by_tokens else 1
            look = {"color": SERIES[place % len(SERIES)], "ls": LINE_STYLES[place // len(SERIES)]}
            if kind == "all":
                train, _ = binned([(r["step"], r["loss"]) for r in stage.get("train_curve") or () if r.get("loss")])
                axes.plot([scale * x for x, _ in train], [y for _, y in train], **look, lw=0.7, alpha=0.35)
            points = [
                (scale * r["step"], r["nelbo_per_token"])
                for r in stage.get("validation_curve") or ()
                if r["kind"] == kind and r.get("nelbo_per_token") is not None
            ]
            drawn += axes.plot(*zip(*points, strict=True), **look, marker=MARKERS[place % len(MARKERS)], ms=3)
        entropies = {(stage.get("entropy_per_token") or {}).get(kind) for stage in stages}
        if len(entropies) == 1 and (entropy := entropies.pop()):
            _draw_entropy(axes, entropy, limits)
        axes.set(xlabel="training tokens" if is_by_tokens else "optimiser step", ylabel="nats per token")
        axes.set_xlim(left=0)
        if is_by_tokens:
            from matplotlib.ticker import EngFormatter

            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.spines["right"].set_visible(False)
        plain_numbers(axes.yaxis)
        if has_legend:
            # Handles and names as they are: matplotlib leaves out names that begin with an underscore.
            names = [stage["name"] for stage in stages]
            axes.legend(drawn, names, loc="best", borderaxespad=0.2, handlelength=2.2, ncols=1 + (len(stages) > 5))
        return as_svg(figure, f"{kind}: loss of {len(stages)} runs")


def _draw_entropy(axes: Any, entropy: float, limits: tuple[float, float]) -> None:
    """The limit that no model can pass, as a line with its name."""
    axes.axhspan(limits[0], entropy, color=LIMIT, alpha=0.07, lw=0)
    axes.axhline(entropy, color=LIMIT, lw=1.2, ls=(0, (5, 2)))
    text = f"true entropy: the physical limit, {entropy:.3f}"
    _write_below(axes, text, entropy, 0.015, ha="left", fontsize=8.5, color=LIMIT)


def loss_limits(stage: dict[str, Any]) -> tuple[float, float]:
    """Loss axis of a stage, from well below the lowest entropy (room for its label) to above the first loss (the legend).

    Args:
        stage: an entry of `stages` of the results.

    Returns:
        Both ends in nats per token.
    """
    train = [r["loss"] for r in stage.get("train_curve") or () if (r.get("loss") or 0) > 0]
    bounds = [r["nelbo_per_token"] for r in stage.get("validation_curve") or () if (r.get("nelbo_per_token") or 0) > 0]
    entropies = [e for e in (stage.get("entropy_per_token") or {}).values() if e and e > 0]
    # One training value in a hundred is an outlier of a small t: not what the axis is for.
    usual = sorted(train)[len(train) // 100 :]
    everything = [*usual, *bounds, *entropies] or [1.0]
    return 0.62 * min(everything), 1.6 * max(everything)


def time_figure(bins: list[dict[str, Any]], name: str) -> str:
    """Bound per token by masked share t, with 95 % intervals: where in t the loss sits.

    Args:
        bins: `t_bins` of a stage.
        name: what the figure is called for a reader who does not see it.
    """
    figure, axes = canvas(6.6, 2.7)
    kinds = list(dict.fromkeys(b.get("kind") for b in bins))
    with style():
        look = itertools.cycle(zip(SERIES, MARKERS, strict=True))
        for place, (kind, (colour, marker)) in enumerate(zip(kinds, look, strict=False)):
            chosen = [b for b in bins if b.get("kind") == kind and b.get("loss") is not None]
            width = min([b["t_high"] - b["t_low"] for b in chosen], default=0.1)
            # Kinds stand side by side inside their bin.
            shift = width * 0.6 * ((place + 1) / (len(kinds) + 1) - 0.5)
            middle = [(b["t_low"] + b["t_high"]) / 2 + shift for b in chosen]
            loss = [b["loss"] for b in chosen]
            below = [max(0.0, b["loss"] - (b["ci_low"] if b.get("ci_low") is not None else b["loss"])) for b in chosen]
            above = [
                max(0.0, (b["ci_high"] if b.get("ci_high") is not None else b["loss"]) - b["loss"]) for b in chosen
            ]
            axes.errorbar(
                middle,
                loss,
                yerr=[below, above],
                color=colour,
                marker=marker,
                ms=4,
                lw=1,
                elinewidth=1.2,
                capsize=2.5,
                label=kind,
            )
        if len(kinds) > 1:
            axes.legend(loc="upper left", ncols=len(kinds), borderaxespad=0.2)
        axes.set(xlabel="masked share t", ylabel="bound, nats per token", xlim=(0, 1))
        axes.set_ylim(bottom=0)
        axes.spines["right"].set_visible(False)
        return as_svg(figure, name)


def _to_bits(nats: Any) -> Any:
    return nats / LN2


def _to_nats(bits: Any) -> Any:
    return bits * LN2
