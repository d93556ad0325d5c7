"""Traces of generations as files (JSON Lines), and where two of them part.

The first line describes the run, every other line one revealed token, or one that became a mask again (revisiting: token, runner_up
and both confidences are null):

    {"format": "illada_lab trace", "version": 2, "rows": [...], "text": {"9": "ada", ...}, "mask": "▢", ...}
    {"step": 1, "row": 0, "position": 3, "token": 9, "confidence": 0.98, "runner_up": 11, "runner_up_confidence": 0.01, "nfe": 1}

- `rows`: for each row `prompt` (token ids), `start` (the response before the first step: ids, null for masks), `stop_reason`, `nfe`.
- `text`: what the ids of the file look like.
- further keys say how the run was made (sampler, checkpoint, seed, command).
- `position` counts from 0 at the first token behind the prompt; `step` counts the passes of the batch; `nfe` those of the row so far.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from illada_lab.files import write_text
from illada_lab.models.protocol import Predictor
from illada_lab.samplers.canvas import Flags, Rows, as_rows
from illada_lab.samplers.result import Sampled

FORMAT, VERSION = "illada_lab trace", 2
RECORD = ("step", "row", "position", "token", "confidence", "runner_up", "runner_up_confidence", "nfe")


@dataclass
class Trace:
    """What was revealed when.

    Attributes:
        rows: see the module's description.
        records: one per revealed token, in the order of revealing, and one per token that became a mask again.
        text: id -> what it looks like.
        about: how the run was made.
    """

    rows: list[dict[str, Any]]
    records: list[dict[str, Any]]
    text: dict[int, str] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    def show(self, token: int | None) -> str:
        """What an id looks like; None: a mask."""
        return "▢" if token is None else self.text.get(token, str(token))

    def steps(self, row: int) -> list[list[dict[str, Any]]]:
        """Records of a row, grouped by step; steps in which the row did not move are left out."""
        own = sorted((r for r in self.records if r["row"] == row), key=lambda r: r["step"])
        return [list(group) for _, group in groupby(own, key=lambda r: r["step"])]


@dataclass(frozen=True)
class Parting:
    """Where two traces part: the first step, and in it the first position, at which they reveal something different.

    Attributes:
        row: row of both.
        step: number of the row's step, counted from 1 over the steps in which it moved.
        position: place in the response.
        tokens: what each reveals there at that step; None: nothing yet.
        confidences: how sure each was, or None.
        has_same_end: whether the finished rows are equal all the same.
    """

    row: int
    step: int
    position: int
    tokens: tuple[int | None, int | None]
    confidences: tuple[float | None, float | None]
    has_same_end: bool


def trace_of(
    sampled: Sampled,
    predictor: Predictor,
    prompt: Rows,
    is_valid: Flags | None = None,
    text: Callable[[int], str] = str,
    **about: Any,
) -> Trace:
    """The trace of a sampler's result.

    Args:
        sampled: made with `has_trace`.
        predictor: for its [MASK] id.
        prompt: what the sampler was given; a text with masks for `Infill`.
        is_valid: what the sampler was given.
        text: id -> text.
        about: how the run was made.
    """
    prompt, is_valid = as_rows(prompt, is_valid, predictor)
    mask, is_infill = predictor.tokens.mask, bool((prompt == predictor.tokens.mask).any())
    rows = []
    for n, ids in enumerate(prompt.tolist()):
        kept = ids if is_valid is None else [i for i, ok in zip(ids, is_valid[n].tolist(), strict=True) if ok]
        width = sampled.tokens.shape[1] - len(ids)
        rows.append(
            {
                "prompt": [] if is_infill else kept,
                "start": [None if i == mask else i for i in ids] if is_infill else [None] * width,
                "stop_reason": sampled.stop_reasons[n],
                "nfe": int(sampled.nfe[n]),
            }
        )
    return with_text(Trace(rows, sampled.trace, about=about), text)


def with_text(trace: Trace, text: Callable[[int], str]) -> Trace:
    """The same with what its ids look like."""
    ids = {r[name] for r in trace.records for name in ("token", "runner_up") if r[name] is not None}
    ids |= {i for row in trace.rows for i in [*row["prompt"], *row["start"]] if i is not None}
    return Trace(trace.rows, trace.records, {i: text(i) for i in sorted(ids)}, trace.about)


def write_trace(path: str | Path, trace: Trace) -> Path:
    """Write a trace file, all of it or nothing; returns its path."""
    text = {str(i): shown for i, shown in trace.text.items()}
    head = {"format": FORMAT, "version": VERSION, **trace.about, "mask": "▢", "rows": trace.rows, "text": text}
    return write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in (head, *trace.records)))


def read_trace(path: str | Path) -> Trace:
    """Read a trace file.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no trace, or a line of it is damaged; names the line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"trace = {path}; no such file; one that illada-lab sample trace=<file> has written")
    found: list[dict[str, Any]] = []
    # Not splitlines: the text of a token may be another character that ends lines.
    lines = path.read_text("utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines if lines[-1] else lines[:-1], 1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            why = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
            raise ValueError(f"trace = {path}; line {number} is not JSON ({why}); write it again") from error
        wanted = ("format", "rows") if number == 1 else RECORD
        if not isinstance(value, dict) or any(name not in value for name in wanted):
            raise ValueError(f"trace = {path}; line {number} lacks one of {', '.join(wanted)}; a file of {FORMAT}")
        if (
            problem := _problem_of_head(value) if number == 1 else _problem_of_record(value, found[0]["rows"])
        ) is not None:
            raise ValueError(f"trace = {path}; line {number}: {problem}; a file of {FORMAT}, version {VERSION}")
        found.append(value)
    if not found:
        raise ValueError(
            f"trace = {path}; is empty, not a trace this version reads; a file of {FORMAT}, version {VERSION}"
        )
    head, *records = found
    text = {int(i): shown for i, shown in head.pop("text", {}).items()}
    about = {k: v for k, v in head.items() if k not in ("format", "version", "mask", "rows")}
    return Trace(head["rows"], records, text, about)


def _problem_of_head(head: dict[str, Any]) -> str | None:
    """What is wrong with the first line."""
    version, rows, text = head.get("version", 0), head["rows"], head.get("text", {})
    if head["format"] != FORMAT or not _is_count(version) or version > VERSION:
        return f"format = {head['format']!r}, version = {version!r}: not a trace this version reads"
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return "rows; not a list of objects"
    for n, row in enumerate(rows):
        if lacking := [name for name in ("prompt", "start", "stop_reason", "nfe") if name not in row]:
            return f"rows[{n}] lacks {lacking[0]}"
        if not isinstance(row["prompt"], list) or not all(_is_count(i) for i in row["prompt"]):
            return f"rows[{n}].prompt; not a list of token ids"
        if not isinstance(row["start"], list) or not all(i is None or _is_count(i) for i in row["start"]):
            return f"rows[{n}].start; not a list of token ids and nulls"
    if not isinstance(text, dict) or not all(i.isdecimal() and isinstance(shown, str) for i, shown in text.items()):
        return "text; not an object of token ids and what they look like"
    return None


def _problem_of_record(record: dict[str, Any], rows: list[Any]) -> str | None:
    """What is wrong with another line."""
    taken_back = ("token", "confidence", "runner_up", "runner_up_confidence") if record["token"] is None else ()
    for name in RECORD:
        is_share = name.endswith("confidence")
        value = record[name]
        if value is None and name in taken_back:
            continue
        if not (isinstance(value, int | float) and not isinstance(value, bool) if is_share else _is_count(value)):
            return f"{name} = {value!r}; not a {'number' if is_share else 'whole number from 0'}"
    return None if record["row"] < len(rows) else f"row = {record['row']}; the file has {len(rows)} rows"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def partings(one: Trace, other: Trace) -> list[Parting]:
    """Where each row of two traces parts first; rows that are alike are left out.

    Numbers are not compared: a cache, another precision or another batch changes confidences in the last digits everywhere.

    Raises:
        ValueError: different numbers of rows, or different prompts.
    """
    if len(one.rows) != len(other.rows):
        raise ValueError(f"rows = {len(one.rows)} and {len(other.rows)}; not the same prompts; traces of one batch")
    for n, (a, b) in enumerate(zip(one.rows, other.rows, strict=True)):
        if a["prompt"] != b["prompt"] or [i for i in a["start"] if i is not None] != [
            i for i in b["start"] if i is not None
        ]:
            raise ValueError(f"rows[{n}].prompt; differs between the traces; traces of one batch")
    found = (_parting(one.steps(n), other.steps(n), n) for n in range(len(one.rows)))
    return [parting for parting in found if parting is not None]


def _parting(one: Sequence[Iterable[Any]], other: Sequence[Iterable[Any]], row: int) -> Parting | None:
    ends = [{r["position"]: r["token"] for step in steps for r in step} for steps in (one, other)]
    for number in range(max(len(one), len(other))):
        a, b = ({r["position"]: r for r in steps[number]} if number < len(steps) else {} for steps in (one, other))
        for position in sorted(set(a) | set(b)):
            pair = (a.get(position), b.get(position))
            tokens = tuple(None if r is None else r["token"] for r in pair)
            if tokens[0] != tokens[1]:
                sure = tuple(None if r is None else r["confidence"] for r in pair)
                return Parting(row, number + 1, position, tokens, sure, ends[0] == ends[1])  # type: ignore[arg-type]
    return None
