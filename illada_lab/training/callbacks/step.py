"""Callbacks that act once per optimiser step, and when."""

import time
from collections.abc import Callable
from typing import Any, ClassVar

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from illada_lab.training.module import DiffusionModule


def is_due(step: int, every: int | None, n_steps: int) -> bool:
    """Whether something that happens every `every` optimiser steps and at the end happens after step `step` (1 is the first)."""
    return step == n_steps or bool(every and step % every == 0)


class AtStart(Callback):
    """Something that one process does when training begins, with the weights in place.

    Args:
        act: what.
    """

    def __init__(self, act: Callable[[], Any]) -> None:
        self.act = act

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do it, in the process that writes."""
        if trainer.is_global_zero:
            self.act()


class StepCallback(Callback):
    """A callback that acts after optimiser steps, not after micro-batches.

    Subclasses write `after_step`; `step` counts from 1; `outputs` holds `loss` and `n_tokens` (that the model saw, prompts among them)
    of the whole step, over all micro-batches and processes, the same in each. The first micro-batch of the next step would show the
    same step again.

    Attributes:
        is_training: whether what it does belongs to the time of training; the rest is counted apart (`module.seconds_aside`).
    """

    is_training: ClassVar[bool] = True

    def __init__(self) -> None:
        self._seen = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A resumed run starts behind the step it was saved at."""
        self._seen = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Call `after_step` once per optimiser step."""
        if trainer.global_step > self._seen:
            self._seen = trainer.global_step
            assert isinstance(pl_module, DiffusionModule)
            begin = time.perf_counter()
            self.after_step(trainer, pl_module, pl_module.last_step, self._seen)
            if not self.is_training:
                pl_module.seconds_aside += time.perf_counter() - begin

    def after_step(self, trainer: pl.Trainer, module: DiffusionModule, outputs: dict[str, Any], step: int) -> None:
        """What to do after optimiser step `step`."""
