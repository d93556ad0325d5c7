"""The README's table of results, written from the result files of several seeds: numbers on that page come from nowhere else.

python -m illada_lab.report.summary README.md results/toy/reproduce/*.json
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from illada_lab.report.results import read_results
from illada_lab.report.tables import quantity, whole_time

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def summary(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: one column per seed, how it was measured below.

    Args:
        results: of the main job at one scale, a seed each.

    Raises:
        ValueError: nothing, or runs of different scales.
    """
    scales = {result["manifest"]["scale"] for result in results}
    if len(scales) != 1:
        raise ValueError(f"scales = {sorted(scales)}; one table shows one scale; results of the same scale")
    results = sorted(results, key=lambda result: result["manifest"]["seed"])
    head = ["measured", "chance or limit", *(f"seed {result['manifest']['seed']}" for result in results)]
    rows = [head, ["---"] * 2 + ["---:"] * len(results)]
    kinds = results[0]["stages"][0]["entropy_per_token"]
    for kind in (kind for kind in kinds if kind != "all"):
        values = [_last(result, kind) for result in results]
        limits = [result["stages"][0]["entropy_per_token"][kind] for result in results]
        over = [
            f"{v:.3f} ({100 * (v / limit - 1):+.1f} % over {limit:.3f})"
            for v, limit in zip(values, limits, strict=True)
        ]
        rows.append([f"{kind}: bound, nats/token", "the seed's entropy", *over])
    for number, table in enumerate(results[0]["tables"]):
        for place, row in enumerate(table["rows"]):
            values = [quantity(result["tables"][number]["rows"][place]["value"]) for result in results]
            rows.append([f"{table['model']}: {row['task']}, {row['metric']}", quantity(row.get("chance")), *values])
    rows.append(["training speed, tokens/s", "", *(f"{r['stages'][0]['tokens_per_second']:,.0f}" for r in results)])
    rows.append(["everything together", "", *(whole_time(r["manifest"]) for r in results)])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", *_conditions(results)])


def _last(result: dict[str, Any], kind: str) -> float:
    """Last validated bound of a kind in pre-training."""
    return [p["nelbo_per_token"] for p in result["stages"][0]["validation_curve"] if p["kind"] == kind][-1]


def _conditions(results: Sequence[dict[str, Any]]) -> list[str]:
    """Commands, machine and versions; where runs differ in them, those of each seed."""
    seeds_at: dict[str, list[str]] = {}
    for result in results:
        about = result["manifest"]
        machine, versions = about["machine"], about["versions"]
        place = (
            f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, {about['precision']}, torch "
            f"{versions['torch']}, Python {versions['python']}, commit {about['commit']}, {about['date'][:10]}"
        )
        seeds_at.setdefault(place, []).append(str(about["seed"]))
    places = [place if len(seeds_at) == 1 else f"seed {', '.join(seeds)}: {place}" for place, seeds in seeds_at.items()]
    n = max(row.get("n", 0) for table in results[0]["tables"] for row in table["rows"])
    commands = ", ".join(f"`{result['manifest']['command']}`" for result in results)
    return [
        f"{results[0]['parameters']['total']:,} parameters. {commands}; {'; '.join(places)}; at most {n} items per task."
    ]


def write_into(page: Path, text: str, begin: str = BEGIN, end: str = END) -> bool:
    """Replace what stands between two marks of a page.

    Returns:
        Whether the page changed.

    Raises:
        ValueError: the page has no such marks.
    """
    before = page.read_text()
    head, is_begun, rest = before.partition(begin)
    _, is_ended, tail = rest.partition(end)
    if not is_begun or not is_ended:
        raise ValueError(f"page = {page}; has no place for results; a line {begin} and a line {end}")
    after = f"{head}{begin}\n{text}\n{end}{tail}"
    page.write_text(after)
    return after != before


if __name__ == "__main__":
    write_into(Path(sys.argv[1]), summary([read_results(Path(file)) for file in sys.argv[2:]]))
