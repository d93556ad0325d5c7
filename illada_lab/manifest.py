"""What a result must say of itself: code, configuration, versions, machine."""

import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import illada_lab

PACKAGES = ("torch", "lightning", "hydra-core", "datasets", "tokenizers", "numpy")
# Everything but results, as git is told.
CODE = (":/", ":(top,exclude)results", ":(top,exclude)benchmarks/results")


def manifest(*, seed: int, scale: str, command: str | None = None) -> dict[str, Any]:
    """Plain data that goes into every result file.

    Args:
        seed: of the run.
        scale: name of the scale.
        command: as typed; None: this process's.
    """
    return {
        # `python -m illada_lab.cli` is the same program.
        "command": command or " ".join([Path(sys.argv[0]).name.replace("cli.py", "illada-lab"), *sys.argv[1:]]),
        "commit": commit(),
        "scale": scale,
        "seed": seed,
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
        "versions": {"illada_lab": illada_lab.__version__, "python": platform.python_version(), **versions(PACKAGES)},
        "machine": machine(),
    }


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Installed version of each package, "not installed" otherwise."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def machine() -> dict[str, Any]:
    """Processor, cores, threads, memory, and the GPU if there is one; whether it played a part, a result says by its `device`."""
    import torch

    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(memory_bytes() / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def memory_bytes() -> int:
    """Memory of the machine, 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0


def processor_name() -> str:
    """Name of the processor, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """Commit of the checkout this package runs from, with "+changes" where files differ; None outside of one.

    Files of results do not count: whoever measures one after the other has changed some.
    """
    folder = Path(__file__).resolve().parent

    def run(*arguments: str) -> str:
        return subprocess.run(
            ["git", "--no-optional-locks", *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout

    try:
        if "illada_lab/__init__.py" not in run("ls-files", "--full-name", "__init__.py"):
            return None
        return run("rev-parse", "--short=12", "HEAD").strip() + (
            "+changes" if run("status", "--porcelain", "-uno", "--", *CODE).strip() else ""
        )
    except (OSError, subprocess.SubprocessError):
        return None
