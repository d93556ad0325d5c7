"""A live line while training: where the run is, its loss, and how far the bound is from the truth."""

import sys
import time
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from illada_lab.training.callbacks.history import History
from illada_lab.training.callbacks.step import StepCallback
from illada_lab.training.module import DiffusionModule
from illada_lab.training.reference import WINDOW, Reference, Usual, recent

# Losses to know (`assemble.landmarks`), as the first line says them.
LANDMARKS = {
    "uniform": "a uniform guess",
    "no_context": "token frequencies without context",
    "entropy": "entropy of the held-out text",
}


class LiveProgress(StepCallback):
    """Progress bar in a terminal, with a line above it for each validation; in a log file a line for each, and every `log_seconds`.

    Args:
        history: what to show.
        title: name of the stage.
        reference: recorded runs of the recipe; None: there are none.
        log_seconds: between two lines where there is no terminal, at most.
    """

    def __init__(
        self,
        *,
        history: History,
        title: str,
        reference: Reference | None = None,
        log_seconds: float = 20.0,
    ) -> None:
        super().__init__()
        self.history, self.title, self.log_seconds = history, title, log_seconds
        self.reference = reference
        self._bar: Progress | None = None
        self._last_line = time.perf_counter()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say what losses mean here and what is going to be done, and open the bar."""
        super().on_train_start(trainer, pl_module)
        if trainer.is_global_zero and self.history.landmarks:
            print(f"{self.title}: {self._meaning()}", file=sys.stderr, flush=True)
        if trainer.is_global_zero and self.history.facts:
            print(f"{self.title}: {facts_line(self.history.facts)}", file=sys.stderr, flush=True)
        if trainer.is_global_zero and sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, TextColumn("{task.fields[text]}"), console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=trainer.max_steps, completed=trainer.global_step, text="")

    def after_step(self, trainer: pl.Trainer, module: DiffusionModule, outputs: dict[str, Any], step: int) -> None:
        """Show loss and speed, and the bounds of a validation at its own step."""
        if not trainer.is_global_zero:
            return
        loss = float(outputs["loss"])
        if self._bar is not None:
            # A validation has a line of its own, above: it has more words than a bar has room for.
            if self._is_validated(step):
                line = Text(f"{self.title} {step}/{trainer.max_steps}  {self._bounds()}")
                self._bar.console.print(line, highlight=False)
            self._bar.update(self._task, completed=step, text=self._loss(step, loss) + self._speed())
        elif (
            time.perf_counter() - self._last_line > self.log_seconds
            or self._is_validated(step)
            or step == trainer.max_steps
        ):
            self._last_line = time.perf_counter()
            parts = [self._loss(step, loss), self._bounds() if self._is_validated(step) else ""]
            text = " | ".join(part for part in parts if part) + self._speed()
            print(f"{self.title} {step}/{trainer.max_steps}  {text}", file=sys.stderr, flush=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        self.on_train_end(trainer, pl_module)

    def _meaning(self) -> str:
        known = ", ".join(
            f"{words} {self.history.landmarks[key]:.3f}"
            for key, words in LANDMARKS.items()
            if key in self.history.landmarks
        )
        if self.reference is None:
            return f"nats per token: {known}; no run of this recipe is recorded"
        told = f"from {len(self.reference.runs)} recorded runs on {self.reference.where}"
        return f"nats per token: {known}; usual: where 95 % of other seeds of this recipe are expected, {told}"

    def _is_validated(self, step: int) -> bool:
        """Whether there are bounds of this very step, which a loss can stand beside."""
        return bool(self.history.validation) and self.history.validation[-1]["step"] == step

    def _loss(self, step: int, loss: float) -> str:
        # Single losses swing with t; a mean can be read. Until the first is recorded there is nothing else.
        average = recent(self.history.train, step)
        # Another spacing of the records is another window.
        is_comparable = self.reference is not None and average is not None and WINDOW % self.history.every == 0
        usual = self.reference.loss(step) if self.reference is not None and is_comparable else None
        return f"loss {loss if average is None else average:.3f}" + (f" ({usual})" if usual is not None else "")

    def _bounds(self) -> str:
        """The last validation; of one kind of text alone it is told once."""
        kinds = self.history.validation[-1]["kinds"] if self.history.validation else {}
        return " | ".join(_bound(kind, row) for kind, row in kinds.items() if kind != "all" or len(kinds) == 1)

    def _speed(self) -> str:
        return f" | {self.history.tokens_per_second:,.0f} tokens/s" if self.history.seconds else ""


def facts_line(facts: Mapping[str, Any]) -> str:
    """What a run is going to do, in a line: peak learning rates as they are used, steps, how often it sees its rows, and what its loss is.

    Args:
        facts: see `training.assemble.facts`; `peak_lr`: by part of the optimiser, empty where it is not known.
    """
    rates, ratio = facts["peak_lr"], facts["peak_ratio"]
    told = ", ".join(f"{rate:.4g} ({part})" for part, rate in rates.items())
    if len(set(rates.values())) == 1:
        told = f"{next(iter(rates.values())):.4g}"
    if ratio != 1:
        told += f", lr.peak_ratio = {ratio:g} of what optim says"
    length = f"{'up to ' if facts['is_padded'] else ''}{facts['length']:,}"
    steps = f"{facts['n_steps']:,} steps of {facts['batch_size']:,} rows x {length} tokens"
    if facts["n_rows"] is None:
        rows = "a stream, whose number of rows is not known"
    elif facts["is_weighted"]:
        rows = f"as many rows as {_count(facts['epochs'])} epochs of {facts['n_rows']:,}, drawn by weight"
    else:
        rows = f"{_count(facts['epochs'])} epochs of {facts['n_rows']:,} rows"
    rows += f"; loss: {facts['loss']}" if facts.get("loss") else ""
    return f"peak learning rate {told}; {steps}: {rows}" if rates else f"{steps}: {rows}"


def _count(epochs: float) -> str:
    return f"{epochs:,.1f}" if epochs >= 1 else f"{epochs:.2g}"


def _bound(kind: str, row: Mapping[str, float]) -> str:
    """A bound with what is known beside it."""
    text, notes = f"{kind} {row['nelbo_per_token']:.3f}", []
    if "usual_low" in row:
        notes.append(str(Usual(row["usual_low"], row["usual_high"], int(row["n_recorded"]))))
    if "entropy_per_token" in row:
        notes.append(f"entropy {row['entropy_per_token']:.3f}")
    elif "bits_per_byte" in row:
        text += f" nats/token, {row['bits_per_byte']:.2f} bits/byte"
    return text + (f" ({', '.join(notes)})" if notes else "")
