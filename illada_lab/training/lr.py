"""Learning-rate schedules of the paper: warmup, constant, then a decay that starts at a step or when the loss stops falling."""

import math
import warnings
from abc import ABC, abstractmethod
from typing import Any, Literal

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

DecayStart = float | Literal["plateau"]
# What makes a plateau, where nothing is said.
PATIENCE, MIN_PROGRESS = 3, 0.005


class WarmupConstantDecay(LRScheduler, ABC):
    """Multiplies the learning rate of every group by `peak_ratio` and: 0 -> 1 in the warmup, 1, then `decay` from 1 to `min_ratio`.

    One call of `step` is one optimiser step.

    Args:
        optimizer: its groups' learning rates are the peaks, but for `peak_ratio`.
        n_steps: optimiser steps of the whole run; the decay reaches its end one step behind the last, as torch's schedules do.
        n_warmup_steps: steps of the linear warmup.
        decay_start: share of `n_steps` at which the decay starts, in [0, 1], or "plateau": when the validation loss has stopped
            falling (see `observe`); a run that never stops falling never decays.
        min_ratio: what the decay ends at, over the peak; the last step of a decay of n steps has 1/n of it still before it.
        patience: observations without progress that make a plateau. Without decay_start=plateau this and the next two have no effect.
        min_progress: a loss counts as progress if it is lower than the best by this share.
        n_decay_steps: steps of the decay after a plateau; None: all that are left.
        peak_ratio: peak over the optimiser's learning rate: fine-tuning runs at a small part of the rate of pre-training.

    Raises:
        ValueError: a number outside of its range.

    Source: iLLaDA, pre-training recipe: constant at the peak until the loss plateaus, then cosine decay to the minimum (2e-4 to
        5e-6, so min_ratio 0.025). The rule that detects the plateau is our choice: the paper states none.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        n_steps: int,
        n_warmup_steps: int = 0,
        decay_start: DecayStart = 0.7,
        min_ratio: float = 0.025,
        patience: int = PATIENCE,
        min_progress: float = MIN_PROGRESS,
        n_decay_steps: int | None = None,
        peak_ratio: float = 1.0,
    ) -> None:
        problems = self.check_config(
            n_steps=n_steps,
            n_warmup_steps=n_warmup_steps,
            decay_start=decay_start,
            min_ratio=min_ratio,
            patience=patience,
            min_progress=min_progress,
            n_decay_steps=n_decay_steps,
            peak_ratio=peak_ratio,
        )
        if n_steps < 1:
            problems.append(f"n_steps = {n_steps}; counts from 1; 1 or more")
        if problems:
            raise ValueError("; ".join(problems))
        told = {
            "patience": patience != PATIENCE,
            "min_progress": min_progress != MIN_PROGRESS,
            "n_decay_steps": n_decay_steps is not None,
        }
        for name in (name for name, is_told in told.items() if is_told and decay_start != "plateau"):
            warnings.warn(f"{name} has no effect without decay_start=plateau", stacklevel=2)
        self.n_steps, self.n_warmup_steps, self.min_ratio = n_steps, n_warmup_steps, min_ratio
        self.peak_ratio = peak_ratio
        self.patience, self.min_progress, self.n_decay_steps = patience, min_progress, n_decay_steps
        self.waits_for_plateau = decay_start == "plateau"
        self.decay_from = None if self.waits_for_plateau else max(n_warmup_steps, round(float(decay_start) * n_steps))
        self.best, self.n_without_progress = math.inf, 0
        super().__init__(optimizer)

    @staticmethod
    def check_config(**values: Any) -> list[str]:
        """Problems of a set of constructor arguments, for `illada_lab.config.check`: before data and weights, and before a first stage."""
        found = []
        if not 0 < (ratio := values.get("peak_ratio", 1.0)) <= 1:
            found.append(f"peak_ratio = {ratio}; peak over the optimiser's learning rate; above 0, at most 1")
        n_steps, n_warmup = values.get("n_steps", math.inf), values.get("n_warmup_steps", 0)
        if n_steps > 0 and not 0 <= n_warmup < n_steps:  # without steps at all the trainer speaks
            found.append(f"n_warmup_steps = {n_warmup}; must be less than n_steps = {n_steps}; 0 to {n_steps - 1}")
        start = values.get("decay_start", 0.7)
        if start != "plateau" and not (isinstance(start, int | float) and 0 <= start <= 1):
            found.append(f"decay_start = {start!r}; a share of the run; 0 to 1, or plateau")
        if not 0 <= (ratio := values.get("min_ratio", 0.0)) <= 1:
            found.append(f"min_ratio = {ratio}; last over peak learning rate; 0 to 1")
        if (patience := values.get("patience", PATIENCE)) < 1:
            found.append(f"patience = {patience}; observations without progress; 1 or more")
        if not 0 <= (progress := values.get("min_progress", MIN_PROGRESS)) < 1:
            found.append(f"min_progress = {progress}; the share by which a lower loss counts; 0 to below 1")
        if (n_decay := values.get("n_decay_steps")) is not None and n_decay < 1:
            found.append(f"n_decay_steps = {n_decay}; steps of the decay; 1 or more, or null")
        return found

    @staticmethod
    @abstractmethod
    def decay(progress: float) -> float:
        """Shape of the decay: 1 at progress 0, 0 at progress 1."""

    def factor(self, step: int) -> float:
        """What the peak learning rate is multiplied by at optimiser step `step` (0 is the first)."""
        if step < self.n_warmup_steps:
            return (step + 1) / self.n_warmup_steps
        if self.decay_from is None or step < self.decay_from:
            return 1.0
        end = self.n_steps
        if self.waits_for_plateau and self.n_decay_steps is not None:
            end = min(end, self.decay_from + self.n_decay_steps)
        progress = min(1.0, (step - self.decay_from) / max(1, end - self.decay_from))
        return self.min_ratio + (1 - self.min_ratio) * self.decay(progress)

    @property
    def ends_constant_phase(self) -> bool:
        """Whether the coming step is the first of the decay, and steps at the peak lie behind."""
        return self.decay_from == self.last_epoch > self.n_warmup_steps

    @property
    def peak_rates(self) -> list[float]:
        """Highest learning rates of the groups, as they are used: `peak_ratio` is in them."""
        return [float(rate) * self.peak_ratio for rate in self.base_lrs]

    def get_lr(self) -> list[float]:
        """Learning rates of the groups for the coming step."""
        return [rate * self.factor(self.last_epoch) for rate in self.peak_rates]

    def observe(self, loss: float) -> None:
        """Tell a validation loss; after `patience` of them without progress the decay starts at the coming step."""
        if not self.waits_for_plateau or self.decay_from is not None or self.last_epoch < self.n_warmup_steps:
            return
        if loss < self.best * (1 - self.min_progress):
            self.best, self.n_without_progress = loss, 0
        else:
            self.n_without_progress += 1
            if self.n_without_progress >= self.patience:
                self.decay_from = self.last_epoch

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule stands, as plain data, so that a checkpoint loads with `weights_only=True`."""
        return {"last_epoch": self.last_epoch, "plateau": self._plateau()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from where a schedule stood; rates, shape and length are those of this run, whatever the other's were.

        Args:
            state_dict: as `state_dict` gives it. What it tells of a plateau counts where both runs wait for one.
        """
        self.last_epoch = state_dict["last_epoch"]
        self._step_count = self.last_epoch + 1
        if self.waits_for_plateau and (plateau := state_dict.get("plateau")) is not None:
            self.best, self.n_without_progress, self.decay_from, *told = plateau
            # Another patience, or another length, judges a plateau that was found only now again.
            if self.decay_from == self.last_epoch and told != self._told():
                self.n_without_progress, self.decay_from = 0, None
        # The optimiser has brought the rates of the saved run.
        rates: list[float | Tensor] = [*self.get_lr()]
        self._last_lr = rates
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def _plateau(self) -> list[Any] | None:
        """What has been seen of a plateau; None: nobody waits for one."""
        return [self.best, self.n_without_progress, self.decay_from, *self._told()] if self.waits_for_plateau else None

    def _told(self) -> list[Any]:
        return [self.n_steps, self.patience, self.min_progress]


class ConstantCosine(WarmupConstantDecay):
    """Warmup, constant, cosine decay (iLLaDA, pre-training)."""

    @staticmethod
    def decay(progress: float) -> float:
        """(1 + cos(pi progress)) / 2."""
        return 0.5 * (1 + math.cos(math.pi * progress))


class ConstantLinear(WarmupConstantDecay):
    """Warmup, constant, linear decay (iLLaDA, fine-tuning: over the last 10 %)."""

    @staticmethod
    def decay(progress: float) -> float:
        """1 - progress."""
        return 1 - progress


class Cosine(ConstantCosine):
    """Warmup, then cosine decay at once: the schedule the paper's constant phase is compared with."""

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        n_steps: int,
        n_warmup_steps: int = 0,
        min_ratio: float = 0.025,
        peak_ratio: float = 1.0,
    ) -> None:
        super().__init__(
            optimizer,
            n_steps=n_steps,
            n_warmup_steps=n_warmup_steps,
            decay_start=0.0,
            min_ratio=min_ratio,
            peak_ratio=peak_ratio,
        )
