"""What happens around training steps: validation, checkpoints, guards, throughput, history."""

import json
import math
import time
from collections import deque
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO

from illada_lab.training.checkpoint import LAST, save_atomically
from illada_lab.training.machine import matmul_rate
from illada_lab.training.module import DiffusionModule


class TrainingStopped(RuntimeError):
    """A guard stopped the run; the message says at which step and where the details are."""


def is_due(step: int, every: int | None, n_steps: int) -> bool:
    """Whether something that happens every `every` optimiser steps and at the end happens after step `step` (1 is the first)."""
    return step == n_steps or bool(every and step % every == 0)


class StepCallback(Callback):
    """A callback that acts after optimiser steps, not after micro-batches.

    Subclasses write `after_step`; `step` counts from 1. The first micro-batch of the next step would show the same step again.
    """

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
            self.after_step(trainer, pl_module, outputs, self._seen)

    def after_step(self, trainer: pl.Trainer, module: DiffusionModule, outputs: dict[str, Any], step: int) -> None:
        """What to do after optimiser step `step`."""


class History(StepCallback):
    """Losses, rates and validations of a run, kept in its checkpoints, so that a resumed run has one history.

    Args:
        every: optimiser steps between two records of the training loss.
        path: JSON file it is also written to at every validation, or None.
    """

    def __init__(self, *, every: int = 10, path: Path | None = None) -> None:
        super().__init__()
        self.every, self.path = every, path
        self.train: list[dict[str, float]] = []
        self.validation: list[dict[str, Any]] = []
        self.seconds, self.n_tokens = 0.0, 0
        self._losses: list[float] = []
        self._before: float | None = None

    def after_step(self, trainer: pl.Trainer, module: DiffusionModule, outputs: dict[str, Any], step: int) -> None:
        """Record the mean loss of the last steps."""
        now = time.perf_counter()
        # The first step of a process is left out: it compiles.
        if self._before is not None:
            self.seconds += now - self._before
            self.n_tokens += outputs["n_tokens"] * trainer.accumulate_grad_batches * trainer.world_size
        self._losses.append(float(outputs["loss"]))
        if is_due(step, self.every, trainer.max_steps):
            record = {
                "step": step,
                "loss": sum(self._losses) / len(self._losses),
                "lr": trainer.optimizers[0].param_groups[0]["lr"],
                "gradient_norm": module.last_gradient_norm,
            }
            self.train.append(record)
            self._losses = []
        self._before = time.perf_counter()

    def add_validation(self, step: int, summary: dict[str, dict[str, float]], bins: list[dict[str, float]]) -> None:
        """Record a validation; the bins of the latest one only."""
        for record in self.validation:
            record.pop("bins", None)
        self.validation.append({"step": step, "kinds": summary, "bins": bins})
        # Validation is not training time.
        self._before = None
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.to_dict()))

    @property
    def tokens_per_second(self) -> float:
        """Training tokens per second of training time; validation and checkpoints are not in it."""
        return self.n_tokens / self.seconds if self.seconds else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for reports."""
        return {
            "train": self.train,
            "validation": self.validation,
            "seconds": self.seconds,
            "tokens": self.n_tokens,
            "tokens_per_second": self.tokens_per_second if self.seconds else None,
        }

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {**self.to_dict(), "losses": self._losses}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From the checkpoint."""
        self.train, self.validation = state_dict["train"], state_dict["validation"]
        self.seconds, self.n_tokens, self._losses = state_dict["seconds"], state_dict["tokens"], state_dict["losses"]


class Validation(StepCallback):
    """Validate on the frozen masks every so often and at the end.

    Args:
        every: optimiser steps between validations; None: at the end only.
        history: where results go.
    """

    def __init__(self, *, every: int | None, history: History) -> None:
        super().__init__()
        self.every, self.history = every, history

    def after_step(self, trainer: pl.Trainer, module: DiffusionModule, outputs: dict[str, Any], step: int) -> None:
        """Validate, log, and tell the schedule."""
        if not is_due(step, self.every, trainer.max_steps):
            return
        result = module.validate()
        if result is None:
            return
        summary = result.summary()
        self.history.add_validation(step, summary, result.bins())
        logged = {
            f"validation/{kind}/{name}": row[name]
            for kind, row in summary.items()
            for name in ("nelbo_per_token", "over_entropy", "bits_per_byte")
            if name in row
        }
        for logger in trainer.loggers:
            logger.log_metrics(logged, step)
        module.observe(summary["all"]["nelbo_per_token"])


class RollingCheckpoint(StepCallback):
    """Save `last.ckpt` every so often and at the end; the one before stays as `previous.ckpt`.

    Args:
        folder: where they go.
        every: optimiser steps between saves; None: at the end only.
    """

    def __init__(self, *, folder: Path, every: int | None) -> None:
        super().__init__()
        self.folder, self.every = folder, every

    def after_step(self, trainer: pl.Trainer, module: DiffusionModule, outputs: dict[str, Any], step: int) -> None:
        """Save if due."""
        if is_due(step, self.every, trainer.max_steps):
            trainer.save_checkpoint(self.folder / LAST, weights_only=False)


class LossGuard(StepCallback):
    """Stops a run whose loss or gradient is no number, or whose loss has jumped and stayed up.

    What led there is saved: step, loss, gradient norm, the samples of the batch.

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

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        """Look at the gradient before it reaches the weights; clipping has seen its norm by the next hook only."""
        for name, parameter in pl_module.named_parameters():
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                self._stop(
                    trainer, f"the gradient of {name} is not finite", trainer.global_step + 1, {"gradient_of": name}
                )

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember the samples of the batch."""
        self._index = batch.index.tolist()

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
        self.path.parent.mkdir(parents=True, exist_ok=True)
        recent = list(self.losses)[-20:]
        record = {"step": step, "why": why, "samples": self._index, "recent_losses": recent, **details}
        self.path.write_text(json.dumps(record, indent=1))
        raise TrainingStopped(
            f"step = {step}; {why}; samples of the batch and recent losses are in {self.path}; "
            "try a lower optim.lr or more lr.n_warmup_steps, and resume=auto from the last checkpoint"
        )

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"losses": list(self.losses), "spikes": self.spikes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From the checkpoint."""
        self.losses.extend(state_dict["losses"])
        self.spikes = state_dict["spikes"]


class Throughput(StepCallback):
    """Logs tokens/s and MFU: arithmetic of the model over what the machine's matrix product was measured to do.

    Args:
        every: optimiser steps between measurements.
        length: tokens that see each other, for the cost of attention.
    """

    def __init__(self, *, every: int = 50, length: int) -> None:
        super().__init__()
        self.every, self.length = every, length
        self._since: float | None = None
        self._tokens, self._peak = 0, None

    def after_step(self, trainer: pl.Trainer, module: DiffusionModule, outputs: dict[str, Any], step: int) -> None:
        """Measure over the steps since the last time."""
        if self._since is None:
            self._since, self._tokens = time.perf_counter(), 0
            return
        self._tokens += outputs["n_tokens"] * trainer.accumulate_grad_batches
        if step % self.every:
            return
        rate = self._tokens / (time.perf_counter() - self._since)
        if self._peak is None:
            self._peak = matmul_rate(module.device, "bf16" if "bf16" in str(trainer.precision) else "float32")
        mfu = rate * module.predictor.spec.flops_per_token(self.length) / self._peak
        for logger in trainer.loggers:
            logger.log_metrics({"tokens_per_second": rate, "mfu": mfu}, step)
        self._since = None


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, written aside and renamed, the one before kept."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """See `save_atomically`."""
        save_atomically(checkpoint, Path(path))
