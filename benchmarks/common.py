"""What every benchmark has: its arguments, and a result that says how it came about."""

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch

from illada_lab.manifest import commit, machine, versions


def parser(description: str, rounds: int) -> argparse.ArgumentParser:
    """Device, threads, rounds and the folder of results; a benchmark adds its own."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--device", default="cpu")
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--rounds", type=int, default=rounds)
    made.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return made


def started(made: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments given; ends with a word where the device is not there."""
    arguments = made.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("skipped: no CUDA device here")
        raise SystemExit(0)
    torch.set_num_threads(arguments.threads)
    return arguments


def write(arguments: argparse.Namespace, name: str, content: dict[str, Any], file: str | None = None) -> dict[str, Any]:
    """Write `<out>/<file or name>_<device>.json`; returns what was written."""
    result = {
        "benchmark": name,
        "command": " ".join(["python -m", f"benchmarks.{name}", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "versions": {"python": platform.python_version(), **versions(("torch", "lightning"))},
        "machine": machine(),
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        **content,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / f"{file or name}_{arguments.device}.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def remember(arguments: argparse.Namespace, result: dict[str, Any]) -> None:
    """Add a result to the history of its benchmark, `<out>/<benchmark>_history.jsonl`, oldest first."""
    with (arguments.out / f"{result['benchmark']}_history.jsonl").open("a") as file:
        file.write(json.dumps(result) + "\n")
