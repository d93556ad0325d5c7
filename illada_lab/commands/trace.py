"""`illada-lab trace`: look at traces in the terminal or the browser, and see where two of them part."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from illada_lab.samplers.trace import Trace, partings, read_trace

USES = {
    "show": "trace show FILE [ROW]: the canvas step by step",
    "diff": "trace diff FILE FILE: the first step and position at which two traces part",
    "html": "trace html FILE [PAGE]: a page to step through it",
}


def run(words: Sequence[str]) -> int:
    """Show, compare or render trace files.

    Raises:
        FileNotFoundError, ValueError: see `read_trace` and `partings`.
    """
    name, *files = words or ["?"]
    n_files = {"show": (1, 2), "diff": (2, 2), "html": (1, 2)}.get(name)
    if n_files is None or not n_files[0] <= len(files) <= n_files[1]:
        raise ValueError(f"trace {' '.join(words)}; not a use of it; {'; '.join(USES.values())}")
    if name == "diff":
        return _diff(read_trace(files[0]), read_trace(files[1]), files)
    trace = read_trace(files[0])
    if name == "html":
        page = Path(files[1]) if files[1:] else Path(files[0]).with_suffix(".html")
        if page.resolve() == Path(files[0]).resolve():
            raise ValueError(
                f"page = {page}; the trace itself, which would be lost; another file, such as {page.stem}.html"
            )
        return _page(trace, Path(files[0]), page)
    if files[1:] and not (files[1].isdigit() and int(files[1]) < len(trace.rows)):
        raise ValueError(f"row = {files[1]}; the trace has {len(trace.rows)} rows; 0 to {len(trace.rows) - 1}")
    return _show(trace, [int(files[1])] if files[1:] else range(len(trace.rows)))


def _show(trace: Trace, rows: Sequence[int]) -> int:
    """A line per step: what stands there, the new tokens coloured by how sure they were."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for name, value in trace.about.items():
        console.print(f"{name}: {value}", style="dim", markup=False)
    for row in rows:
        about = trace.rows[row]
        prompt = " ".join(trace.show(i) for i in about["prompt"])
        console.print(f"row {row}: {prompt}", style="bold", markup=False)
        canvas: list[int | None] = list(about["start"])
        for number, records in enumerate(trace.steps(row), 1):
            new = {r["position"]: r for r in records}
            canvas += [None] * (max(new, default=-1) + 1 - len(canvas))
            for position, record in new.items():
                canvas[position] = record["token"]
            line = Text(f"{number:4} {records[-1]['nfe']:4} ")
            for position, token in enumerate(canvas):
                style = "dim" if token is None else _style(new[position]["confidence"]) if position in new else ""
                line.append(_one_line(trace.show(token)), style).append(" ")
            console.print(line)
        console.print(f"     {about['stop_reason']}, {about['nfe']} passes", style="dim")
    console.print("step, passes, canvas; new tokens: red below 0.5, yellow below 0.9, green above", style="dim")
    return 0


def _style(confidence: float) -> str:
    return "bold red" if confidence < 0.5 else "bold yellow" if confidence < 0.9 else "bold green"


def _one_line(text: str) -> str:
    return text.replace("\n", "⏎").replace("\t", "⇥")


def _diff(one: Trace, other: Trace, files: Sequence[str]) -> int:
    """Where each row parts; status 1 if any does, as of `diff`."""
    differing = {name for name in {*one.about, *other.about} if one.about.get(name) != other.about.get(name)}
    for name in sorted(differing - {"date", "seconds"}):  # no two runs have the same, and no run depends on them
        print(f"{name}: {one.about.get(name)} | {other.about.get(name)}")
    found = partings(one, other)
    for p in found:
        sides = []
        for trace, file, token, sure in zip((one, other), files, p.tokens, p.confidences, strict=True):
            what = "reveals nothing there" if sure is None else f"reveals {trace.show(token)!r} (confidence {sure:.3f})"
            sides.append(f"{file} {what}")
        end = "; both end in the same text" if p.has_same_end else ""
        print(f"row {p.row}: part at step {p.step}, position {p.position}: {', '.join(sides)}{end}")
    n_alike = len(one.rows) - len(found)
    print(f"{n_alike} of {len(one.rows)} rows are revealed token by token alike")
    return 1 if found else 0


def _page(trace: Trace, source: Path, page: Path) -> int:
    """The report's player, alone on a page."""
    from illada_lab.report.html import write_report
    from illada_lab.samplers import VariableLength

    sampler = trace.about.get("sampler")
    settings = sampler if isinstance(sampler, dict) else {"_target_": str(sampler or "")}
    # The class alone: all settings stand at the top of the page.
    name = settings.get("_target_", "").rpartition(".")[2]
    is_growing, traces = name == VariableLength.__name__, list[dict[str, Any]]()
    for row, about in enumerate(trace.rows):
        given = [
            {"position": i, "token": trace.show(token)} for i, token in enumerate(about["start"]) if token is not None
        ]
        records = [
            {
                **{k: r[k] for k in ("step", "position", "confidence", "runner_up_confidence", "nfe")},
                # null: it goes back to a mask
                "token": None if r["token"] is None else trace.show(r["token"]),
                "runner_up": None if r["runner_up"] is None else trace.show(r["runner_up"]),
            }
            for r in trace.records
            if r["row"] == row
        ]
        last = {r["position"]: r["token"] for r in [*given, *records]}
        # The canvas is as wide as the batch's longest row; a row that grows ends with its own last block.
        n = max(last, default=-1) + 1 if is_growing else max([len(about["start"]), *(i + 1 for i in last)])
        traces.append(
            {
                "title": f"row {row}",
                "model": str(trace.about.get("checkpoint", "")),
                "sampler": name,
                "block_length": settings.get("block_length"),
                "is_growing": is_growing,
                "prompt_tokens": [trace.show(i) for i in about["prompt"]],
                "tokens": [last.get(i) or "" for i in range(n)],
                "given": given,
                "records": records,
            }
        )
    made_by = {name: trace.about[name] for name in ("checkpoint", "sampler") if name in trace.about}
    manifest = {name: value for name, value in trace.about.items() if name not in made_by}
    results = {
        "schema": 1,
        "manifest": manifest,
        "sections": ["player"],
        "config": {"sample": made_by},
        "traces": traces,
    }
    print(f"page: {write_report(page, results)}")
    return 0
