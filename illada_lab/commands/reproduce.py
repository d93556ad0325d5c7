"""`illada-lab reproduce`: the main job, from nothing to a report."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

# Settings that the main job reads; the others belong to other commands, or are its own to say (name, where it starts).
EFFECTIVE = ("scale", "seed", "run_dir", "model", "tokenizer", "data", "objective", "optim", "lr", "trainer", "logger",
             "evaluation.n_questions", "evaluation.n_mc_samples")  # fmt: skip
INSTEAD = {"resume": "the same command goes on by itself with what it has begun"}


def translate(overrides: Sequence[str]) -> list[str]:
    """The overrides as they are; raises ValueError for those without effect."""
    from illada_lab.commands.effect import refuse_without_effect

    return refuse_without_effect("reproduce", overrides, EFFECTIVE, INSTEAD)


def home(config: DictConfig) -> str:
    """The folder that the jobs of a sweep have theirs in."""
    from illada_lab.experiments.reproduce import folder_of

    return str(folder_of(config))


def run(config: DictConfig) -> int:
    """Run it and print where the report is."""
    measured(config)
    return 0


def measured(config: DictConfig) -> list[dict[str, Any]]:
    """The same; returns the last bounds and the answers, as rows of a table. Of several processes the one that writes speaks."""
    from lightning.pytorch.utilities import rank_zero_only

    from illada_lab.experiments.reproduce import reproduce
    from illada_lab.report.tables import bound_row
    from illada_lab.report.views import last_bounds
    from illada_lab.training.allocator import keep_freed_memory

    keep_freed_memory()
    results, report = reproduce(config)
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        _print(results, report)
    bounds = [
        bound_row(f"{stage['name']}: {kind}", row)
        for stage in results["stages"]
        for kind, row in last_bounds(stage).items()
    ]
    return bounds + [row for table in results["tables"] for row in table["rows"]]


def _print(results: dict[str, Any], report: Path) -> None:
    """Bounds, answers, time, and where the report is."""
    from illada_lab.report.tables import bound_line, bound_warnings, print_rows
    from illada_lab.report.views import last_bounds

    for stage in results["stages"]:
        print(f"\n{stage['name']}: bounds on held-out text")
        for kind, row in last_bounds(stage).items():
            print(bound_line(kind, row, stage["entropy_per_token"].get(kind)))
        whole = [row for row in stage["validation_curve"] if row["kind"] == "all"]
        for line in bound_warnings(whole, stage["landmarks"]):
            print(line)
    for table in results["tables"]:
        print(f"\n{table['title']}")
        print_rows(table["rows"])
    print(f"\n{results['manifest']['seconds']:.0f} seconds in all", file=sys.stderr)
    print(f"report: {report}")
