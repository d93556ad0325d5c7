"""What is measured while training: history, validation, throughput."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_only

from illada_lab.files import write_text
from illada_lab.training.callbacks.step import StepCallback, is_due
from illada_lab.training.machine import matmul_rate
from illada_lab.training.module import DiffusionModule
from illada_lab.training.reference import Reference


class History(StepCallback):
    """Losses, rates and validations of a run, kept in its checkpoints, so that a resumed run has one history.

    Args:
        every: optimiser steps between two records of the training loss.
        path: JSON file the first process also writes it to at every validation, or None.
        landmarks: losses to know beside these, nats per token by name.
        facts: what the run is going to do (see `assemble.facts`); the peak learning rates come to it when training begins.

    Attributes:
        n_tokens_seen: tokens that the model saw (prompts and BOS among them, filler of packed rows not) since the run's first step,
            whatever process took them; `n_tokens` are those that were timed.
    """

    def __init__(
        self,
        *,
        every: int = 10,
        path: Path | None = None,
        landmarks: Mapping[str, float] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.every, self.path, self.landmarks, self.facts = every, path, dict(landmarks or {}), dict(facts or {})
        self.train: list[dict[str, float]] = []
        self.validation: list[dict[str, Any]] = []
        self.seconds, self.n_tokens, self.n_tokens_seen = 0.0, 0, 0
        self._losses: list[float] = []
        self._before: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take down the learning rates, which are known when there is an optimiser."""
        super().on_train_start(trainer, pl_module)
        assert isinstance(pl_module, DiffusionModule)
        self.facts["peak_lr"] = pl_module.peak_rates()

    def after_step(self, trainer: pl.Trainer, module: DiffusionModule, outputs: dict[str, Any], step: int) -> None:
        """Record the mean loss of the last steps."""
        self.n_tokens_seen += outputs["n_tokens"]
        if module.is_logged(step):
            # float32 counts to 2^24 only.
            module.log("train/tokens", torch.tensor(self.n_tokens_seen, dtype=torch.float64))
        now = time.perf_counter() - module.seconds_aside
        # The first step of a process is left out: it compiles.
        if self._before is not None:
            self.seconds += now - self._before
            self.n_tokens += outputs["n_tokens"]
        self._losses.append(float(outputs["loss"]))
        if is_due(step, self.every, trainer.max_steps):
            record = {
                "step": step,
                "loss": sum(self._losses) / len(self._losses),
                "lr": module.last_rate,
                "gradient_norm": module.last_gradient_norm,
            }
            self.train.append(record)
            self._losses = []
        self._before = now

    def add_validation(self, step: int, summary: dict[str, dict[str, float]], bins: list[dict[str, float]]) -> None:
        """Record a validation; the bins of the latest one only."""
        for record in self.validation:
            record.pop("bins", None)
        self.validation.append({"step": step, "kinds": summary, "bins": bins})
        if self.path is not None and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            write_text(self.path, json.dumps(self.to_dict()))

    def is_best_at(self, step: int, since: int = 0) -> bool:
        """Whether the run was validated at a step, with a lower loss than ever before.

        Args:
            step: optimiser steps done.
            since: validations up to this step do not count.
        """
        losses = {r["step"]: r["kinds"]["all"]["nelbo_per_token"] for r in self.validation if r["step"] > since}
        return step in losses and all(losses[step] < loss for before, loss in losses.items() if before < step)

    @property
    def tokens_per_second(self) -> float:
        """Training tokens per second of training time; validation and checkpoints are not in it."""
        return self.n_tokens / self.seconds if self.seconds else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for reports."""
        return {
            "landmarks": self.landmarks,
            "facts": self.facts,
            "train": self.train,
            "validation": self.validation,
            "seconds": self.seconds,
            "tokens": self.n_tokens,
            "tokens_seen": self.n_tokens_seen,
            "tokens_per_second": self.tokens_per_second if self.seconds else None,
        }

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {**self.to_dict(), "losses": self._losses}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From the checkpoint."""
        self.train, self.validation = state_dict["train"], state_dict["validation"]
        self.seconds, self.n_tokens, self._losses = state_dict["seconds"], state_dict["tokens"], state_dict["losses"]
        # Older checkpoints have the timed ones only: the first step of each process is missing.
        self.n_tokens_seen = state_dict.get("tokens_seen", self.n_tokens)


class Validation(StepCallback):
    """Validate on the frozen masks every so often and at the end.

    Args:
        every: optimiser steps between validations; None: at the end only.
        history: where results go.
        reference: recorded runs of the recipe, told beside each result; None: there are none.
    """

    is_training: ClassVar[bool] = False

    def __init__(self, *, every: int | None, history: History, reference: Reference | None = None) -> None:
        super().__init__()
        self.every, self.history, self.reference = every, history, reference

    def after_step(self, trainer: pl.Trainer, module: DiffusionModule, outputs: dict[str, Any], step: int) -> None:
        """Validate, log, and tell the schedule."""
        if not is_due(step, self.every, trainer.max_steps):
            return
        result = module.validate()
        if result is None:
            return
        summary = result.summary()
        if self.reference is not None:
            self.reference.beside(summary, step)
        self.history.add_validation(step, summary, result.bins())
        logged = {
            f"validation/{kind}/{name}": row[name]
            for kind, row in summary.items()
            for name in ("nelbo_per_token", "over_entropy", "bits_per_byte", "usual_low", "usual_high")
            if name in row
        }
        for logger in trainer.loggers:
            logger.log_metrics(logged, step)
        module.observe(summary["all"]["nelbo_per_token"])


class Throughput(StepCallback):
    """Logs tokens/s and MFU: arithmetic of the model over what the machine's matrix product was measured to do.

    Args:
        every: optimiser steps between measurements.
        length: tokens that see each other, for the cost of attention.
        is_frozen: only adapters are trained.
    """

    def __init__(self, *, every: int = 50, length: int, is_frozen: bool = False) -> None:
        super().__init__()
        self.every, self.length, self.is_frozen = every, length, is_frozen
        self._since: float | None = None
        self._tokens, self._peak = 0, None

    def after_step(self, trainer: pl.Trainer, module: DiffusionModule, outputs: dict[str, Any], step: int) -> None:
        """Measure over the steps since the last time."""
        now = time.perf_counter() - module.seconds_aside
        if self._since is None:
            self._since, self._tokens = now, 0
            return
        self._tokens += outputs["n_tokens"]
        if step % self.every:
            return
        rate = self._tokens / (now - self._since)
        if self._peak is None:
            begin = time.perf_counter()
            self._peak = matmul_rate(module.device, "bf16" if "bf16" in str(trainer.precision) else "float32")
            module.seconds_aside += time.perf_counter() - begin
        flops = module.predictor.spec.flops_per_token(self.length, is_frozen=self.is_frozen)
        mfu = rate * flops / (self._peak * trainer.world_size)
        for logger in trainer.loggers:
            logger.log_metrics({"tokens_per_second": rate, "mfu": mfu}, step)
        self._since, self._tokens = time.perf_counter() - module.seconds_aside, 0
