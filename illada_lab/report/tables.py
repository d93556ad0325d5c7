"""Evaluation rows for the terminal and for the page: one way of writing numbers for both."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from illada_lab.student_t import place

ABSENT = "–"
Number = int | float  # JSON writes 1.0 and 1 alike


def quantity(value: Number | None, unit: str | None = None) -> str:
    """A share as percent; with a unit, the number and the unit.

    >>> quantity(0.973), quantity(1.2345, "nats/token"), quantity(None)
    ('97.3 %', '1.234 nats/token', '–')
    """
    if value is None:
        return ABSENT
    return f"{100 * value:.1f} %" if unit is None else f"{value:.4g} {unit}"


def interval(low: Number | None, high: Number | None, unit: str | None = None) -> str:
    """Both ends of an interval; the unit once."""
    if low is None or high is None:
        return ABSENT
    return f"{100 * low:.1f} to {100 * high:.1f} %" if unit is None else f"{low:.4g} to {high:.4g} {unit}"


def effect_text(claim: dict[str, Any]) -> str:
    """Mean and interval of a claim's effect, with its unit: shares in points.

    >>> effect_text({"effect": 0.031, "ci_low": 0.012, "ci_high": 0.05, "unit": "points"})
    '+3.1 (+1.2 to +5.0) points'
    """
    scale, digits = (100, ".1f") if claim["unit"] == "points" else (1, ".3g")
    low, high = claim.get("ci_low"), claim.get("ci_high")
    around = "" if low is None or high is None else f" ({scale * low:+{digits}} to {scale * high:+{digits}})"
    return f"{scale * claim['effect']:+{digits}}{around} {claim['unit']}"


def duration(seconds: Number | None) -> str:
    """Seconds as a person says them.

    >>> duration(7.25), duration(551.6), duration(7300)
    ('7.2 s', '9 min 12 s', '2 h 2 min')
    """
    if seconds is None:
        return ABSENT
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def whole_time(manifest: dict[str, Any]) -> str:
    """How long the main job took; of one that went on from an earlier call, its last part."""
    return duration(manifest["seconds"]) + (" (the last part)" if manifest.get("is_continued") else "")


def verdict(row: dict[str, Any]) -> str:
    """A row against its target.

    Returns:
        "reached", "missed", "open" where the target is missed but inside the interval, "" without a target.
    """
    value, target = row.get("value"), row.get("target")
    if value is None or target is None:
        return ""
    if value >= target:
        return "reached"
    return "open" if (row.get("ci_high") or value) >= target else "missed"


def row_view(row: dict[str, Any]) -> dict[str, Any]:
    """A row as text, with the places of its marks on a scale from 0 to 100 where it is a share."""
    unit = row.get("unit")
    marks = {key: row.get(key) for key in ("value", "ci_low", "ci_high", "chance", "target")}
    has_scale = unit is None and marks["value"] is not None
    return {
        "task": row["task"],
        "metric": row["metric"],
        "value": quantity(row.get("value"), unit),
        "interval": interval(row.get("ci_low"), row.get("ci_high"), unit),
        "n": ABSENT if row.get("n") is None else f"{row['n']:,}",
        "chance": quantity(row.get("chance"), unit),
        "target": "" if row.get("target") is None else f"≥ {quantity(row['target'], unit)}",
        "verdict": verdict(row),
        "note": row.get("note") or "",
        "marks": {k: None if v is None else min(100.0, max(0.0, 100 * v)) for k, v in marks.items()}
        if has_scale
        else None,
    }


def bound_line(kind: str, row: Mapping[str, Any], entropy: Number | None = None) -> str:
    """A bound on held-out text in a line: in nats and bits, beside the entropy and beside recorded runs where these are known.

    Args:
        kind: of text.
        row: `nelbo_per_token`, `stderr` (nats/token) and, where known, `bits_per_byte`, `usual_low`, `usual_high`, `n_recorded`.
        entropy: of the same text, nats/token.
    """
    bound = row["nelbo_per_token"]
    line = f"{kind:8} {bound:.4f} +- {1.96 * row['stderr']:.4f} nats/token (95 %), {bound / math.log(2):.3f} bits/token"
    if row.get("bits_per_byte") is not None:
        line += f", {row['bits_per_byte']:.3f} bits/byte"
    if entropy:
        line += f"; true entropy {entropy:.4f}, {bound / entropy - 1:+.1%}"
    if row.get("usual_low") is not None:
        low, high, n = row["usual_low"], row["usual_high"], row["n_recorded"]
        line += f"; {place(bound, low, high)} ({low:.3f} to {high:.3f} by {n} recorded runs)"
    return line


def bound_row(kind: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """A bound as a row of evaluations has it.

    Args:
        kind: of text.
        row: see `bound_line`.
    """
    bound, around = row["nelbo_per_token"], 1.96 * row["stderr"]
    ends = {"ci_low": bound - around, "ci_high": bound + around}
    return {"task": kind, "metric": "bound", "value": bound, **ends, "unit": "nats/token"}


def bound_warnings(history: Sequence[Mapping[str, Any]], landmarks: Mapping[str, float]) -> list[str]:
    """What is wrong with the last bound on all held-out text, where something is: one line each.

    Args:
        history: bounds on all text by step: `step`, `nelbo_per_token`, `stderr`, in order.
        landmarks: `uniform` and `no_context`, nats/token (see `training.assemble.landmarks`).
    """
    if not history:
        return []
    last, found = history[-1], []
    bound = last["nelbo_per_token"]
    if bound > landmarks.get("uniform", math.inf):
        found.append(f"! {bound:.3f} nats/token is more than a uniform guess has ({landmarks['uniform']:.3f})")
    elif bound > landmarks.get("no_context", math.inf):
        found.append(
            f"! {bound:.3f} nats/token is more than token frequencies without context have ({landmarks['no_context']:.3f}): little has "
            "been learnt yet"
        )
    best = min(history, key=lambda row: row["nelbo_per_token"])
    # Three standard errors of one bound: the masks are the same at every step, so the difference scatters less.
    if bound > best["nelbo_per_token"] + 3 * last["stderr"]:
        found.append(
            f"! held-out text had {best['nelbo_per_token']:.3f} nats/token at step {best['step']} and has {bound:.3f} now: too many "
            "epochs for so little text, or a rate that is too high"
        )
    return found


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """Print evaluation rows: value, 95 % interval, chance, target."""
    _print([], [([], row) for row in rows])


def print_sweep(jobs: Sequence[tuple[str, Sequence[dict[str, Any]]]]) -> None:
    """Print the evaluation rows of several jobs: what can be compared stands together, in the order of the jobs.

    Args:
        jobs: each one's name and rows.
    """
    alike: dict[tuple[str, str], list[tuple[list[str], dict[str, Any]]]] = {}
    for job, rows in jobs:
        for row in rows:
            alike.setdefault((row["task"], row["metric"]), []).append(([job], row))
    _print(["job"], [line for lines in alike.values() for line in lines])


def _print(names: Sequence[str], lines: Sequence[tuple[Sequence[str], dict[str, Any]]]) -> None:
    """A table of rows, with columns of one's own before the value."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in ("task", "metric", *names):
        table.add_column(name, overflow="fold")
    for name in ("value", "95 % interval", "n", "chance", "target"):
        table.add_column(name, justify="right")
    for own, row in lines:
        view = row_view(row)
        words = [
            view["task"],
            view["metric"],
            *own,
            *(view[key] for key in ("value", "interval", "n", "chance", "target")),
        ]
        # As Text: a task named "[x]" is no markup of rich.
        table.add_row(*map(Text, words))
    Console(width=110, highlight=False).print(table)
