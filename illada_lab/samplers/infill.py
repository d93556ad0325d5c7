"""Infilling: masks anywhere in a given text, what no left-to-right model does."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from illada_lab.models.linear import packed_weights
from illada_lab.models.protocol import Predictor
from illada_lab.samplers.asker import Asker
from illada_lab.samplers.canvas import Canvas, Flags, Rows, as_rows
from illada_lab.samplers.decode import Rules, check_revisited, fill_window
from illada_lab.samplers.noise import Generators, RowNoise
from illada_lab.samplers.result import Sampled


@dataclass(frozen=True, kw_only=True)
class Infill(Rules):
    """The masks of a text are filled, everything else stays as it is.

    Args:
        n_steps: reverse steps, spread over each row's masks; None: one token per step, or what a transfer rule needs.
        all others: see `Rules`. Guidance masks the given text; there is nothing a cache could leave out, and no response whose thinking
            could end.

    Raises:
        ValueError: fewer than one step, steps beside a transfer rule, a cache, an end of thinking, revisiting with one step.

    Source: LLaDA, reversal and infilling experiments: the same reverse process, started from a partly masked text.
    """

    n_steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cache is not None:
            raise ValueError(
                f"cache = {self.cache}; has no effect on infilling: masks may be anywhere, so every pass is a full one; null"
            )
        if self.end_of_thinking is not None:
            raise ValueError(
                "end_of_thinking; has no place in infilling: it counts a response's tokens, and a text with holes is none; null"
            )
        if self.n_steps is not None and self.n_steps < 1:
            raise ValueError(f"n_steps = {self.n_steps}; reverse steps; 1 or more, or null for one per mask")
        if self.n_steps is not None and self.transfer is not None:
            raise ValueError(
                f"n_steps = {self.n_steps}; has no effect with transfer = {type(self.transfer).__name__}; null"
            )
        check_revisited(self, self.n_steps)

    @torch.no_grad()
    @packed_weights()
    def sample(
        self,
        predictor: Predictor,
        text: Rows,
        is_valid: Flags | None = None,
        generator: Generators = None,
        on_step: Callable[[Canvas], None] | None = None,
    ) -> Sampled:
        """Fill every mask of a batch of texts.

        Args:
            predictor: the model.
            text: int64 [B, L] with [MASK] where a token is wanted; or one list of ids per row.
            is_valid: bool [B, L], false at padding.
            generator: randomness of draws and of random remasking, see `RowNoise.start`.
            on_step: called with the canvas after each step.

        Raises:
            ValueError: see `Canvas.infill`.
        """
        text, is_valid = as_rows(text, is_valid, predictor, "text")
        canvas = Canvas.infill(predictor, text, is_valid)
        canvas.on_step = on_step
        rows = torch.arange(len(text), device=text.device)
        asker = Asker(predictor, self.guidance_scale, torch.zeros_like(rows))
        noise = RowNoise.start(generator, len(rows), rows.device)
        window = slice(0, text.shape[1])
        n_masked = max((~canvas.is_prompt).sum(1).tolist(), default=0)
        steps = None if self.transfer is not None else min(self.n_steps or n_masked, n_masked)
        fill_window(asker, canvas, window, steps, self, rows, noise, text.shape[1])
        kept = torch.ones_like(canvas.is_prompt) if is_valid is None else is_valid
        responses = [row[valid].tolist() for row, valid in zip(canvas.x, kept, strict=True)]
        return Sampled(
            canvas.x, responses, ["filled"] * len(text), asker.nfe, asker.token_forwards, canvas.trace, canvas.n_steps
        )
