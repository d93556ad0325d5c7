"""What the model writes while it is being trained."""

import json
import math
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch

from illada_lab.data.tokenizer import Tokenizer
from illada_lab.files import write_text
from illada_lab.samplers import FixedLength
from illada_lab.training.callbacks.step import StepCallback, is_due
from illada_lab.training.distributed.sharding import is_sharded
from illada_lab.training.module import DiffusionModule


class Samples(StepCallback):
    """Writes a sample to `samples.jsonl` every so often: a curve says that a model learns, a sample what.

    One token per step in a random order at temperature 1 is ancestral sampling of the model's own language. The same seed every time, so
    that samples of different steps start from the same noise. The autoregressive twin is passed over.

    Args:
        path: where they go, one JSON object per line: step, text.
        tokenizer: for the text.
        length: tokens of a sample.
        opening: token in front of a text (`SpecialTokens.opened`).
        every: optimiser steps between samples; None: at the end only.
        seed: of the draws.
    """

    is_training: ClassVar[bool] = False

    def __init__(
        self, *, path: Path, tokenizer: Tokenizer, length: int, opening: int, every: int | None, seed: int = 0
    ) -> None:
        super().__init__()
        self.path, self.tokenizer, self.opening, self.every, self.seed = path, tokenizer, opening, every, seed
        self._start: int | None = 0
        self.sampler = FixedLength(
            response_length=length, n_steps=length, remasking="random", temperature=1.0, has_trace=False
        )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Samples of later steps are void: a run that goes on from here writes them again."""
        super().on_train_start(trainer, pl_module)
        self._start = trainer.global_step

    def after_step(self, trainer: pl.Trainer, module: DiffusionModule, outputs: dict[str, Any], step: int) -> None:
        """Sample if due."""
        predictor = module.predictor
        if not is_due(step, self.every, trainer.max_steps) or predictor.spec.is_causal:
            return
        # Of a sharded model every process holds a part, and all have to take part.
        if not trainer.is_global_zero and not is_sharded(predictor):
            return
        prompt = torch.tensor([[self.opening]], device=module.device)
        with module.as_saved():
            out = self.sampler.sample(predictor, prompt, generator=torch.Generator().manual_seed(self.seed))
        if not trainer.is_global_zero:
            return
        text = self.tokenizer.decode(out.tokens[0, 1:].tolist(), skip_special=False)
        self._write(json.dumps({"step": step, "text": text}, ensure_ascii=False) + "\n")

    def _write(self, line: str) -> None:
        """Add a line; the first one of a process replaces what is behind the step at which it started."""
        if self._start is None or not self.path.is_file():
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(line)
        else:
            # Not `splitlines`: a text may hold what Unicode calls an end of line.
            rows = self.path.read_text(encoding="utf-8", errors="replace").split("\n")
            kept = [row for row in rows if _step(row) <= self._start]
            write_text(self.path, "".join(f"{row}\n" for row in kept) + line)
        self._start = None


def _step(row: str) -> float:
    """Step of a line; one that was broken off is later than all."""
    try:
        return float(json.loads(row)["step"])
    except ValueError:
        return math.inf
