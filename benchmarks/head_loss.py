"""Memory and time of the loss behind iLLaDA's vocabulary of 155,136.

    python -m benchmarks.head_loss [--device cpu] [--positions 1024] [--width 512]

Each way runs in a process of its own, so that its peak memory is its own: what the process held at most during forward and backward pass,
above what it held before (weights, hidden states), the gradients of weights and hidden states included. Half of the positions are masked.
Float32 on a CPU, bf16 on a GPU.
Writes a table and `benchmarks/results/head_loss_<device>.json`.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from benchmarks.common import parser, started, write
from benchmarks.step import Clock, peak_bytes
from illada_lab.models.head_loss import MAX_LOGITS, sliced_losses

VOCABULARY = 155_136


def stored(h: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """All logits in memory."""
    return F.cross_entropy(F.linear(h, weight).float(), targets, reduction="none")


def in_chunks(h: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Chunks of the positions, each computed again in the backward pass."""
    chunk = MAX_LOGITS // len(weight)
    parts = zip(h.split(chunk), targets.split(chunk), strict=True)
    return torch.cat([checkpoint(stored, part, weight, goal, use_reentrant=False) for part, goal in parts])


def torchs(h: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """torch's own chunks (2.13)."""
    options = torch.nn.LinearCrossEntropyOptions()  # type: ignore[attr-defined]
    return F.linear_cross_entropy(h, weight, targets, reduction="none", options=options)  # type: ignore[attr-defined]


# Name -> how, and whether at every position instead of the masked half.
WAYS: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], Tensor], bool]] = {
    "logits at every position": (stored, True),
    "logits at masked positions": (stored, False),
    "chunks of positions, checkpointed": (in_chunks, False),
    "torch linear_cross_entropy": (torchs, False),
    "slices of the vocabulary (ours)": (sliced_losses, False),
}


def dtype_on(device: str) -> torch.dtype:
    """Precision of weights and hidden states: what products run in."""
    return torch.bfloat16 if device == "cuda" else torch.float32


def held_bytes(device: str) -> int:
    """What is held now: of the device, or of this process (Linux)."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run(name: str, device: str, n_positions: int, width: int, rounds: int) -> dict[str, Any]:
    """Measure one way in this process."""
    function, is_everywhere = WAYS[name]
    n = n_positions if is_everywhere else n_positions // 2
    generator = torch.Generator(device).manual_seed(0)
    options: Any = {"generator": generator, "device": device, "dtype": dtype_on(device)}
    h = torch.randn(n_positions, width, **options)[:n].requires_grad_()
    # In place: a passing copy of the weights would hide in the peak what comes after it.
    weight = torch.randn(VOCABULARY, width, **options).mul_(0.05).requires_grad_()
    targets = torch.randint(VOCABULARY, (n_positions,), generator=generator, device=device)[:n]
    before, clock = held_bytes(device), Clock(device)
    for _ in range(rounds):
        h.grad = weight.grad = None
        with clock.part("pass"):
            losses = function(h, weight, targets)
            losses.mean().backward()
    assert h.grad is not None
    return {
        "way": name,
        "peak_bytes_above_start": peak_bytes(device) - before,
        "seconds": min(clock.parts["pass"]),
        "mean_loss_of_masked": float(losses[: n_positions // 2].detach().mean()),
        "gradient_norm": float(h.grad.norm()),
    }


def main() -> None:
    """Each way in its own process; print, write."""
    made = parser("Memory and time of the loss behind a large vocabulary", rounds=2)
    made.add_argument("--positions", type=int, default=1024, help="half of them are masked")
    made.add_argument("--width", type=int, default=512, help="of the hidden states")
    made.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    arguments = started(made)
    if arguments.way:
        print(json.dumps(run(arguments.way, arguments.device, arguments.positions, arguments.width, arguments.rounds)))
        return
    table = []
    for way in WAYS:
        if way.startswith("torch") and not hasattr(F, "linear_cross_entropy"):
            continue
        command = [sys.executable, "-m", "benchmarks.head_loss", *sys.argv[1:], "--way", way]
        table.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    gradients = dtype_on(arguments.device).itemsize * VOCABULARY * arguments.width
    write(
        arguments,
        "head_loss",
        {
            "vocabulary": VOCABULARY,
            "positions": arguments.positions,
            "width": arguments.width,
            "dtype": str(dtype_on(arguments.device)),
            "bytes_of_all_logits": 4 * VOCABULARY * arguments.positions,
            "bytes_of_weight_gradient": gradients,
            "ways": table,
        },
    )
    print(f"{'way':36}{'peak MiB':>10}{'without the gradient':>22}{'s':>8}")
    for row in table:
        peak = row["peak_bytes_above_start"]
        print(f"{row['way']:36}{peak / 2**20:10.0f}{(peak - gradients) / 2**20:22.0f}{row['seconds']:8.2f}")


if __name__ == "__main__":
    main()
