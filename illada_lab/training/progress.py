"""A live line while training: where the run is, its loss, and how far the bound is from the truth."""

import sys
import time
from typing import Any

import lightning.pytorch as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from illada_lab.training.callbacks import History, StepCallback
from illada_lab.training.module import DiffusionModule


class LiveProgress(StepCallback):
    """Progress bar in a terminal; in a log file a line every `log_seconds`.

    Args:
        history: what to show.
        title: name of the stage.
        log_seconds: between two lines where there is no terminal.
    """

    def __init__(self, *, history: History, title: str, log_seconds: float = 20.0) -> None:
        super().__init__()
        self.history, self.title, self.log_seconds = history, title, log_seconds
        self._bar: Progress | None = None
        self._average: float | None = None
        self._last_line = time.perf_counter()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar."""
        super().on_train_start(trainer, pl_module)
        if trainer.is_global_zero and sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, TextColumn("{task.fields[text]}"), console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=trainer.max_steps, completed=trainer.global_step, text="")

    def after_step(self, trainer: pl.Trainer, module: DiffusionModule, outputs: dict[str, Any], step: int) -> None:
        """Show loss, last validation and speed."""
        if not trainer.is_global_zero:
            return
        loss = float(outputs["loss"])
        # Single losses swing with t; an average over about 50 steps can be read.
        self._average = loss if self._average is None else 0.98 * self._average + 0.02 * loss
        if self._bar is not None:
            self._bar.update(self._task, completed=step, text=self._text())
        elif time.perf_counter() - self._last_line > self.log_seconds or step == trainer.max_steps:
            self._last_line = time.perf_counter()
            print(f"{self.title} {step}/{trainer.max_steps}  {self._text()}", file=sys.stderr, flush=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        self.on_train_end(trainer, pl_module)

    def _text(self) -> str:
        text = f"loss {self._average:.3f}" if self._average is not None else ""
        if self.history.validation:
            for kind, row in self.history.validation[-1]["kinds"].items():
                if kind == "all" and len(self.history.validation[-1]["kinds"]) > 2:
                    continue
                text += f" | {kind} {row['nelbo_per_token']:.3f}"
                if "entropy_per_token" in row:
                    text += f" (entropy {row['entropy_per_token']:.3f})"
                elif "bits_per_byte" in row:
                    text += f" nats/token, {row['bits_per_byte']:.2f} bits/byte"
        if self.history.seconds:
            text += f" | {self.history.tokens_per_second:,.0f} tokens/s"
        return text
