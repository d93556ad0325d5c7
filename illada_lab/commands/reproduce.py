"""`illada-lab reproduce`: the main job, from nothing to a report."""

import sys

from omegaconf import DictConfig


def run(config: DictConfig) -> int:
    """Run it and print where the report is."""
    from illada_lab.experiments.reproduce import reproduce
    from illada_lab.report.tables import print_rows
    from illada_lab.training.allocator import keep_freed_memory

    keep_freed_memory()
    results, report = reproduce(config)
    for table in results["tables"]:
        print(f"\n{table['title']}")
        print_rows(table["rows"])
    print(f"\n{results['manifest']['seconds']:.0f} seconds in all", file=sys.stderr)
    print(f"report: {report}")
    return 0
