"""Figures of the report: matplotlib, as SVG text."""

import io
from typing import Any

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = {"story": "#0072B2", "fact": "#D55E00", "sum": "#009E73", "all": "#444444"}
OTHER_COLOURS = ("#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
LN2 = 0.6931471805599453


def loss_curve(stage: dict[str, Any]) -> str:
    """Training loss, validation bounds and, as horizontal lines, the true entropy: the limit no model can pass.

    Args:
        stage: an entry of `stages` of the results.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    figure, axes = plt.subplots(figsize=(7.4, 3.6), layout="constrained")
    train = stage["train_curve"]
    axes.plot([r["step"] for r in train], [r["loss"] for r in train], color="#bbbbbb", lw=0.8, label="training loss")
    kinds = list(dict.fromkeys(r["kind"] for r in stage["validation_curve"]))
    shown = [k for k in kinds if k != "all" or len(kinds) <= 2]
    spare = iter(OTHER_COLOURS * 3)
    for kind in shown:
        colour = COLOURS.get(kind) or next(spare)
        points = [r for r in stage["validation_curve"] if r["kind"] == kind]
        steps, values = [r["step"] for r in points], [r["nelbo_per_token"] for r in points]
        axes.plot(
            steps,
            values,
            color=colour,
            marker="o",
            ms=3,
            lw=1.6,
            label=f"{kind.replace('_', ' ')}, bound on held-out text",
        )
        entropy = stage["entropy_per_token"].get(kind)
        if entropy:
            axes.axhline(entropy, color=colour, ls="--", lw=1)
            axes.annotate(f"{kind}: true entropy {entropy:.3f}", (0.995, entropy), xycoords=("axes fraction", "data"),
                          ha="right", va="top", fontsize=7.5, color=colour)  # fmt: skip
    every = [r["nelbo_per_token"] for r in stage["validation_curve"]] + [r["loss"] for r in train[1:]]
    positive = [v for v in every if v > 0] or [1.0]
    lowest = [e for e in stage["entropy_per_token"].values() if e > 0]
    axes.set_yscale("log")
    axes.set_ylim(0.8 * min([*lowest, *positive]), 1.1 * max(positive))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.set(xlabel="optimiser step", ylabel="nats per token")
    bits = axes.secondary_yaxis("right", functions=(_to_bits, _to_nats))
    bits.set_ylabel("bits per token")
    bits.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    bits.yaxis.set_major_formatter("{x:g}")
    bits.yaxis.set_minor_formatter("")
    axes.legend(fontsize=7.5, frameon=False, loc="upper right")
    return _svg(figure)


def time_bins(bins: list[dict[str, float]]) -> str:
    """Bound per token by masked share, with 95 % intervals: where in t the loss sits."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.4, 2.6), layout="constrained")
    middle = [(b["t_low"] + b["t_high"]) / 2 for b in bins]
    values = [b["loss"] for b in bins]
    errors = [[b["loss"] - b["ci_low"] for b in bins], [b["ci_high"] - b["loss"] for b in bins]]
    axes.bar(middle, values, width=0.09, color="#0072B2", alpha=0.75, yerr=errors, ecolor="#222222", capsize=2)
    axes.set(xlabel="masked share t", ylabel="bound, nats per token", xlim=(0, 1))
    return _svg(figure)


def _svg(figure: Any) -> str:
    import matplotlib.pyplot as plt

    for axes in figure.axes:
        axes.spines[["top"]].set_visible(False)
    buffer = io.StringIO()
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "illada_lab"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _to_bits(nats: Any) -> Any:
    return nats / LN2


def _to_nats(bits: Any) -> Any:
    return bits * LN2
