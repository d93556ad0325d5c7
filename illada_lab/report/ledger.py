"""The ledger of claims: a page written from the result files of studies, and from nothing else.

python -m illada_lab.report.ledger results
"""

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from illada_lab.files import write_text
from illada_lab.report.forest import forest
from illada_lab.report.tables import duration, effect_text

HEAD = """# Claims ledger

Written by `illada-lab replicate` from the JSON files in these folders; not edited by hand. A claim is judged from one effect per
seed: the mean and its 95 % interval (Student's t). *Replicated*: the whole interval is above the claim's threshold. *Not
replicated*: the whole interval is below the smallest effect worth the name. *Inconclusive*: neither, or fewer than three seeds, or
no room for the effect to show. Where seeds were added after verdicts had been looked for, or measured again, the interval is wider:
a second look leaves out 2.5 %, so that one of the two looks is wrong in 7.5 % of the cases at most; such looks are named below the
tables. A seed is one draw of weights, documents, masks and questions in one fixed world, where what is stated and what is held out
stay the same; an effect that is the same with every seed has an interval without width. Each claim is judged by itself: among many,
one in forty is replicated by chance where nothing is there. The paper's numbers are those of models of 8B parameters; ours are
compared with them in direction only, never in size.
"""
HEAD_AGAIN = """*Again*: the same settings measured on other machines, each judged by itself (folders `again*`, one column each). Other
roundings make other models of the same seeds, so it tells how much of a verdict hangs on the machine. (Each run's precision is the
machine's choice.)
"""

# Figure of all claims of a scale, in the folder of its results.
FIGURE = "effects.svg"

# Results of the same studies from other machines, in folders of the results: `replicate results_dir=results/again_2`.
AGAIN = "again*"

# Claims by study and id.
Claims = dict[tuple[str, str], dict[str, Any]]


def read_all(folder: Path) -> list[dict[str, Any]]:
    """The results of all studies below a folder, by scale and name."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/*.json"))]
    return [result for result in found if "claims" in result and "study" in result]


def ledger(results: Sequence[dict[str, Any]], again: Mapping[str, Sequence[dict[str, Any]]] | None = None) -> str:
    """Markdown: a figure and a table per scale, one row per claim, conditions below.

    Args:
        results: of studies.
        again: the same studies measured on other machines, each name a column of its own; those of other settings are left out.
    """
    # Other settings would be another measurement.
    told = [(result["study"], result["scale"], result["config"]) for result in results]
    same = {
        name: [found for found in repeated if (found["study"], found["scale"], found["config"]) in told]
        for name, repeated in (again or {}).items()
    }
    parts = [HEAD, HEAD_AGAIN] if any(same.values()) else [HEAD]
    for scale in sorted({result["scale"] for result in results}):
        chosen = [result for result in results if result["scale"] == scale]
        counts = Counter(claim["verdict"] for result in chosen for claim in result["claims"])
        total = ", ".join(f"{n} {verdict}" for verdict, n in counts.most_common())
        repeated = {name: [r for r in found if r["scale"] == scale] for name, found in same.items()}
        columns = {name: _by_claim(found) for name, found in repeated.items() if found}
        parts += [
            f"## Scale `{scale}`",
            f"{sum(counts.values())} claims: {total}.{''.join(_agreement(chosen, *column) for column in columns.items())}",
            f"![Effects, intervals and thresholds of all claims at scale {scale}]({scale}/{FIGURE})",
            _claims(chosen, columns),
            _conditions(chosen),
        ]
        parts += [f"{_title(name)}:\n\n{_conditions(repeated[name])}" for name in columns]
    return "\n\n".join(parts) + "\n"


def write_ledger(folder: Path) -> Path:
    """Write `README.md` and its figures from the result files of a folder, beside those of the folders `again*` in it, if there are any.

    A folder `again*` in one that has a ledger is a column there and has no page of its own.
    """
    page = folder.parent / "README.md"
    if folder.match(AGAIN) and page.is_file() and page.read_text(encoding="utf-8").startswith(HEAD):
        return write_ledger(folder.parent)
    results = read_all(folder)
    for scale in {result["scale"] for result in results}:
        chosen = [result for result in results if result["scale"] == scale]
        write_text(folder / scale / FIGURE, forest(chosen))
    again = {path.name: read_all(path) for path in sorted(folder.glob(AGAIN)) if path.is_dir()}
    return write_text(folder / "README.md", ledger(results, again))


def _by_claim(results: Sequence[dict[str, Any]]) -> Claims:
    """Claims by study and id."""
    return {(result["study"], claim["id"]): claim for result in results for claim in result["claims"]}


def _title(name: str) -> str:
    """A folder's name as the title of its column."""
    return name.replace("_", " ").capitalize()


def _agreement(results: Sequence[dict[str, Any]], name: str, column: Claims) -> str:
    """How many verdicts a second measurement shares."""
    pairs = [(claim["verdict"], column[key]["verdict"]) for key, claim in _by_claim(results).items() if key in column]
    return f" {_title(name)}: {sum(a == b for a, b in pairs)} of {len(pairs)} with the same verdict." if pairs else ""


def _claims(results: Sequence[dict[str, Any]], again: Mapping[str, Claims]) -> str:
    rows = [["study", "claim", "source", "paper, 8B", "ours: what is measured", "effect (95 % interval)", "verdict"]]
    rows[0] += [_title(name).lower() for name in again]
    rows.append(["---"] * len(rows[0]))
    for result in results:
        for claim in result["claims"]:
            rows.append(
                [f"`{result['study']}`", claim["sentence"], claim["source"], claim["paper"], claim["metric"],
                 effect_text(claim), f"**{claim['verdict']}** ({claim['reason']})"]
            )  # fmt: skip
            for column in again.values():
                other = column.get((result["study"], claim["id"]))
                rows[-1].append("" if other is None else f"**{other['verdict']}**: {effect_text(other)}")
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _conditions(results: Sequence[dict[str, Any]]) -> str:
    """Command, seeds, time, machine and commit of each study."""
    lines = []
    for result in results:
        about = result["manifest"]
        looks = result.get("looks", [len(about["seeds"])])
        again = ", measured again" if looks[-1] in looks[:-1] else ""
        looked = (
            f" (looked at after {', '.join(map(str, looks[:-1]))} and {looks[-1]}{again})" if len(looks) > 1 else ""
        )
        lines.append(
            f"- `{result['study']}`: `{result.get('command', about['command'])}`; seeds {', '.join(map(str, about['seeds']))}{looked}; "
            f"{_time(result)}, {_measured(result)}"
        )
    return "\n".join(lines)


def _time(result: dict[str, Any]) -> str:
    """How long a study took; seeds that ran at once shared that time (older files do not say how many did)."""
    seconds = result["manifest"]["seconds"]
    at_once = {seed.get("n_processes", 1) for seed in result.get("seeds", [])} or {1}
    if at_once == {1}:
        return f"{duration(seconds)} in all"
    shared = sum(seed["seconds"] / seed.get("n_processes", 1) for seed in result["seeds"])
    return f"{duration(shared)}, {' or '.join(map(str, sorted(at_once)))} seeds at once"


def _measured(result: dict[str, Any]) -> str:
    """Where each seed was measured; of a seed that does not say (older files): where the result was written."""
    about = result["manifest"]
    places = set()
    for seed in result.get("seeds") or [{}]:
        told = {**about, "date": about["date"][:10], **seed}
        machine = told["machine"]
        places.add(
            f"{machine['threads']} thread(s) of {machine['processor']}, torch {told['versions']['torch']}, "
            f"commit {told['commit']}, {told['date']}"
        )
    return "; ".join(sorted(places))


if __name__ == "__main__":
    print(write_ledger(Path(sys.argv[1])))
