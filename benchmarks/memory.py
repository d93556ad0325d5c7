"""Memory that training takes against what the planner said it would, one process per shape.

    python -m benchmarks.memory [--device cpu] [--shapes 6] [--out benchmarks/results]

Each shape is trained for three steps by Lightning, with this package's module, objective and optimiser, in a process of its own. Measured
are the allocator's peak (on a CPU by torch's profiler) and the process's peak of resident memory above what it held before the model was
there (on CUDA what the allocator reserved). The plan is made before: with the largest share of masked positions that can be expected of so
many rows; what it would have been with that of those steps is written beside it (`planned_knowing_the_masks`). Writes a table and
`benchmarks/results/memory_<device>.json`.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from benchmarks.common import parser, started, write

MIB = 2**20
N_STEPS = 3
ADAMW, MUON = "adamw", "muon"
BF16, FLOAT32 = "bf16-mixed", "32-true"
# Ten to a hundred million parameters; short and long rows; large and small vocabularies; every setting that moves memory.
SHAPES: list[dict[str, Any]] = [
    dict(d_model=384, vocab_size=8192, n_rows=8, length=512, optim=ADAMW, precision=FLOAT32),
    dict(d_model=384, vocab_size=8192, n_rows=8, length=512, optim=MUON, precision=BF16),
    dict(d_model=512, vocab_size=32_768, n_rows=2, length=2048, optim=ADAMW, precision=FLOAT32, recomputed=1),
    dict(d_model=512, vocab_size=16_384, n_rows=16, length=256, optim=ADAMW, precision=BF16),
    dict(d_model=768, vocab_size=32_768, n_rows=2, length=1024, optim=MUON, precision=FLOAT32),
    dict(d_model=768, vocab_size=32_768, n_rows=4, length=512, optim=ADAMW, precision=BF16, accumulate=2),
    dict(d_model=512, vocab_size=16_384, n_rows=16, length=256, optim=ADAMW, precision=FLOAT32, is_compiled=True),
]

# On a GPU: up to 1.2 billion parameters, iLLaDA's vocabulary, every way to compute activations again.
CUDA_SHAPES: list[dict[str, Any]] = [
    dict(d_model=768, vocab_size=32_768, n_rows=16, length=1024, optim=ADAMW, precision=BF16),
    dict(d_model=768, vocab_size=32_768, n_rows=16, length=1024, optim=MUON, precision=BF16, accumulate=2),
    dict(d_model=1024, vocab_size=155_136, n_rows=4, length=4096, optim=ADAMW, precision=FLOAT32),
    dict(d_model=2048, vocab_size=65_536, n_rows=4, length=4096, optim=ADAMW, precision=BF16, recomputed=1),
    dict(d_model=2048, vocab_size=65_536, n_rows=4, length=4096, optim=ADAMW, precision=BF16, recomputed="ops"),
    dict(d_model=768, vocab_size=32_768, n_rows=16, length=1024, optim=ADAMW, precision=BF16, is_compiled=True),
]


def measure(shape: dict[str, Any], device: Literal["cpu", "cuda"]) -> dict[str, Any]:
    """Plan and train one shape in this process.

    Args:
        shape: an entry of `SHAPES` or `CUDA_SHAPES`.
        device: where.

    Returns:
        The shape, the number of parameters, the planned parts and both measured peaks, in bytes.
    """
    import torch

    from illada_lab.models import MaskPredictor, ModelSpec
    from illada_lab.planner import Step, in_proportion, rehearse
    from illada_lab.planner.measure import measured_steps
    from illada_lab.tokens import ILLADA
    from illada_lab.training.optim import adamw, muon

    optims = {ADAMW: partial(adamw, lr=1e-3), MUON: partial(muon, lr=1e-3, adamw_lr=1e-3)}
    sizes = in_proportion(shape["d_model"], vocab_size=shape["vocab_size"], length=shape["length"])

    torch.manual_seed(0)
    seen = measured_steps(
        lambda: MaskPredictor(tokens=ILLADA, **sizes),
        optims[shape["optim"]],
        n_rows=shape["n_rows"],
        length=shape["length"],
        precision=shape["precision"],
        accumulate=shape.get("accumulate", 1),
        is_compiled=shape.get("is_compiled", False),
        recomputed=shape.get("recomputed"),
        n_steps=N_STEPS,
        accelerator=device,
    )
    step = Step(
        spec=ModelSpec(**sizes),
        n_rows=shape["n_rows"],
        length=shape["length"],
        optim=optims[shape["optim"]],
        precision=shape["precision"],
        recomputed=shape.get("recomputed"),
        keeps_gradients=shape.get("accumulate", 1) > 1,
        is_on_cpu=device == "cpu",
        is_compiled=shape.get("is_compiled", False),
    )
    planned = rehearse(step).peak
    # Of which the head's part hangs on how many positions happened to be masked: what the plan would have been, had it known.
    told = rehearse(replace(step, share_predicted=seen.largest_share)).peak
    return {
        **shape,
        "n_layers": sizes["n_layers"],
        "parameters": ModelSpec(**sizes).n_parameters,
        "planned": dict(planned),
        "planned_total": planned.total(),
        "planned_knowing_the_masks": told.total(),
        **asdict(seen),
    }


def main() -> None:
    """Measure each shape in a process of its own, print, write."""
    made = parser("Planned memory of training against measured", rounds=1)
    made.add_argument("--shapes", type=int, help="how many of the shapes, from the first; default: all")
    made.add_argument("--one", type=json.loads, default=None, help="measure this shape here and print JSON")
    arguments = started(made)
    if arguments.one is not None:
        print(json.dumps(measure(arguments.one, arguments.device)))
        return
    shapes = CUDA_SHAPES if arguments.device == "cuda" else SHAPES
    print(f"{'parameters':>12}{'rows x length':>15}  {'':26}{'planned':>9}{'allocated':>11}{'':8}{'resident':>10}  MiB")
    rows = []
    for shape in shapes[: arguments.shapes]:
        rows.append(row := _in_child(shape, arguments))
        planned, allocated, resident = (row[key] / MIB for key in ("planned_total", "allocated", "resident"))
        how = f"{row['optim']}, {row['precision']}" + (
            f", recomputed {row['recomputed']}" if row.get("recomputed") else ""
        )
        how += ", compiled" if row.get("is_compiled") else ""
        print(
            f"{row['parameters']:12,}{row['n_rows']:6} x {row['length']:<6}  {how:26}{planned:9.0f}{allocated:11.0f}"
            f" ({planned / allocated - 1:+.1%}){resident:9.0f} ({planned / resident - 1:+.1%})"
        )
        write(arguments, "memory", {"shapes": rows})  # at each shape: a session on a lent GPU can end before the last


def _in_child(shape: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.memory", "--device", arguments.device]
    command += ["--threads", str(arguments.threads), "--one", json.dumps(shape)]
    root = Path(__file__).resolve().parent.parent
    # What torch frees goes back to the system at once: otherwise the resident peak also counts what the C library keeps in store.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(MIB // 4), "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{shape}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
