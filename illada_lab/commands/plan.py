"""`illada-lab plan`: what the configured run takes, before it runs."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig

from illada_lab.commands.train import USED as TRAIN
from illada_lab.config import build
from illada_lab.planner.job import job
from illada_lab.planner.memory import memory_per_device
from illada_lab.planner.nearest import nearest_that_fit
from illada_lab.planner.plan import SECONDS_PER_DAY, Plan, largest_micro_batch, plan, refusal
from illada_lab.report.tables import duration

# The words of a `train` command can be planned as they are; the others belong to other commands.
USED = (*TRAIN, "device", "plan")
GIB = 2**30
SLOW = 5e8  # parameters of a model whose rehearsal takes more than a few seconds
FITS = {True: "yes", False: "no", None: "not known"}
Rows = list[tuple[str, ...]]


def translate(overrides: Sequence[str]) -> list[str]:
    """The overrides as they are; raises ValueError for those without effect."""
    from illada_lab.commands.effect import refuse_without_effect

    return refuse_without_effect("plan", overrides, USED)


def run(config: DictConfig, is_json: bool = False) -> int:
    """Print the plan, as tables or as JSON.

    Raises:
        ValueError: the run does not fit; the message names the nearest that do. The plan has been printed then. Or, before anything is
            printed: with what is computed again the assumed MFU is more than a device can do.
    """
    device, settings = build(config.device), build(config.plan)
    asked = job(config, settings, device)
    if asked.spec.n_parameters > SLOW:
        n = asked.spec.n_parameters / 1e9
        print(
            f"rehearsing a step of {n:.1f} billion parameters without data; up to a minute", file=sys.stderr, flush=True
        )
    made = plan(asked, device, settings)
    if not made.is_within_peak:
        raise ValueError(_beyond_peak(made))
    largest = largest_micro_batch(made.job, device, settings)
    nearest = nearest_that_fit(made) if made.fits is False else []
    if is_json:
        print(json.dumps({**made.to_dict(), "largest_micro_batch": largest, "nearest": nearest}, indent=1))
    else:
        _print(made, largest)
    if made.fits is False:
        raise ValueError(refusal(made, nearest))
    return 0


def _beyond_peak(made: Plan) -> str:
    needed = made.settings.mfu * (made.work or 1)
    return (
        f"plan.mfu = {made.settings.mfu}; with activation checkpointing {_word(made.job.recomputed)} {needed:.1%} of the peak would be "
        f"needed; at most {made.largest_mfu}"
    )


def _print(made: Plan, largest: int | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=110, highlight=False)
    for title, rows in _sections(made, largest):
        table = Table(title=title, title_justify="left", title_style="bold", show_header=False, min_width=60)
        for row in rows:
            table.add_row(*map(Text, row))
        console.print(table)


def _sections(made: Plan, largest: int | None) -> list[tuple[str, Rows]]:
    return [
        (f"Model: scale={made.job.scale}", _model(made)),
        ("Arithmetic, forward and backward", _arithmetic(made)),
        (
            f"Memory on each of {made.job.world_size} x {made.device.name}, at the fullest moment of a step",
            _memory(made, largest),
        ),
        (f"Time, assumed: MFU {made.settings.mfu:.0%} (plan.mfu)", _time(made)),
    ]


def _model(made: Plan) -> Rows:
    spec, job_ = made.job.spec, made.job
    compiled = "compiled" if job_.is_compiled else "not compiled"
    adapted = "" if job_.lora is None else f", adapters of rank {job_.lora.rank} only"
    return [
        ("parameters", f"{spec.n_parameters:,}"),
        ("non-embedding", f"{spec.n_non_embedding_parameters:,}"),
        ("batch", f"{job_.batch_size:,} rows of {job_.length:,} tokens, {job_.micro_batch_size} per pass and device"),
        (
            "trained as",
            f"{job_.strategy}, {job_.precision}, {compiled}, activation checkpointing {_word(job_.recomputed)}{adapted}",
        ),
    ]


def _arithmetic(made: Plan) -> Rows:
    """Formula and source beside each number."""
    flops, budget, paper = made.flops, made.flops.times(made.job.n_tokens), made.to_dict()["paper"]
    times, backward = (6, 4) if made.job.lora is None else (4, 2)
    is_causal = made.job.spec.is_causal
    where = "every position" if is_causal else "half of the positions"
    attention = "6 D L per layer, looking backwards only" if is_causal else "12 D L per layer"
    return [
        ("", "per token", f"{made.job.n_tokens:.3g} tokens", "formula"),
        (
            "layers",
            f"{flops.matrices:.3e}",
            f"{budget.matrices:.3e}",
            f"{times} N (2 forward, {backward} backward per weight)",
        ),
        ("head", f"{flops.head:.3e}", f"{budget.head:.3e}", f"{times} V D at {where}"),
        ("attention", f"{flops.attention:.3e}", f"{budget.attention:.3e}", f"{attention} (PaLM, App. B)"),
        ("sum", f"{flops.total:.3e}", f"{budget.total:.3e}", ""),
        (
            "the paper's run",
            "",
            f"{paper['total']:.3e}",
            f"{paper['tokens']:.3g} tokens: 6ND {paper['six_n_d']:.3e} + attention {paper['attention']:.3e} + head {paper['head']:.3e}",
        ),
    ]


def _memory(made: Plan, largest: int | None) -> Rows:
    job_, device = made.job, made.device
    without, checkpointed = (memory_per_device(replace(job_, recomputed=which), device) for which in (None, 1))
    columns = {"this run": made.memory, "no checkpointing": without, "every layer": checkpointed}
    what = {
        "weights": "float32 (frozen ones as they are kept), and their average if there is one",
        "gradients": "float32, of what is trained",
        "optimiser": "its state",
        "activations": "kept for the backward pass; under bf16 copies of weights too",
        "head": "logits, a chunk at a time",
        "buffers": "temporaries; recomputed or gathered layers",
    }
    rows: Rows = [("GiB", *columns, "")]
    rows += [(part, *(_gib(getattr(memory, part)) for memory in columns.values()), text) for part, text in what.items()]
    rows.append(("sum", *(_gib(memory.total) for memory in columns.values()), ""))
    rows.append(
        (
            "usable",
            *(_gib(made.usable_bytes) if made.usable_bytes else "not known" for _ in columns),
            f"{made.settings.usable_share:.0%} of {_gib(device.memory_bytes)}" if made.usable_bytes else "",
        )
    )
    rows.append(("fits", *(FITS[made.holds(memory)] for memory in columns.values()), ""))
    rows.append(
        (
            "largest micro-batch",
            ("not known" if made.fits is None else "none") if largest is None else f"{largest}",
            "",
            "",
            "rows per pass that fit and divide the batch",
        )
    )
    return rows


def _time(made: Plan) -> Rows:
    peak = made.device.peak_flops(made.job.precision)
    unit, days = "CPU-hours" if made.device.is_cpu else "GPU-hours", made.seconds / SECONDS_PER_DAY
    rows = [
        ("peak of a device", f"{peak / 1e12:.4g} TFLOP/s ({'measured' if made.device.is_cpu else 'data sheet'})"),
        ("tokens/s", f"{made.tokens_per_second:,.0f}"),
        ("tokens", f"{made.job.n_tokens:.4g}"),
        ("time", f"{days:,.2f} days" if days >= 1 else duration(made.seconds)),
        (unit, f"{made.device_hours:,.1f}" if made.device_hours >= 1 else f"{made.device_hours:.2g}"),
    ]
    if made.n_recomputed_layers and made.work:
        rows.append(
            (
                "with recomputation",
                f"{made.work * made.settings.mfu:.0%} of the peak must be reached: {made.work - 1:.0%} more arithmetic, of "
                f"{made.n_recomputed_layers} of {made.job.spec.n_layers} layers",
            )
        )
    return rows


def _gib(n_bytes: int | float) -> str:
    return f"{n_bytes / GIB:,.2f}" if n_bytes < 100 * GIB else f"{n_bytes / GIB:,.0f}"


def _word(which: Any) -> str:
    return {None: "off", 1: "of every layer", "ops": "of some operations"}.get(which, f"of every {which}th layer")
