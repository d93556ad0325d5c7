"""When a run saves: every so often, at the end, and when it is told to make room."""

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
from lightning.pytorch.plugins.io import TorchCheckpointIO

from illada_lab.processes import any_of
from illada_lab.training.callbacks.history import History
from illada_lab.training.callbacks.step import StepCallback, is_due
from illada_lab.training.checkpoint import (
    ABSENT,
    BEFORE_DECAY,
    BEST,
    LAST,
    read_about,
    read_checkpoint,
    save_atomically,
    save_failed,
)
from illada_lab.training.module import DiffusionModule


class Preempted(SystemExit):
    """The run was told to stop, has saved, and has stopped; `resume=auto` goes on. Exit status 128 + signal, as shells count."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, written aside and renamed, the one before kept.

    An error of the disk is kept for `RollingCheckpoint`, which tells the other processes: raised here, it would leave them waiting.
    """

    def __init__(self) -> None:
        super().__init__()
        self.error: OSError | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """See `save_atomically`."""
        try:
            save_atomically(checkpoint, Path(path))
        except OSError as error:
            self.error = error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """A checkpoint of one file, or a sharded one put together."""
        return read_checkpoint(path)


class RollingCheckpoint(StepCallback):
    """Save `last.ckpt` every so often, by steps or by the clock, at the end, and on SIGTERM; the one before stays as `previous.ckpt`.

    And, if asked to, `before_decay.ckpt` where the constant phase of the learning rate ends: the model that other decays start from; and
    `best.ckpt` at each validation with a lower loss than all before.

    SIGTERM (under SLURM also SIGUSR1 and SIGUSR2) to any process of a run makes all of them finish the step, save, and stop: with
    `Preempted`, or by the handler that a job launcher had installed, which may queue the job again. So does Ctrl-C; a second one stops at
    once, as does the first where no step has been made: layers may be compiled first, for minutes.

    Args:
        folder: where they go.
        every: optimiser steps between saves; None: at the end only.
        minutes: age of the last one at which the next is due as well; None: any.
        keeps_before_decay: keep what stands when the decay begins.
        best_of: the validations whose best is kept, which come before this callback; None: none is.
        files: what writes them where a run is not sharded.

    Raises:
        SaveFailed: in every process, if one could not write.
        Preempted: see above.
    """

    is_training: ClassVar[bool] = False

    def __init__(
        self,
        *,
        folder: Path,
        every: int | None,
        minutes: float | None = None,
        keeps_before_decay: bool,
        best_of: History | None = None,
        files: AtomicCheckpointIO,
    ) -> None:
        super().__init__()
        self.folder, self.every, self.minutes = folder, every, minutes
        self.keeps_before_decay, self.best_of, self.files = keeps_before_decay, best_of, files
        self._saved_at = time.monotonic()
        self.signal = 0
        self._handlers: dict[int, Any] = {}
        self._process, self._begin, self._has_stepped, self._best_since = os.getpid(), 0, False, 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remember who listens before Lightning and we do."""
        signals = [signal.SIGTERM]
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # a run in the background of a script is not meant
            signals.append(signal.SIGINT)
        if "SLURM_JOB_ID" in os.environ:
            signals += [signal.SIGUSR1, signal.SIGUSR2]
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.getsignal(number) for number in signals}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen."""
        super().on_train_start(trainer, pl_module)
        self._process, self._begin, self._saved_at = os.getpid(), trainer.global_step, time.monotonic()
        self._best_since = self._step_before_best() if self.best_of is not None else 0
        for number in self._handlers:
            signal.signal(number, self._on_signal)

    def after_step(self, trainer: pl.Trainer, module: DiffusionModule, outputs: dict[str, Any], step: int) -> None:
        """Save if due; stop if told to, or if the last checkpoint could not be written."""
        self._has_stepped = True
        saving_error = getattr(trainer.strategy, "saving_error", lambda: None)()
        is_old = self.minutes is not None and time.monotonic() - self._saved_at >= 60 * self.minutes
        # Clocks differ: what one process finds is done by all.
        is_told, has_failed, is_old = any_of([bool(self.signal), saving_error is not None, is_old], module.device)
        if has_failed:
            self._finish(trainer)
        if self._is_fork(module, step, trainer.max_steps):
            self._save(trainer, module, BEFORE_DECAY)
        if self.best_of is not None and self.best_of.is_best_at(step, since=self._best_since):
            self._save(trainer, module, BEST)
        if is_told or is_old or is_due(step, self.every, trainer.max_steps):
            self._save(trainer, module, LAST)
            self._saved_at = time.monotonic()
        if is_told or step == trainer.max_steps:
            self._finish(trainer)
        if is_told:
            self._stop(trainer, step)

    def _is_fork(self, module: DiffusionModule, step: int, n_steps: int) -> bool:
        """Whether the decay begins here; one that the run passed before it went on stays: this one may have been through a decay."""
        if not self.keeps_before_decay or step == n_steps or not module.ends_constant_phase():
            return False
        try:
            return read_about(self.folder / BEFORE_DECAY)["global_step"] > self._begin
        except (FileNotFoundError, ValueError):
            return True

    def _step_before_best(self) -> int:
        """The step behind which validations count: what was best before was not kept, in another folder, or before one asked for it."""
        try:
            return min(read_about(self.folder / BEST)["global_step"] - 1, self._begin)
        except (FileNotFoundError, ValueError):
            return self._begin

    def _save(self, trainer: pl.Trainer, module: DiffusionModule, name: str) -> None:
        trainer.save_checkpoint(self.folder / name, weights_only=False)
        if any(any_of([self.files.error is not None], module.device)):
            raise save_failed(self.folder / name, self.files.error or ABSENT)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Listen no more."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)
        self._handlers = {}

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """As above."""
        self.teardown(trainer, pl_module, "fit")

    def _on_signal(self, number: int, frame: Any) -> None:
        if os.getpid() == self._process:
            self.signal = number
            if number == signal.SIGINT:
                signal.signal(number, self._handlers.get(number) or signal.default_int_handler)  # for the next one
                if not self._has_stepped:
                    raise KeyboardInterrupt
                with suppress(OSError):  # the terminal may be gone
                    os.write(2, b"\nsaving after this step; Ctrl-C again: stop without\n")
        else:  # a process that builds batches has inherited this
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    @staticmethod
    def _finish(trainer: pl.Trainer) -> None:
        """Wait for a checkpoint that is being written in the background."""
        getattr(trainer.strategy, "finish_saving", lambda: None)()

    def _stop(self, trainer: pl.Trainer, step: int) -> None:
        number = self.signal or signal.SIGTERM
        if trainer.is_global_zero:
            name = signal.Signals(number).name
            print(
                f"stopped by {name} after step {step}; saved in {self.folder / LAST}; resume=auto goes on", flush=True
            )
        handler = self._handlers.get(number)
        if self.signal and callable(handler) and number != signal.SIGINT:
            handler(number, None)  # submitit's queues the job again and ends the process
        # One process speaks for all: a launcher that sees another fail would kill this one.
        raise Preempted(128 + number if trainer.is_global_zero else 0)
