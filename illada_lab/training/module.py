"""The LightningModule: predictor + objective + optimiser, nothing else."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

import illada_lab
from illada_lab.data.batch import Batch
from illada_lab.diffusion.randomness import RowRandom
from illada_lab.models.mask_predictor import MaskPredictor
from illada_lab.objectives.loss import Loss, Objective
from illada_lab.processes import n_processes, sums
from illada_lab.training.checkpoint import FORMAT
from illada_lab.training.distributed import gradients, named_state
from illada_lab.training.distributed.sharding import reshard
from illada_lab.training.lr import WarmupConstantDecay
from illada_lab.training.validation import FrozenMasks, ValidationResult


class DiffusionModule(pl.LightningModule):
    """One training run of one objective.

    Args:
        predictor: the model; on the meta device if `placement` is given.
        objective: turns a batch into a loss.
        optim: predictor -> optimiser.
        lr: optimiser -> schedule.
        seed: of the masks.
        validation: frozen masks to validate on, or None.
        max_norm: gradients are scaled down to this Euclidean norm; None: never.
        is_compiled: compile the predictor's parts (`torch.compile`); validation and sampling stay eager, their shapes change.
        has_fixed_length: rows are of one length, for which compiled parts are the fastest.
        placement: called once with the predictor and the trainer, when processes and devices are there: spreads the model, gives it
            weights, and returns what belongs into `about`.
        about: what the checkpoint tells of the run: config, tokenizer (plain data).
    """

    def __init__(
        self,
        *,
        predictor: MaskPredictor,
        objective: Objective,
        optim: Callable[[MaskPredictor], Optimizer],
        lr: Callable[[Optimizer], LRScheduler],
        seed: int = 0,
        validation: FrozenMasks | None = None,
        max_norm: float | None = 1.0,
        is_compiled: bool = False,
        has_fixed_length: bool = True,
        placement: Callable[[MaskPredictor, pl.Trainer], dict[str, Any]] | None = None,
        about: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.predictor = predictor
        self.objective, self.optim, self.lr = objective, optim, lr
        self.seed, self.validation, self.about = seed, validation, about or {}
        self.max_norm = max_norm
        self.last_validation: ValidationResult | None = None
        self.last_gradient_norm, self.last_rate = 0.0, 0.0
        self.seconds_aside = 0.0
        self.last_step: dict[str, Any] = {}
        self._placement, self._is_placed = placement, False
        self._step = StepSums()
        self._norm: torch.Tensor | None = None
        if is_compiled:
            predictor.compile_parts(has_fixed_length=has_fixed_length)

    def configure_model(self) -> None:
        """Place the model; Lightning calls this as soon as there are processes and devices."""
        if self._placement is not None and not self._is_placed:
            self.about |= self._placement(self.predictor, self.trainer)
            self._is_placed = True

    def cpu(self) -> "DiffusionModule":
        """Onto the CPU, where Lightning brings a model at its end, whatever that is; weights that have none yet stay on the meta device."""
        # An error before they are there would be hidden behind "cannot copy out of meta tensor".
        return self if any(weight.is_meta for weight in self.parameters()) else super().cpu()

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Loss of one micro-batch, weighed so that a step's gradient is that of the step's rows taken at once."""
        loss = self.objective(self.predictor, batch, RowRandom(self.seed, batch.index))
        if not isinstance(loss, Loss):
            raise ValueError(f"objective = {type(self.objective).__name__}; returned {type(loss).__name__}; a Loss")
        share = self._step.add(loss, int(batch.is_valid.sum()), self.device)
        return loss.value if share == 1.0 else loss.value * share

    @property
    def _n_copies(self) -> int:
        """Processes that see the same rows, because they share layers (tensor parallelism)."""
        return n_processes() // self._replicas["num_replicas"]

    @property
    def _replicas(self) -> dict[str, int]:
        """How many processes, or groups that share layers, see different rows, and which of them this is."""
        return getattr(self.trainer.strategy, "distributed_sampler_kwargs", {"num_replicas": 1, "rank": 0})

    def _add_up(self, parts: torch.Tensor) -> torch.Tensor:
        """Sums over all replicas."""
        return torch.tensor(sums(parts.tolist(), self.device), dtype=parts.dtype) / self._n_copies

    def measure_gradients(self) -> torch.Tensor:
        """Finish the gradient of a step, once, and return its norm over all processes."""
        if self._norm is None:
            gradients.scale(self.predictor.parameters(), self._step.factor(self.trainer.accumulate_grad_batches))
            self._norm = gradients.total_norm(self.predictor.parameters())
            self.last_gradient_norm = float(self._norm)
            self.last_step, self._step = self._step.result(self._n_copies), StepSums()
        return self._norm

    @contextmanager
    def as_saved(self) -> Iterator[None]:
        """The predictor as a checkpoint of this moment holds it, for use: where weights are averaged, with the average."""
        averages = [callback for callback in self.trainer.callbacks if isinstance(callback, WeightAveraging)]  # type: ignore[attr-defined]
        was_training = self.predictor.training
        self.predictor.eval()
        for average in averages:
            average.on_validation_epoch_start(self.trainer, self)
        try:
            # Compiled layers would compile again for each of the many shapes.
            with torch.compiler.set_stance("force_eager"), self.trainer.precision_plugin.forward_context():
                yield
        finally:
            reshard(self.predictor)
            for average in averages:
                average.on_validation_epoch_end(self.trainer, self)
            self.predictor.train(was_training)

    def validate(self) -> ValidationResult | None:
        """Evaluate on the frozen masks and log the table; None where there are none."""
        if self.validation is None:
            return None
        replicas = self._replicas
        with self.as_saved():
            result = self.validation.evaluate(
                self.predictor, share=(replicas["rank"], replicas["num_replicas"]), add_up=self._add_up
            )
        self.last_validation = result
        return result

    def configure_optimizers(self) -> dict[str, Any]:
        """Optimiser and a schedule that steps with it."""
        optimizer = self.optim(self.predictor)
        named_state.keep_settings(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.lr(optimizer), "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
        """Clip to `max_norm` and log the norm before clipping: the first thing to look at when a loss jumps."""
        norm, self.last_rate = self.measure_gradients(), optimizer.param_groups[0]["lr"]
        if self.max_norm is not None:
            gradients.clip(self.predictor.parameters(), self.max_norm, norm)
        # Steps done, this one among them, as validations and the history count; Lightning's own number would be one less.
        if self.is_logged(step := self.trainer.global_step + 1):
            self.log("step", float(step))
            self.log("train/gradient_norm", norm)
            self.log("train/loss", self.last_step["loss"], prog_bar=True)
            self.log("train/lr", float(self.last_rate))
        self._norm = None

    def is_logged(self, step: int) -> bool:
        """Whether loggers hear of a step: Lightning takes half a millisecond for each number, and throws away what they do not hear."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return every > 0 and step % every == 0

    def peak_rates(self) -> dict[str, float]:
        """Highest learning rate of each part of the optimiser, by its class; empty where a schedule of another kind does not tell."""
        schedule = self.lr_schedulers()
        if not isinstance(schedule, WarmupConstantDecay):
            return {}
        rates = iter(schedule.peak_rates)  # the groups of all parts, one part after the other
        return {
            type(part).__name__: max(next(rates) for _ in part.param_groups)
            for part in named_state.parts(schedule.optimizer).values()
        }

    def ends_constant_phase(self) -> bool:
        """Whether the coming step is the first of the decay of the learning rate, after steps at its peak."""
        schedule = self.lr_schedulers()
        return isinstance(schedule, WarmupConstantDecay) and schedule.ends_constant_phase

    def observe(self, loss: float) -> None:
        """Pass a validation loss to a schedule that waits for a plateau."""
        schedule = self.lr_schedulers()
        if isinstance(schedule, WarmupConstantDecay):
            schedule.observe(loss)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is needed to use the model without this run: tokens, tokenizer, configuration, version."""
        checkpoint["illada_lab"] = {
            "format": FORMAT,
            "version": illada_lab.__version__,
            "model": self.predictor.to_config(),
            "tokens": self.predictor.tokens.to_dict(),
            **self.about,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Count micro-batches as this run does: another number of processes needs another number of them per step.

        And go on with the weights, not with their average, where this run keeps none.
        """
        before, now = (about.get("base", {}).get("fingerprint") for about in (checkpoint["illada_lab"], self.about))
        if before != now:
            raise ValueError(
                f"init_from = {self.about.get('base', {}).get('path')}; the adapters of this run were trained on another model "
                f"({checkpoint['illada_lab'].get('base', {}).get('path')}); that one, or a new run"
            )
        has_average = any(isinstance(callback, WeightAveraging) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]
        if "current_model_state" in checkpoint and not has_average:
            checkpoint["state_dict"] = checkpoint.pop("current_model_state")
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        n_batches = checkpoint["global_step"] * self.trainer.accumulate_grad_batches
        for counts in (progress["total"], progress["current"]):
            n_open = counts["ready"] - counts["completed"]  # saved inside of a batch, by a callback
            counts.update(ready=n_batches, started=n_batches, processed=n_batches, completed=n_batches - n_open)


class StepSums:
    """Sums over the micro-batches of a step and over all processes, and what follows from them for the gradient.

    The loss of a step is the mean over its tokens. Lightning and DDP average over micro-batches and processes instead, which is the
    same only where all have equally many tokens; so each loss is weighed by its share of a mean that the first micro-batch fixes, and
    the gradient is put right when the step's number of tokens is known. With one micro-batch and one process nothing is multiplied.
    """

    def __init__(self) -> None:
        self.loss = self.weight = self.n_tokens = 0.0
        self._unit: float | None = None
        self._n_batches = 0

    def add(self, loss: Loss, n_tokens: int, device: torch.device) -> float:
        """Take in a micro-batch; returns what its loss is to be multiplied by.

        Args:
            loss: of its rows.
            n_tokens: that the model saw in them, prompts among them: what is paid for, whatever is learnt from.
            device: where the process group sends from.
        """
        weight = float(loss.weight)
        # float64: the loss as the first process alone would see it, to the bit where it is alone.
        total = sums([float(loss.value.detach()) * weight, weight, float(n_tokens)], device)
        self.loss, self.weight, self.n_tokens = self.loss + total[0], self.weight + total[1], self.n_tokens + total[2]
        self._n_batches += 1
        if self._unit is None:
            self._unit = max(total[1] / n_processes(), 1.0)
        return weight / self._unit

    def factor(self, accumulate: int) -> float:
        """What the averaged gradient is to be multiplied by."""
        if self._n_batches < 2 or self._unit is None:
            return 1.0
        return n_processes() * self._unit * accumulate / max(self.weight, 1.0)

    def result(self, n_copies: int) -> dict[str, Any]:
        """Mean loss of the step and the number of tokens that the model saw, each of which `n_copies` processes have counted."""
        return {"loss": self.loss / max(self.weight, 1.0), "n_tokens": round(self.n_tokens / n_copies)}
