"""The guard: a run that has gone wrong stops, and says where."""

import json
import math
from collections import deque
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.distributed.tensor import DTensor

from illada_lab.files import write_text
from illada_lab.processes import gathered
from illada_lab.training.callbacks.step import StepCallback
from illada_lab.training.module import DiffusionModule


class TrainingStopped(RuntimeError):
    """A guard stopped the run; the message says at which step and where the details are."""


class LossGuard(StepCallback):
    """Stops a run whose loss or gradient is no number, or whose loss has jumped and stayed up; all processes of it at the same step.

    What led there is saved: step, loss, the samples of the step.

    Args:
        path: JSON file for the details.
        window: steps whose median a loss is compared with.
        factor: a loss above this many times the median is a spike.
        n_spikes: successive spikes that stop the run; a single one is normal at small t.

    Source: our choice; LLaDA's run went to NaN once at 1.2T tokens (section on pre-training).
    """

    def __init__(self, *, path: Path, window: int = 100, factor: float = 4.0, n_spikes: int = 20) -> None:
        super().__init__()
        self.path, self.factor, self.n_spikes = path, factor, n_spikes
        self.losses: deque[float] = deque(maxlen=window)
        self.spikes = 0
        self._step_of_index, self._index = -1, list[int]()

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        """Look at the gradient before it reaches the weights. Its norm is that of all processes, so all of them stop here."""
        assert isinstance(pl_module, DiffusionModule)
        norm = float(pl_module.measure_gradients())
        if math.isfinite(norm):
            return
        names = [name for name in gathered(_not_finite(pl_module)) if name is not None]
        why = f"the gradient of {names[0]} is not finite" if names else f"the norm of the gradients is {norm}"
        self._stop(trainer, why, trainer.global_step + 1, {"gradient_of": names[0] if names else None})

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember the samples of the step."""
        if trainer.global_step != self._step_of_index:
            self._step_of_index, self._index = trainer.global_step, []
        self._index += batch.index.tolist()

    def after_step(self, trainer: pl.Trainer, module: DiffusionModule, outputs: dict[str, Any], step: int) -> None:
        """Compare the loss with those before."""
        loss = float(outputs["loss"])
        if not math.isfinite(loss):
            self._stop(trainer, f"the loss is {loss}", step, {"loss": loss})
        is_full = len(self.losses) == self.losses.maxlen
        median = sorted(self.losses)[len(self.losses) // 2] if self.losses else math.inf
        if is_full and loss > self.factor * median:
            self.spikes += 1
            if self.spikes >= self.n_spikes:
                self._stop(
                    trainer, f"the loss is {loss:.3g}, {loss / median:.1f} times its median", step, {"loss": loss}
                )
        else:
            self.spikes = 0
            self.losses.append(loss)

    def _stop(self, trainer: pl.Trainer, why: str, step: int, details: dict[str, Any]) -> None:
        samples = sorted({i for part in gathered(self._index) for i in part})  # type: ignore[attr-defined]
        recent = list(self.losses)[-20:]
        record = {"step": step, "why": why, "samples": samples, "recent_losses": recent, **details}
        if trainer.is_global_zero:
            write_text(self.path, json.dumps(record, indent=1))
        raise TrainingStopped(
            f"step = {step}; {why}; samples of the batch and recent losses are in {self.path}; "
            "try a lower lr.peak_ratio (every learning rate is multiplied by it) or more lr.n_warmup_steps, and resume=auto from the last "
            "checkpoint"
        )

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"losses": list(self.losses), "spikes": self.spikes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From the checkpoint."""
        self.losses.extend(state_dict["losses"])
        self.spikes = state_dict["spikes"]


def _not_finite(module: DiffusionModule) -> str | None:
    """Name of the first parameter whose gradient, or the part of it that is here, is no number."""
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            grad = parameter.grad.to_local() if isinstance(parameter.grad, DTensor) else parameter.grad
            if not torch.isfinite(grad).all():
                return name
    return None
