"""Matplotlib's figures as SVG that takes its colours and fonts from the page it stands on (light, dark, print)."""

import hashlib
import io
import re
from typing import Any

# Stand-ins: matplotlib draws in these, `as_svg` writes the page's colours in their place. The page's series are close to
# Okabe and Ito's, which colour-blind readers can tell apart; markers differ too.
INK, SOFT, LINE, LIMIT = "#010101", "#010102", "#010103", "#010104"
SERIES = ("#010111", "#010112", "#010113", "#010114", "#010115")
MARKERS = ("o", "s", "D", "^", "v")
ON_PAGE = {INK: "--ink", SOFT: "--soft", LINE: "--line", LIMIT: "--limit"} | {
    c: f"--series-{i}" for i, c in enumerate(SERIES, 1)
}

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "illada_lab",
    "text.parse_math": False,
    "font.size": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": SOFT,
    "axes.linewidth": 0.7,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "lines.linewidth": 1.6,
    "axes.spines.top": False,
}


def style() -> Any:
    """Inside, matplotlib draws in the page's look."""
    import matplotlib

    return matplotlib.rc_context(STYLE)  # type: ignore[arg-type]


def canvas(width: float, height: float) -> tuple[Any, Any]:
    """A figure in inches, without pyplot: a notebook's own backend and open figures stay as they are."""
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.add_subplot()


def plain_numbers(axis: Any) -> None:
    """0.5, 1, 2 instead of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def as_svg(figure: Any, name: str) -> str:
    """SVG for inside a page: no metadata, no style of its own, no id twice on it, the page's fonts and colours."""
    from xml.sax.saxutils import quoteattr

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    # 1. Without what only a file of its own needs: half of the bytes.
    for needless in (
        r"<metadata>.*?</metadata>",
        r"<style.*?</style>",
        r"<!--.*?-->",
        r' transform="rotate\(-?0 [^"]*"',
    ):
        text = re.sub(needless, "", text, flags=re.S)
    text = re.sub(r"\s*font-family:[^;\"]*;?", "", text[text.index("<svg") :])
    text = re.sub(r'<g id="[^"]*"', "<g", text.replace("xlink:href", "href"))
    text = re.sub(r' (d|x|y|transform)="[^"]*"', lambda found: re.sub(r"(?<=\d\.\d\d)\d+", "", found[0]), text)
    text = re.sub(r"(?<=>)\s*\n\s*(?=<)|<defs>\s*</defs>", "", text)
    text = re.sub(r"\n(?=[LMCQz\"])", "", text)
    # 2. Clip paths and markers are found by their ids, which must be another figure's nowhere.
    own = hashlib.sha256((name + text).encode()).hexdigest()[:6]
    text = re.sub(r'( id="| href="#|url\(#)', lambda found: found[0] + own, text)
    # 3. The page's colours.
    for stand_in, variable in ON_PAGE.items():
        text = text.replace(stand_in, f"var({variable})")
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None, "matplotlib's SVG has a viewBox"
    return f'<svg {box[0]} role="img" aria-label={quoteattr(name)}>' + text[text.index(">") + 1 :]
