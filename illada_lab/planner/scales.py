"""The README's table of scales: what was measured, from result files, and what is planned, from the planner; each row says which.

python -m illada_lab.planner.scales README.md results/toy/reproduce/*.json benchmarks/results/training_*_cuda.json
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from illada_lab.config import build, compose_and_check
from illada_lab.planner.devices import GIB
from illada_lab.planner.job import job
from illada_lab.planner.plan import SECONDS_PER_DAY, Plan, largest_micro_batch, plan
from illada_lab.report.results import read_results
from illada_lab.report.summary import write_into
from illada_lab.report.tables import duration

BEGIN, END = "<!-- scales: begin -->", "<!-- scales: end -->"
# What each scale is planned on. Worlds have too few words for these models, so the vocabulary is that of a tokenizer of theirs.
TEXT = ("data=hub", "data.path=owner/name")
PLANNED: dict[str, tuple[str, ...]] = {
    "small": TEXT,
    "100m": TEXT,
    "1b": (*TEXT, "trainer=ddp", "trainer.devices=8"),
    "8b": ("trainer.devices=8", "trainer.n_nodes=64"),
}
HEAD = ("scale", "", "parameters", "rows x length", "tokens", "memory per device", "on", "pre-training")


def scales(
    results: Sequence[dict[str, Any]] = (),
    planned: dict[str, tuple[str, ...]] | None = None,
    steps: Sequence[dict[str, Any]] = (),
) -> str:
    """Markdown: one row per scale, and per measurement of a training step.

    Args:
        results: of the main job (`results/<scale>/reproduce/`); the runs of a scale become one row.
        steps: of `python -m benchmarks.training --scale ...`.
        planned: overrides for each scale that is planned; None: `PLANNED`.

    Raises:
        ValueError: a plan that does not fit: a table must not promise it.
    """
    by_scale: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        by_scale.setdefault(result["manifest"]["scale"], []).append(result)
    rows = [HEAD, ("---", "---", *["---:"] * 4, "---", "---:")]
    rows += [_measured(scale, runs) for scale, runs in by_scale.items()]
    plans = {
        scale: _plan(scale, overrides)
        for scale, overrides in (PLANNED if planned is None else planned).items()
        if scale not in by_scale
    }
    rows += [_steps(step) for step in steps]
    rows += [_planned(made) for made in plans.values()]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", _conditions(plans)])


def _measured(scale: str, runs: list[dict[str, Any]]) -> tuple[str, ...]:
    """Pre-training as it was run; memory was not recorded by the main job."""
    stage, machine = runs[0]["stages"][0], runs[0]["manifest"]["machine"]
    data = runs[0]["config"]["pretrain"]["data"]
    seconds = [run["stages"][0]["seconds"] for run in runs]
    low, high = duration(min(seconds)), duration(max(seconds))
    return (
        f"`{scale}`",
        f"**measured**, {len(runs)} {'run' if len(runs) == 1 else 'runs'}",
        f"{runs[0]['parameters']['total']:,}",
        f"{data['batch_size']} x {data['length']}",
        count(stage["tokens"]),
        "not recorded",
        f"{machine['gpu'] or machine['processor']}, {machine['threads']} threads",
        low if low == high else f"{low} to {high}",
    )


def _steps(found: dict[str, Any]) -> tuple[str, ...]:
    """A few training steps, taken apart by the benchmark."""
    machine, again = found["machine"], found["recomputed"]
    layers = {None: "all activations kept", 1: "layers recomputed", "ops": "layers recomputed in part"}[again]
    return (
        f"`{found['scale']}`",
        f"**{found['rounds']} steps measured**",
        f"{found['parameters']:,}",
        f"{found['rows']:,} x {found['length']:,}",
        "",
        f"{found['peak_bytes'] / GIB:.1f} GiB",
        f"{machine['gpu'] or machine['processor']}, {found['precision']}, {layers}",
        f"{found['tokens_per_second']:,.0f} tokens/s",
    )


def _plan(scale: str, overrides: Sequence[str]) -> Plan:
    """The plan with the largest micro-batch that fits."""
    config = compose_and_check([f"scale={scale}", *overrides])
    device, settings = build(config.device), build(config.plan)
    asked = job(config, settings, device)
    largest = largest_micro_batch(asked, device, settings)
    if largest is None:
        raise ValueError(
            f"scale = {scale}; does not fit with {' '.join(overrides)}; see illada-lab plan scale={scale} for what does"
        )
    return plan(replace(asked, micro_batch_size=min(largest, asked.micro_batch_size)), device, settings)


def _planned(made: Plan) -> tuple[str, ...]:
    days = made.seconds / SECONDS_PER_DAY
    how = made.job.strategy if made.job.world_size > 1 else "one device"
    return (
        f"`{made.job.scale}`",
        "planned",
        f"{made.job.spec.n_parameters:,}",
        f"{made.job.batch_size:,} x {made.job.length:,}",
        count(made.job.n_tokens),
        f"{made.memory.total / GIB:.1f} GiB",
        f"{made.job.world_size} x {made.device.name}, {how}",
        f"{days:,.1f} days" if days >= 1 else duration(made.seconds),
    )


def count(n: int | float) -> str:
    """A number of tokens as a person says it: three digits at most, two below ten.

    >>> count(2_943_286), count(12e12), count(950), count(999.9e9)
    ('2.9M', '12T', '950', '1T')
    """
    for size, letter in ((1, ""), (1e3, "k"), (1e6, "M"), (1e9, "B"), (1e12, "T")):
        value = round(n / size, 1 if letter and n < 100 * size else 0)
        if value < 1000:  # rounded: 999.9 of one unit are 1 of the next
            break
    return f"{value:.1f}".removesuffix(".0") + letter


def _conditions(plans: dict[str, Plan]) -> str:
    if not plans:
        return ""
    made = next(iter(plans.values()))
    return (
        "Planned rows are `illada-lab plan`: memory from a rehearsal of the step without data, float32 weights and bf16 products; "
        f"time at an assumed {made.settings.mfu:.0%} of the data sheet's peak, which small models do not reach. Nobody has run them here."
    )


if __name__ == "__main__":
    found = {file: json.loads(Path(file).read_text()) for file in sys.argv[2:]}
    text = scales(
        [read_results(Path(file)) for file, content in found.items() if "benchmark" not in content],
        steps=[content for content in found.values() if "benchmark" in content],
    )
    write_into(Path(sys.argv[1]), text, BEGIN, END)
