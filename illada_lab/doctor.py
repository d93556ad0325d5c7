"""What this machine has and what would be used on it: facts for `illada-lab doctor`, tried, not guessed."""

import os
import platform
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import illada_lab
from illada_lab.extras import OPTIONAL
from illada_lab.manifest import memory_bytes, memory_limits, processor_name, versions
from illada_lab.models.kernels import KERNELS, Kernel, Need, choose, trial

PACKAGES = (
    "torch",
    "lightning",
    "hydra-core",
    "datasets",
    "tokenizers",
    "numpy",
    "transformers",
    "flash-attn",
    "wandb",
)
# What decides how fast bf16 is on a CPU (avx512_bf16, amx) and float32 (avx2, avx512f); asimd and bf16 are ARM's.
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16", "asimd", "bf16", "sve")
GIB = 2**30
# Entries of an attention head that kernels are tried with: that of the 8B models is 128, of the small ones 64.
HEAD_SIZE = 64


def examine(n_parameters: int | None = None) -> dict[str, Any]:
    """Everything `illada-lab doctor` shows, as plain data.

    Args:
        n_parameters: size of the configured model; None: nothing is said of its memory.

    Returns:
        versions, cpu, memory, gpu, kernels, would_use, extras (and training_state): each a dictionary.
    """
    device = best_device()
    kernels = try_kernels(device)
    found = {
        "versions": {
            "illada_lab": illada_lab.__version__,
            "python": platform.python_version(),
            **versions(PACKAGES),
        },
        "cpu": cpu(),
        "memory": memory(),
        "gpu": gpu(),
        "kernels": kernels,
        "would_use": would_use(device, kernels),
        "extras": {
            o.module: "installed" if o.is_installed else f"missing; adds {o.adds}; {o.how_to_install}" for o in OPTIONAL
        },
    }
    if n_parameters is not None:
        found["training_state"] = training_state(n_parameters, found)
    return found


def best_device() -> torch.device:
    """The device that `trainer.accelerator=auto` takes."""
    from illada_lab.training.settings import find_device

    return find_device("auto")


def cpu() -> dict[str, Any]:
    """Processor, its cores and threads, and what it has for number crunching."""
    flags: set[str] = set()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                flags = set(line.partition(":")[2].split())
                break
    except OSError:  # not Linux
        pass
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "features": [flag for flag in CPU_FLAGS if flag in flags],
        "vector_width": torch.backends.cpu.get_cpu_capability(),
        "compiler": next((name for name in ("g++", "clang++", "c++") if shutil.which(name)), None),
    }


def memory() -> dict[str, Any]:
    """Memory and disk in GiB; what is free now, and in all."""
    disk = shutil.disk_usage(Path.cwd())
    return {
        "free_gib": round(free_memory_bytes() / GIB, 1),
        "total_gib": round(memory_bytes() / GIB, 1),
        "disk_free_gib": round(disk.free / GIB, 1),
        "disk_total_gib": round(disk.total / GIB, 1),
    }


def free_memory_bytes() -> int:
    """Memory that a new process could take, within the limits of its container or job too; 0 where the system does not tell."""
    found = [limit - taken for limit, taken in memory_limits()]
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable"):
                found.append(int(line.split()[1]) * 1024)
    except (OSError, ValueError):
        pass
    return max(0, min(found, default=0))


def gpu() -> dict[str, Any] | None:
    """The first GPU, None without one."""
    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    major, minor = torch.cuda.get_device_capability()
    return {
        "name": torch.cuda.get_device_name(),
        "count": torch.cuda.device_count(),
        "capability": f"{major}.{minor}",
        "cuda": torch.version.cuda,
        "free_gib": round(free / GIB, 1),
        "total_gib": round(total / GIB, 1),
        "has_bf16": torch.cuda.is_bf16_supported(including_emulation=False),
    }


def try_kernels(device: torch.device) -> dict[str, str]:
    """Which attention kernels give the right output and gradients here: two segments, grouped queries, against plain arithmetic.

    Returns:
        Name of the kernel -> "works", or why it does not.
    """
    # Kernels for segments of any length take half precision only.
    need = Need(device, torch.bfloat16 if device.type == "cuda" else torch.float32, HEAD_SIZE)
    forward = replace(need, needs_gradient=False)
    found = {}
    for kernel in (kernel for kernels in KERNELS.values() for kernel in kernels):
        found[kernel.name] = problem = _tried(kernel, need)
        if problem != "works" and _tried(kernel, forward) == "works":
            found[kernel.name] = f"works in inference; {problem}"
    return found


def _tried(kernel: Kernel, need: Need) -> str:
    problem = kernel.problem(need)
    if problem is None and (problem := trial(kernel, need)) is None:
        return "works"
    return f"wrong: {problem}" if problem.startswith("is wrong") else f"no: {problem}"


def would_use(device: torch.device, kernels: dict[str, str]) -> dict[str, Any]:
    """What the default settings come to on this machine; see `training.machine` for the rules."""
    from illada_lab.training.machine import best_precision, can_compile, matmul_rate

    dtype = torch.bfloat16 if best_precision(device) == "bf16-mixed" else torch.float32
    attention = choose("auto", Need(device, dtype, HEAD_SIZE)).name
    rates = {name: round(matmul_rate(device, name) / 1e9) for name in ("float32", "bf16")}
    return {
        "device": str(device),
        "precision": best_precision(device),
        "matmul_gflops": rates,
        "can_compile": can_compile(device),
        "attention": attention
        if kernels.get(attention, "works") == "works"
        else f"none: {attention} {kernels[attention]}",
    }


def training_state(n_parameters: int, found: dict[str, Any]) -> dict[str, Any]:
    """Memory of weights, gradients and AdamW's two moments in float32 against what is free; activations come on top."""
    needed = 16 * n_parameters / GIB
    free = (found["gpu"] or found["memory"])["free_gib"]
    return {
        "parameters": n_parameters,
        "state_gib": round(needed, 2),
        "free_gib": free,
        "fits": bool(needed < free) if free else None,
    }
