"""Attention kernels side by side: time and rate of forward and backward pass, whole rows and packed segments.

    python -m benchmarks.attention [--device cpu] [--rounds 5] [--length 8192] [--heads 32] [--kv-heads 8] [--head-size 128]

Kernels take turns, round by round; medians. Those that do not run here are listed with the reason. Operations are counted as
4 L^2 D per whole row in the forward pass and 2.5 times that in the backward pass; segments count their own squares only.
torch's fused attention stands once as it chooses by itself and, on CUDA, once for each of its backends.
Writes a table and `benchmarks/results/attention_<device>.json`.
"""

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.common import parser, started, write
from illada_lab.models.kernels import KERNELS, Need, Sight
from illada_lab.models.kernels.choice import trial
from illada_lab.models.segments import PackedSegments
from illada_lab.training.machine import matmul_rate

BACKENDS = {"cuDNN": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}
N_SEGMENTS = 8


@dataclass
class Way:
    """A kernel, and what it took: seconds of the forward pass and of both, or why it does not run."""

    name: str
    view: Callable[[Sight], Callable[[Tensor, Tensor, Tensor], Tensor]]
    inside: Callable[[], AbstractContextManager[Any]] = nullcontext
    forward: list[float] = field(default_factory=list)
    both: list[float] = field(default_factory=list)
    problem: str | None = None


def ways(device: torch.device, dtype: torch.dtype, head_size: int) -> list[Way]:
    """All kernels, those that cannot run with their problem."""
    made = []
    for kernel in (kernel for kernels in KERNELS.values() for kernel in kernels):
        need = Need(device, dtype, head_size)
        made.append(Way(kernel.name, kernel.view, problem=kernel.problem(need) or trial(kernel, need)))
        if kernel.name == "sdpa" and device.type == "cuda":
            made += [
                Way(f"sdpa, {name}", kernel.view, partial(sdpa_kernel, backend)) for name, backend in BACKENDS.items()
            ]
    return made


def sights(length: int, device: torch.device) -> dict[str, tuple[Sight, float]]:
    """Name -> who sees whom in one row, and how many pairs that are."""
    generator = torch.Generator().manual_seed(0)
    cuts = torch.randperm(length - 1, generator=generator)[: N_SEGMENTS - 1].add_(1).sort().values
    offsets = torch.cat((torch.tensor([0]), cuts, torch.tensor([length])))
    packed = Sight.of_packed(PackedSegments(offsets.to(device)))
    return {
        "whole row": (Sight(), float(length**2)),
        f"{N_SEGMENTS} packed segments": (packed, float((offsets.diff() ** 2).sum())),
    }


def timed(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds of a call, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(made: list[Way], sight: Sight, qkv: list[Tensor], weight: Tensor, rounds: int) -> None:
    """Fill in the times; the first two rounds warm up and are not counted."""
    device = weight.device
    for number in range(-2, rounds):
        for way in (way for way in made if way.problem is None):
            try:
                with way.inside():
                    view = way.view(sight)
                    with torch.no_grad():
                        forward = timed(partial(view, *qkv), device)
                    both = timed(lambda view=view: torch.autograd.grad(view(*qkv), qkv, weight), device)
            except (RuntimeError, NotImplementedError) as error:  # out of memory, or no kernel for this
                way.problem = str(error).strip().splitlines()[0][:120]
                continue
            if number >= 0:
                way.forward.append(forward)
                way.both.append(both)


def main() -> None:
    """Measure, print, write."""
    made = parser("Attention kernels side by side", rounds=5)
    for name, default in (("length", None), ("heads", 32), ("kv-heads", 8), ("head-size", 128)):
        made.add_argument(f"--{name}", type=int, default=default)
    arguments = started(made)
    device = torch.device(arguments.device)
    length = arguments.length or (8192 if device.type == "cuda" else 512)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    peak = matmul_rate(device, "bf16" if dtype == torch.bfloat16 else "float32")
    generator = torch.Generator().manual_seed(0)
    heads = (arguments.heads, arguments.kv_heads, arguments.kv_heads, arguments.heads)
    *qkv, weight = (
        torch.randn(1, n, length, arguments.head_size, generator=generator).to(device, dtype) for n in heads
    )
    qkv = [x.requires_grad_() for x in qkv]
    tables: dict[str, list[dict[str, Any]]] = {}
    for title, (sight, n_pairs) in sights(length, device).items():
        found = ways(device, dtype, arguments.head_size)
        measure(found, sight, qkv, weight, arguments.rounds)
        operations = 4 * n_pairs * arguments.heads * arguments.head_size
        tables[title] = []
        for way in found:
            row: dict[str, Any] = {"kernel": way.name, "problem": way.problem}
            if way.problem is None:
                forward, both = statistics.median(way.forward), statistics.median(way.both)
                row |= {
                    "forward_ms": 1e3 * forward,
                    "both_ms": 1e3 * both,
                    "forward_over_matmul_peak": operations / forward / peak,
                    "both_over_matmul_peak": 3.5 * operations / both / peak,
                }
            tables[title].append(row)
    content = {"length": length, "heads": arguments.heads, "kv_heads": arguments.kv_heads, "dtype": str(dtype)}
    write(
        arguments,
        "attention",
        {**content, "head_size": arguments.head_size, "matmul_peak_flops": peak, "tables": tables},
    )
    for title, rows in tables.items():
        print(f"\n{title}, length {length}, matmul peak {peak / 1e12:.2f} TFLOP/s")
        for row in rows:
            print(
                f"{row['kernel']:16}"
                + (
                    row["problem"]
                    or f"forward {row['forward_ms']:8.2f} ms ({row['forward_over_matmul_peak']:5.1%} of the peak), "
                    f"both {row['both_ms']:8.2f} ms ({row['both_over_matmul_peak']:5.1%})"
                )
            )


if __name__ == "__main__":
    main()
