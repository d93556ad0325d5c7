"""Throughput of a training step against a plain loop, side by side in one run.

    python -m benchmarks.training [--device cpu] [--threads 2] [--rounds 6]

The baseline is what a first implementation does: the same network, logits at every position, float32, eager, an unfused
AdamW. Variants take turns round by round, so that a machine that slows down slows them all; the ratio is the median over
rounds of (variant / baseline). Writes a table and `benchmarks/results/training_<device>.json`.
"""

import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.common import parser, started, write
from illada_lab.data.batch import Batch
from illada_lab.diffusion import RowRandom, StratifiedTimes, mask_tokens
from illada_lab.models import MaskPredictor
from illada_lab.objectives import Pretrain
from illada_lab.tokens import ILLADA
from illada_lab.training.machine import best_precision, can_compile, matmul_rate
from illada_lab.training.optim import adamw

# The shape of the issue: 16.9M parameters, untied, vocabulary 8192.
SIZES: dict[str, Any] = dict(
    vocab_size=8192, d_model=384, n_layers=6, n_heads=6, n_kv_heads=6, d_ffn=1024, max_length=512, is_tied=False
)
LENGTH, N_ROWS, LR, MAX_NORM = 512, 8, 3e-4, 1.0


@dataclass
class Variant:
    """One way to train: `step(i)` does step i and returns its loss."""

    name: str
    step: Callable[[int], float]
    seconds: list[float]
    losses: list[float]


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
        logits = model(xt)
        ce = F.cross_entropy(logits.flatten(0, 1), rows.tokens.flatten(), reduction="none").view_as(xt)
        loss = (ce * is_masked / t).sum() / xt.numel()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        return float(loss.detach())

    return Variant("plain loop, float32, eager", step, [], [])


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
    return Variant(name, step, [], [])


def measure(variants: list[Variant], rounds: int, steps_per_round: int) -> None:
    """Warm up each variant, then let them take turns."""
    for variant in variants:
        for i in range(2):
            variant.losses.append(variant.step(i))
    for round_number in range(rounds):
        for variant in variants:
            start = time.perf_counter()
            for i in range(steps_per_round):
                variant.losses.append(variant.step(2 + round_number * steps_per_round + i))
            variant.seconds.append((time.perf_counter() - start) / steps_per_round)


def main() -> None:
    """Measure, print, write."""
    made = parser("Throughput of a training step against a plain loop", rounds=6)
    made.add_argument("--steps", type=int, default=4, help="steps of each variant per round")
    arguments = started(made)
    device, batch = arguments.device, batches(arguments.device)
    precision, is_compiled = best_precision(device), can_compile(device)
    variants = [plain(device, batch), ours(device, batch, "32-true", False)]
    if is_compiled:
        variants.append(ours(device, batch, "32-true", True))
    if precision != "32-true":
        variants.append(ours(device, batch, precision, is_compiled))
    measure(variants, arguments.rounds, arguments.steps)

    spec = predictor("meta" if device == "meta" else "cpu").spec
    flops = spec.flops_per_token(LENGTH)
    peak = matmul_rate(device, "bf16" if precision == "bf16-mixed" else "float32")
    table = []
    for variant in variants:
        ratios = [base / own for base, own in zip(variants[0].seconds, variant.seconds, strict=True)]
        rate = N_ROWS * LENGTH / statistics.median(variant.seconds)
        table.append(
            {
                "variant": variant.name,
                "ms_per_step": 1e3 * statistics.median(variant.seconds),
                "tokens_per_second": rate,
                "ratio": statistics.median(ratios),
                "ratio_min": min(ratios),
                "ratio_max": max(ratios),
                "model_flops_over_matmul_peak": rate * flops / peak,
                "last_losses_mean": statistics.mean(variant.losses[-8:]),
            }
        )
    content = {
        "parameters": spec.n_parameters,
        "length": LENGTH,
        "rows": N_ROWS,
        "default_precision": precision,
        "matmul_peak_flops": peak,
        "variants": table,
    }
    result = write(arguments, "training", content)
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


if __name__ == "__main__":
    main()
