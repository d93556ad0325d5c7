"""What the machine can do, measured: the yardstick of MFU, and which precision pays."""

import functools
import shutil
import time

import torch

from illada_lab.models.linear import linear


@functools.cache
def matmul_rate(device: torch.device | str, precision: str, size: int = 1024, seconds: float = 0.2) -> float:
    """Floating-point operations per second of a square matrix product as the model computes it, the best of several.

    Args:
        device: where.
        precision: "float32" or "bf16".
        size: rows of the matrices (CUDA: 8 times as many, to fill it).
        seconds: how long to measure.
    """
    device = torch.device(device)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    size = 8 * size if device.type == "cuda" else size
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + seconds
    b = b.t()  # as a weight stands
    linear(a, b).sum().item()
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        linear(a, b)[0, 0].item()  # reading an entry waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def can_compile(device: torch.device | str) -> bool:
    """Whether `torch.compile` has what it needs here: a C++ compiler on a CPU, triton on a GPU."""
    if torch.device(device).type == "cuda":
        import importlib.util

        return importlib.util.find_spec("triton") is not None
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


def best_precision(device: torch.device | str, min_gain: float = 1.3) -> str:
    """Lightning's name of the precision that pays here: "bf16-mixed" where bf16 products are that much faster, else "32-true"."""
    device = torch.device(device)
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    if device.type != "cpu":
        return "32-true"
    return "bf16-mixed" if matmul_rate(device, "bf16") > min_gain * matmul_rate(device, "float32") else "32-true"
