"""What a result must say of itself: code, configuration, versions, machine."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import metadata
from pathlib import Path
from typing import Any

import illada_lab

PACKAGES = ("torch", "lightning", "hydra-core", "datasets", "tokenizers", "numpy")
# Everything but results, as git is told.
CODE = (":/", ":(top,exclude)results", ":(top,exclude)benchmarks/results")

CONTROL_GROUPS, OWN_CONTROL_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
V1_FILES, V2_FILES = ("memory.limit_in_bytes", "memory.usage_in_bytes"), ("memory.max", "memory.current")

# What a process does, where its own command line does not tell.
_told_command: ContextVar[str | None] = ContextVar("told_command", default=None)


def manifest(*, seed: int, scale: str, command: str | None = None) -> dict[str, Any]:
    """Plain data that goes into every result file.

    Args:
        seed: of the run.
        scale: name of the scale.
        command: as typed; None: that of `told_as_command`, or this process's.
    """
    # `python -m illada_lab.cli` is the same program.
    typed = " ".join([Path(sys.argv[0]).name.replace("cli.py", "illada-lab"), *sys.argv[1:]])
    return {
        "command": command or _told_command.get() or typed,
        "commit": commit(),
        "scale": scale,
        "seed": seed,
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
        "versions": {"illada_lab": illada_lab.__version__, "python": platform.python_version(), **versions(PACKAGES)},
        "machine": machine(),
    }


@contextmanager
def told_as_command(command: str) -> Iterator[None]:
    """Inside, manifests say this command: a job that another program has started was not typed as it runs.

    Args:
        command: what does the same where it is typed.
    """
    token = _told_command.set(command)
    try:
        yield
    finally:
        _told_command.reset(token)


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
    """Memory that processes may take here: the machine's, or less where a container or SLURM says so; 0 where nobody tells."""
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        whole = 0
    return min((n for n in (whole, *(limit for limit, _ in memory_limits())) if n > 0), default=0)


def memory_limits() -> list[tuple[int, int]]:
    """Limits of the control groups (cgroup v1 and v2) that this process is in, its own and all above it.

    Returns:
        For each limit: bytes allowed, and bytes taken that cannot be given back at once (0 where that is not told).
    """
    found = []
    for folder, limit_file, taken_file in _control_groups():
        limit, taken = _number(folder / limit_file), _number(folder / taken_file)
        if limit > 0:
            found.append((limit, max(0, taken - _cached(folder))))
    return found


def _control_groups() -> Iterator[tuple[Path, str, str]]:
    """Folders of the groups, with the names of the files that tell limit and usage."""
    try:
        lines = OWN_CONTROL_GROUPS.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount, files = (CONTROL_GROUPS / "memory", V1_FILES) if controllers else (CONTROL_GROUPS, V2_FILES)
        # In a container the path may be the host's, which is not seen there: the mount itself is the container's group then.
        steps = [step for step in path.split("/") if step]
        for n in range(len(steps) + 1):
            yield mount.joinpath(*steps[:n]), *files


def _cached(folder: Path) -> int:
    """Bytes of files that are kept in memory while nobody needs it."""
    try:
        of_group = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int(of_group.get("total_inactive_file", of_group.get("inactive_file", 0)))
    except (OSError, ValueError):
        return 0


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max" is no number
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
