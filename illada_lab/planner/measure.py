"""Memory of real training steps, on a CPU or a CUDA device: what plans are checked against."""

import gc
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch.optim import Optimizer
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader

from illada_lab.data.batch import Batch
from illada_lab.models import MaskPredictor
from illada_lab.objectives import Autoregressive, Pretrain
from illada_lab.planner.ladder import in_proportion
from illada_lab.tokens import ILLADA
from illada_lab.training.distributed.sharding import Recomputed, recompute
from illada_lab.training.lr import ConstantCosine
from illada_lab.training.module import DiffusionModule


@dataclass(frozen=True)
class Measured:
    """What training steps took.

    Attributes:
        allocated: bytes that torch's allocator had given out at the fullest moment, model included.
        resident: bytes the system had given: growth of the process's resident memory from before the model to its peak, 0 where the
            system does not tell; on a CUDA device what the allocator had reserved.
        largest_share: largest share of positions that were masked in a forward pass; none are for the autoregressive twin.
    """

    allocated: int
    resident: int
    largest_share: float


def measured_steps(
    make: Callable[[], MaskPredictor],
    optim: Callable[[MaskPredictor], Optimizer],
    *,
    n_rows: int,
    length: int,
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    accumulate: int = 1,
    is_compiled: bool = False,
    recomputed: Recomputed = None,
    n_steps: int = 3,
    accelerator: Literal["cpu", "cuda"] = "cpu",
    objective: type[Pretrain | Autoregressive] = Pretrain,
) -> Measured:
    """Train a new model for a few steps with Lightning, this package's module and objective, on random tokens.

    On a CPU twice: once watched by the system, once by the profiler, whose own memory is resident too. Resident memory means something in a
    process that has not trained before: later it takes what it has already got.

    Args:
        make: builds the model.
        optim: predictor -> optimiser.
        n_rows: rows per forward pass.
        length: tokens per row.
        precision: Lightning's name.
        accumulate: forward passes per step.
        is_compiled: compile the layers.
        recomputed: activations computed again in the backward pass, see `recompute`.
        n_steps: optimiser steps.
        accelerator: where.
        objective: what is learnt; the model has to be made for it.
    """
    train = partial(
        _train,
        optim=optim,
        precision=precision,
        accumulate=accumulate,
        is_compiled=is_compiled,
        recomputed=recomputed,
        n_steps=n_steps,
        accelerator=accelerator,
        objective=objective,
    )
    # Libraries are loaded, and threads started, by the first step there is.
    sizes = {**in_proportion(32, vocab_size=64, length=16), "is_causal": objective.needs_causal}
    train(MaskPredictor(tokens=ILLADA, **sizes), n_rows=2, length=16)
    gc.collect()
    if accelerator == "cuda":
        return _on_cuda(make, train, n_rows, length)
    before = _forget_peak()
    train(make(), n_rows=n_rows, length=length)
    resident = max(0, _status("VmHWM") - before)
    gc.collect()  # what is freed while the profiler watches would count against what is allocated
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        predictor = make()
        shares = _count_predicted(predictor)
        train(predictor, n_rows=n_rows, length=length)
    return Measured(allocated=_allocated(watched), resident=resident, largest_share=max(shares))


def _on_cuda(make: Callable[[], MaskPredictor], train: Callable[..., None], n_rows: int, length: int) -> Measured:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    predictor = make()
    shares = _count_predicted(predictor)
    train(predictor, n_rows=n_rows, length=length)
    return Measured(
        allocated=torch.cuda.max_memory_allocated() - allocated,
        resident=torch.cuda.max_memory_reserved() - reserved,
        largest_share=max(shares),
    )


def _train(
    predictor: MaskPredictor,
    *,
    optim: Callable[[MaskPredictor], Optimizer],
    n_rows: int,
    length: int,
    precision: Literal["32-true", "bf16-mixed"],
    accumulate: int,
    is_compiled: bool,
    recomputed: Recomputed,
    n_steps: int,
    accelerator: Literal["cpu", "cuda"],
    objective: type[Pretrain | Autoregressive],
) -> None:
    module = DiffusionModule(
        predictor=predictor,
        objective=objective(),  # type: ignore[arg-type]  # the twin needs a whole MaskPredictor, which this is
        optim=optim,
        lr=partial(ConstantCosine, n_steps=n_steps + 1),
        is_compiled=is_compiled,
    )
    recompute(predictor, recomputed)  # behind compiling, as in training
    batches = [_batch(i, n_rows, length, predictor.spec.vocab_size) for i in range(n_steps * accumulate)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(does not have many workers|LeafSpec|max_epochs).*")
        pl.Trainer(
            max_steps=n_steps,
            accelerator=accelerator,
            devices=1,
            precision=precision,
            accumulate_grad_batches=accumulate,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]


def _batch(i: int, n_rows: int, length: int, vocab_size: int) -> Batch:
    generator = torch.Generator().manual_seed(i)
    return Batch(
        tokens=torch.randint(7, vocab_size, (n_rows, length), generator=generator),
        segment_ids=(1 + torch.arange(length) // -(-length // 2))
        .expand(n_rows, length)
        .contiguous(),  # two in each row
        is_prompt=torch.zeros(n_rows, length, dtype=torch.bool),
        index=torch.arange(n_rows) + i * n_rows,
    )


def _count_predicted(predictor: MaskPredictor) -> list[float]:
    """A list that gets, in each forward pass, the share of inputs that are [MASK]."""
    shares: list[float] = []
    predictor.embed_tokens.register_forward_hook(
        lambda module, inputs, out: shares.append(float((inputs[0] == predictor.tokens.mask).float().mean()))
    )
    return shares


def _allocated(watched: Any) -> int:
    """Highest "total allocated" above the first among the profiler's events."""
    found = sorted(
        (event.start_time_ns, event.extra_fields.alloc_size, event.extra_fields.total_allocated)
        for event in _allocations(watched)
    )
    _, size, total = found[0]
    before = total - max(0, size)
    return max(total for _, _, total in found) - before


def _allocations(watched: Any) -> Iterator[Any]:
    """The profiler's events of memory given out (bytes above 0) and given back."""
    waiting = list(watched.profiler.kineto_results.experimental_event_tree())
    while waiting:
        event = waiting.pop()
        if "Allocation" in str(event.tag):
            yield event
        waiting += event.children


def _forget_peak() -> int:
    """Resident bytes now; from here on VmHWM is the peak since."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux
        return 0
    return _status("VmRSS")


def _status(key: str) -> int:
    try:
        lines = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key)), 0)
