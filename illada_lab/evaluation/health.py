"""The health panel of a generation run: what to look at before believing a score."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from illada_lab.evaluation.generation import Generated
from illada_lab.tokens import SpecialTokens

# Of small pictures: shares in eighths, and where nothing is known.
BARS, GAP = "▁▂▃▄▅▆▇█", "·"
# What tokens smaller than words loop in: eight equal pieces in a row, but for the signs of a drawn line.
PIECES = re.compile(r"(?!([-=_.*#~])\1{7})(\S{1,12}?)\2{7,}")


def health(
    generations: Sequence[Generated], seconds: float, tokens: SpecialTokens, *, may_fill: bool = False
) -> list[dict[str, Any]]:
    """What to look at before believing a score: stop reasons, empty answers, where and when EOS comes, loops, cost.

    Args:
        generations: answers; EOS is looked up in their traces.
        seconds: for all of them.
        tokens: the model's special tokens.
        may_fill: whether to fill the budget is no fault, as of the texts of a base model.

    Returns:
        Rows of name, value, note, is_warning.

    Source: our choice, from the threads that fill the field's issue lists ("most answers are nothing but EOS").
    """
    n = max(1, len(generations))
    reasons = Counter(g.stop_reason for g in generations)
    filled = reasons["length"] / n
    empty = sum(g.n_tokens == 0 or not g.text.strip() for g in generations) / n
    looped = sum(_loops(g.text) for g in generations) / n
    written = sum(g.n_tokens for g in generations)
    passes = sum(g.nfe for g in generations)
    shares = eos_shares(generations, tokens)
    empty_note = (
        "nothing but EOS or blanks; above 20 % the model has learnt EOS as padding, or is not asked in its own format"
    )
    if empty > 0.5:
        empty_note = "most answers are EOS or blanks only: try a chat format, blocks, defer_eos=true, or fine-tuning without EOS padding"
    return [
        {"name": "stop reasons", "value": ", ".join(f"{reason} {count / n:.1%}" for reason, count in reasons.most_common()),
         "note": "length: the budget was filled; max_length or response_length of the sampler",
         "is_warning": filled > 0.5 and not may_fill},
        {"name": "empty answers", "value": f"{empty:.1%}", "note": empty_note, "is_warning": empty > 0.2},
        {"name": "EOS by position", "value": _series(shares["by_position"]),
         "note": "share of EOS among what was revealed, from the first tenth of the positions to the last", "is_warning": False},
        {"name": "EOS by step", "value": _series(shares["by_step"]),
         "note": "the same from the first tenth of the steps to the last; EOS first: the length is decided before the words",
         "is_warning": False},
        {"name": "answers with a loop", "value": f"{looped:.1%}", "note": "three equal words or phrases in a row, or eight equal pieces",
         "is_warning": looped > 0.1},
        {"name": "passes per answer", "value": f"{passes / n:.1f}", "note": "predictor passes (NFE)", "is_warning": False},
        {"name": "tokens per answer", "value": f"{written / n:.1f}", "note": "without the end token", "is_warning": False},
        {"name": "tokens per second", "value": f"{written / max(seconds, 1e-9):.0f}", "note": "all answers together",
         "is_warning": False},
    ]  # fmt: skip


def panel(rows: Sequence[dict[str, Any]]) -> str:
    """The panel for the terminal: a line per row, with its note where it warns or the value is a picture."""
    width = max(map(len, (row["name"] for row in rows)), default=0)
    lines = [
        f"{'!' if row['is_warning'] else ' '} {row['name']:{width}}  {row['value']}"
        + (f"  ({row['note']})" if row["is_warning"] or row["value"][:1] in BARS + GAP else "")
        for row in rows
    ]
    return "\n".join(["health", *lines])


def eos_shares(
    generations: Sequence[Generated], tokens: SpecialTokens, n_bins: int = 10
) -> dict[str, list[float | None]]:
    """Share of end tokens among what was revealed, by place in the response and by step of the row.

    Args:
        generations: with traces; those without count for nothing.
        tokens: whose `stop_ids` are meant.
        n_bins: bins from the first position (step) of each row to its last.

    Returns:
        by_position, by_step: a share per bin, None where nothing was revealed.
    """
    counts = {name: [[0, 0] for _ in range(n_bins)] for name in ("position", "step")}
    for g in generations:
        for name, bins in counts.items():
            revealed = [record for record in g.trace if record["token"] is not None]  # not what became a mask again
            values = [record[name] for record in revealed]
            low, span = min(values, default=0), max(values, default=0) + 1 - min(values, default=0)
            for record in revealed:
                cell = bins[(record[name] - low) * n_bins // span]
                cell[0] += record["token"] in tokens.stop_ids
                cell[1] += 1
    return {f"by_{name}": [a / n if n else None for a, n in bins] for name, bins in counts.items()}


def _series(shares: Sequence[float | None]) -> str:
    """Shares as one line of small bars and the numbers at its ends."""
    known = [share for share in shares if share is not None]
    if not known:
        return "no trace"
    bars = "".join(GAP if share is None else BARS[min(7, int(share * 8))] for share in shares)
    return f"{bars} {known[0]:.0%} to {known[-1]:.0%}"


def _loops(text: str) -> bool:
    """The same one to four words three times in a row, or inside of a word (or a script without spaces) the same piece eight times."""
    words = text.split()
    return any(PIECES.search(word) for word in words) or any(
        words[i : i + k] == words[i + k : i + 2 * k] == words[i + 2 * k : i + 3 * k]
        for k in range(1, 5)
        for i in range(len(words) - 3 * k + 1)
    )
