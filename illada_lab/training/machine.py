"""What the machine can do, measured: the yardstick of MFU, and which precision pays."""

import functools
import platform
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
        seconds: how long to measure (CUDA: 10 times as long, for a device raises its clock while it works: six measurements of a fifth of a
            second on H200s found 634 to 775 TFLOP/s); where a product of half the size takes longer than a quarter of that, it is the
            only one.
    """
    device = torch.device(device)
    seconds = 10 * seconds if device.type == "cuda" else seconds
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    size = 8 * size if device.type == "cuda" else size

    def product(n: int) -> float:
        """Seconds of one product of n rows."""
        # Whole matrices, as a model's are; the second factor stands as a weight does.
        x, weight = a[:n, :n].contiguous(), b[:n, :n].contiguous().t()
        start = time.perf_counter()
        linear(x, weight)[0, 0].item()  # reading an entry waits for the device
        return time.perf_counter() - start

    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    # A processor without bf16 units emulates them, which takes seconds at full size: an eighth of the operations tells as much.
    small = size // 2
    product(small // 4)  # what a first call alone takes
    if (taken := product(small)) > seconds / 4:
        return 2 * small**3 / taken
    product(size)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        best = min(best, product(size))
    return 2 * size**3 / best


def can_compile(device: torch.device | str) -> bool:
    """Whether `torch.compile` has what it needs here: a C++ compiler on a CPU, triton on a GPU."""
    if torch.device(device).type == "cuda":
        import importlib.util

        return importlib.util.find_spec("triton") is not None
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


def has_bf16_units() -> bool | None:
    """Whether this processor multiplies in bf16 (AVX-512 BF16, AMX); None where torch does not tell: not an x86."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return None
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def best_precision(device: torch.device | str, min_gain: float = 1.3) -> str:
    """Lightning's name of the precision that pays here: "bf16-mixed" where there are units for bf16 products, else "32-true".

    On a processor that does not tell, where such products are `min_gain` times as fast. A measurement is the last resort: beside other
    programs it may come out either way, and the same command would train another model.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    if device.type != "cpu":
        return "32-true"
    has_units = has_bf16_units()
    if has_units is None:
        has_units = matmul_rate(device, "bf16") > min_gain * matmul_rate(device, "float32")
    return "bf16-mixed" if has_units else "32-true"
