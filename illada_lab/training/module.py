"""The LightningModule: predictor + objective + optimiser, nothing else."""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

import illada_lab
from illada_lab.data.batch import Batch
from illada_lab.diffusion.randomness import RowRandom
from illada_lab.models.mask_predictor import MaskPredictor
from illada_lab.objectives.loss import Objective
from illada_lab.training.checkpoint import FORMAT
from illada_lab.training.lr import WarmupConstantDecay
from illada_lab.training.validation import FrozenMasks, ValidationResult


class DiffusionModule(pl.LightningModule):
    """One training run of one objective.

    Args:
        predictor: the model.
        objective: turns a batch into a loss.
        optim: predictor -> optimiser.
        lr: optimiser -> schedule.
        seed: of the masks.
        validation: frozen masks to validate on, or None.
        max_norm: gradients are scaled down to this Euclidean norm; None: never.
        is_compiled: compile the predictor's parts (`torch.compile`); validation and sampling stay eager, their shapes change.
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
        about: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.predictor = predictor
        self.objective, self.optim, self.lr = objective, optim, lr
        self.seed, self.validation, self.about = seed, validation, about or {}
        self.max_norm = max_norm
        self.last_validation: ValidationResult | None = None
        self.last_gradient_norm = 0.0
        if is_compiled:
            predictor.compile_parts()

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """One loss; returns what callbacks want to know of it."""
        loss = self.objective(self.predictor, batch, RowRandom(self.seed, batch.index))
        self.log("train/loss", loss.value.detach(), prog_bar=True)
        return {"loss": loss.value, "n_tokens": loss.n_tokens, "index": batch.index}

    def validate(self) -> ValidationResult | None:
        """Evaluate on the frozen masks and log the table; None where there are none."""
        if self.validation is None:
            return None
        was_training = self.predictor.training
        self.predictor.eval()
        # Compiled layers would compile again for each of validation's many shapes.
        with torch.compiler.set_stance("force_eager"), self.trainer.precision_plugin.forward_context():
            result = self.validation.evaluate(self.predictor)
        self.predictor.train(was_training)
        self.last_validation = result
        return result

    def configure_optimizers(self) -> dict[str, Any]:
        """Optimiser and a schedule that steps with it."""
        optimizer = self.optim(self.predictor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.lr(optimizer), "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
        """Clip to `max_norm` and log the norm before clipping: the first thing to look at when a loss jumps."""
        norm = torch.nn.utils.clip_grad_norm_(self.predictor.parameters(), self.max_norm or torch.inf)
        self.last_gradient_norm = float(norm)
        self.log("train/gradient_norm", norm)

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
