"""A training step: taken apart at a scale, or side by side with a plain loop.

    python -m benchmarks.training [--device cpu] [--threads 2] [--rounds 6]
    python -m benchmarks.training --scale 30m [--device cuda] [--rows 8] [--length 512] [--recompute 1] [--attention auto]

Without `--scale`: throughput against a baseline, in one run. The baseline is what a first implementation does: the same network, logits at
every position, float32, eager, an unfused AdamW. Variants take turns round by round, so that a machine that slows down slows them all; the
ratio is the median over rounds of (variant / baseline). Writes a table and `benchmarks/results/training_<device>.json`.

With `--scale` (30m, or one of conf/scale): tokens per second, use of the measured matmul rate, peak memory, time of data, forward pass,
backward pass and optimiser, share of head and loss (`benchmarks/step.py`). Writes `benchmarks/results/training_<scale>_<device>.json`.

Every measurement is also added, as a line, to `benchmarks/results/training_history.jsonl`.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.common import parser, remember, started, write
from benchmarks.step import Setting, measure_step, shape_of
from illada_lab.data.batch import Batch
from illada_lab.diffusion import RowRandom, StratifiedTimes, mask_tokens
from illada_lab.models import MaskPredictor
from illada_lab.models.kernels import ATTENTION
from illada_lab.models.linear import torch_products
from illada_lab.objectives import Pretrain
from illada_lab.tokens import ILLADA
from illada_lab.training.allocator import keep_freed_memory
from illada_lab.training.machine import best_precision, can_compile, matmul_rate
from illada_lab.training.optim import adamw

# The shape of the issue: 16.9M parameters, untied, vocabulary 8192.
SIZES: dict[str, Any] = dict(
    vocab_size=8192, d_model=384, n_layers=6, n_heads=6, n_kv_heads=6, d_ffn=1024, max_length=512, is_tied=False
)
LENGTH, N_ROWS, LR, MAX_NORM = 512, 8, 3e-4, 1.0
N_WARM_UP = 2


@dataclass
class Variant:
    """One way to train: `step(i)` does step i and returns its loss."""

    name: str
    step: Callable[[int], float]


@dataclass
class Worker:
    """A variant in a process of its own, because memory allocation is a process's; it waits while others take their turn."""

    name: str
    precision: str
    pipe: Connection
    seconds: list[float]
    losses: list[float]

    def run(self, first: int, n_steps: int) -> float:
        """Do steps; seconds per step."""
        self.pipe.send((first, n_steps))
        seconds, losses = self.pipe.recv()
        self.losses += losses
        return seconds / n_steps


def batches(device: str) -> Callable[[int], Batch]:
    """Batches of a stream with structure to learn: each row repeats a random piece of 64 tokens."""

    def batch(i: int) -> Batch:
        generator = torch.Generator().manual_seed(i)
        piece = torch.randint(7, 1024, (N_ROWS, 64), generator=generator)
        return Batch(
            tokens=piece.repeat(1, LENGTH // 64),
            segment_ids=torch.ones(N_ROWS, LENGTH, dtype=torch.long),
            is_prompt=torch.zeros(N_ROWS, LENGTH, dtype=torch.bool),
            index=torch.arange(N_ROWS) + i * N_ROWS,
        ).to(device)

    return batch


def predictor(device: str) -> MaskPredictor:
    """The same initial weights for every variant."""
    return MaskPredictor(tokens=ILLADA, generator=torch.Generator().manual_seed(0), **SIZES).to(device).train()


def plain(device: str, batch: Callable[[int], Batch]) -> Variant:
    """The baseline: a loop as one writes it first."""
    model = predictor(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.1, betas=(0.9, 0.95))
    times = StratifiedTimes()

    def step(i: int) -> float:
        rows = batch(i)
        random = RowRandom(0, rows.index)
        t = times(random, 1)
        noise = random.uniform(LENGTH)
        xt, is_masked = mask_tokens(rows.tokens, t.expand_as(noise), noise, ILLADA.mask)
        with torch_products():
            logits = model(xt)
        ce = F.cross_entropy(logits.flatten(0, 1), rows.tokens.flatten(), reduction="none").view_as(xt)
        loss = (ce * is_masked / t).sum() / xt.numel()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        return float(loss.detach())

    return Variant("plain loop, float32, eager", step)


def ours(device: str, batch: Callable[[int], Batch], precision: str, is_compiled: bool) -> Variant:
    """The package's objective and optimiser, as its training module runs them."""
    model = predictor(device)
    if is_compiled:
        model.compile_parts()
    optimizer, objective = adamw(model, lr=LR), Pretrain()
    is_bf16 = precision == "bf16-mixed"

    def step(i: int) -> float:
        rows = batch(i)
        with torch.autocast(device, dtype=torch.bfloat16) if is_bf16 else nullcontext():
            loss = objective(model, rows, RowRandom(0, rows.index)).value
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        return float(loss.detach())

    name = f"ours, {'bf16' if is_bf16 else 'float32'}, {'compiled' if is_compiled else 'eager'}"
    return Variant(name, step)


def serve(pipe: Connection, threads: int, device: str, precision: str | None, is_compiled: bool) -> None:
    """A worker's life: build the variant, then do steps as they are asked for."""
    torch.set_num_threads(threads)
    if precision is not None:
        keep_freed_memory()  # as `illada-lab train` does on a CPU
    variant = (
        plain(device, batches(device)) if precision is None else ours(device, batches(device), precision, is_compiled)
    )
    pipe.send(variant.name)
    while (order := pipe.recv()) is not None:
        first, n_steps = order
        start = time.perf_counter()
        losses = [variant.step(first + i) for i in range(n_steps)]
        pipe.send((time.perf_counter() - start, losses))


def hire(threads: int, device: str, precision: str | None, is_compiled: bool = False) -> Worker:
    """Start a worker; `precision` None is the baseline."""
    here, there = get_context("spawn").Pipe()
    get_context("spawn").Process(
        target=serve, args=(there, threads, device, precision, is_compiled), daemon=True
    ).start()
    return Worker(here.recv(), "bf16" if precision == "bf16-mixed" else "float32", here, [], [])


def measure(workers: list[Worker], rounds: int, steps_per_round: int) -> None:
    """Warm up each variant, then let them take turns."""
    for worker in workers:
        worker.run(0, N_WARM_UP)
    for round_number in range(rounds):
        for worker in workers:
            worker.seconds.append(worker.run(N_WARM_UP + round_number * steps_per_round, steps_per_round))
    for worker in workers:
        worker.pipe.send(None)


def side_by_side(arguments: argparse.Namespace) -> None:
    """Measure the variants, print, write."""
    device, threads = arguments.device, arguments.threads
    precision, is_compiled = best_precision(device), can_compile(device)
    variants = [hire(threads, device, None), hire(threads, device, "32-true")]
    if is_compiled:
        variants.append(hire(threads, device, "32-true", True))
    if precision != "32-true":
        variants.append(hire(threads, device, precision, is_compiled))
    measure(variants, arguments.rounds, arguments.steps)

    spec = predictor("cpu").spec
    flops = spec.flops_per_token(LENGTH)
    peaks = {kind: matmul_rate(device, kind) for kind in sorted({variant.precision for variant in variants})}
    table = []
    for variant in variants:
        ratios = [base / own for base, own in zip(variants[0].seconds, variant.seconds, strict=True)]
        rate = N_ROWS * LENGTH / statistics.median(variant.seconds)
        table.append(
            {
                "variant": variant.name,
                "ms_per_step": 1e3 * statistics.median(variant.seconds),
                "ms_fastest": 1e3 * min(variant.seconds),
                "tokens_per_second": rate,
                "ratio": statistics.median(ratios),
                "ratio_min": min(ratios),
                "ratio_max": max(ratios),
                "ratio_of_fastest": min(variants[0].seconds) / min(variant.seconds),
                "model_flops_over_matmul_peak": rate * flops / peaks[variant.precision],
                "last_losses_mean": statistics.mean(variant.losses[-8:]),
            }
        )
    content = {
        "parameters": spec.n_parameters,
        "length": LENGTH,
        "rows": N_ROWS,
        "default_precision": precision,
        "matmul_peak_flops": peaks,
        "variants": table,
    }
    result = write(arguments, "training", content)
    remember(arguments, result)
    where = result["machine"]["gpu"] or result["machine"]["processor"]
    print(
        f"{spec.n_parameters:,} parameters, {N_ROWS} x {LENGTH} tokens, {device}, {arguments.threads} threads, {where}"
    )
    print(f"{'variant':34}{'ms/step':>9}{'tokens/s':>10}{'ratio':>7}  {'(min-max)':13}{'last loss':>9}")
    for row in table:
        spread = f"({row['ratio_min']:.2f}-{row['ratio_max']:.2f})"
        print(
            f"{row['variant']:34}{row['ms_per_step']:9.0f}{row['tokens_per_second']:10.0f}{row['ratio']:7.2f}  {spread:13}"
            f"{row['last_losses_mean']:9.3f}"
        )


def at_scale(arguments: argparse.Namespace) -> None:
    """Take a step of a scale apart, print, write."""
    sizes, n_rows, length = shape_of(arguments.scale)
    length = arguments.length or length
    setting = Setting(
        name=arguments.scale,
        sizes={**sizes, "max_length": max(length, sizes["max_length"])},
        n_rows=arguments.rows or n_rows,
        length=length,
        precision=arguments.precision or best_precision(arguments.device),
        is_compiled=can_compile(arguments.device) and not arguments.eager,
        recomputed=arguments.recompute,
        attention=arguments.attention,
        device=arguments.device,
    )
    file = "_".join(part for part in ("training", arguments.scale, arguments.label) if part)
    result = write(arguments, "training", measure_step(setting, arguments.rounds), file)
    remember(arguments, result)
    where = result["machine"]["gpu"] or result["machine"]["processor"]
    print(
        f"{result['parameters']:,} parameters, {setting.n_rows} x {length} tokens, {setting.precision}, "
        f"{'compiled' if setting.is_compiled else 'eager'}, attention {result['attention']}, {where}"
    )
    print(
        f"{result['tokens_per_second']:.0f} tokens/s, {1e3 * result['seconds_per_step']:.0f} ms/step "
        f"({1e3 * result['seconds_fastest']:.0f} to {1e3 * result['seconds_slowest']:.0f}), MFU {100 * result['mfu']:.1f} % of "
        f"{result['matmul_peak_flops'] / 1e12:.2f} TFLOP/s measured, peak memory {result['peak_bytes'] / 2**30:.1f} GiB"
    )
    parts = ", ".join(f"{name} {1e3 * seconds:.0f}" for name, seconds in result["seconds"].items())
    print(f"ms: {parts}; head and loss {100 * result['head_and_loss_share']:.1f} % of the step")


def main() -> None:
    """Measure what was asked for."""
    made = parser("Speed of a training step", rounds=6)
    made.add_argument("--steps", type=int, default=4, help="side by side: steps of each variant per round")
    made.add_argument("--scale", help="take a step of this scale apart: 30m, or one of conf/scale")
    made.add_argument("--rows", type=int, help="rows per step; default: the scale's")
    made.add_argument("--length", type=int, help="tokens per row; default: the scale's")
    made.add_argument("--precision", choices=("32-true", "bf16-mixed", "bf16-true"), help="default: what pays here")
    made.add_argument("--attention", default="auto", choices=ATTENTION)
    made.add_argument("--label", help="more of the result's name: training_<scale>_<label>_<device>.json")
    made.add_argument("--eager", action="store_true", help="do not compile")
    made.add_argument(
        "--recompute",
        type=lambda text: text if text == "ops" else int(text),
        help="compute layers again in the backward pass: every k-th (1: all), or ops: selectively",
    )
    arguments = started(made)
    (at_scale if arguments.scale else side_by_side)(arguments)


if __name__ == "__main__":
    main()
