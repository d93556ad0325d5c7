"""LLaDA's sampler: a response of a fixed length, filled block by block."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from illada_lab.models.linear import packed_weights
from illada_lab.models.protocol import Predictor
from illada_lab.samplers.asker import Asker
from illada_lab.samplers.canvas import Canvas, Flags, Rows, as_rows
from illada_lab.samplers.decode import Rules, check_revisited, fill_window, quota_steps
from illada_lab.samplers.noise import Generators, RowNoise
from illada_lab.samplers.result import Sampled
from illada_lab.samplers.stopping import Decoder, check_stop_strings, find_end


@dataclass(frozen=True, kw_only=True)
class FixedLength(Rules):
    """All masks are there from the start; blocks are filled from left to right, and later blocks are visible as masks.

    Args:
        response_length: R, tokens.
        n_steps: reverse steps in all; None: one token per step, or what a transfer rule needs.
        block_length: tokens per block; None: one block.
        stop_strings: texts at which a response is cut off when it has been written; all of it is computed. Needs a tokenizer.
        tokenizer: what decodes the response when there are stop strings; a run-time argument.
        all others: see `Rules`.

    Raises:
        ValueError: blocks that do not divide the response, steps that do not divide among the blocks or are more than tokens,
            revisiting with one step per block.

    Source: LLaDA, inference and Appendix B.4; remainder of the quota to the first steps as published. Where the published code is wrong
        this is not: guidance needs no padding mask, masks in a prompt are refused, [MASK] is never an answer, ids are the model's own.
        Confidence is compared in float32 (there in the model's dtype: in bf16 other tokens may come first).
    """

    response_length: int
    n_steps: int | None = None
    block_length: int | None = None
    stop_strings: Sequence[str] = ()
    tokenizer: Decoder | None = None

    runtime_arguments: ClassVar[frozenset[str]] = frozenset({"tokenizer"})

    def __post_init__(self) -> None:
        super().__post_init__()
        response_length = self.response_length
        if response_length < 1:
            raise ValueError(f"response_length = {response_length}; tokens; 1 or more")
        block_length = response_length if self.block_length is None else self.block_length
        if block_length < 1 or response_length % block_length:
            legal = [n for n in range(1, response_length + 1) if response_length % n == 0]
            nearest = sorted(legal, key=lambda n: abs(n - block_length))[:3]
            raise ValueError(
                f"block_length = {block_length}; must divide response_length = {response_length}; nearest: {nearest}"
            )
        if self.stop_strings and self.tokenizer is not None:
            check_stop_strings(self.stop_strings, self.tokenizer)
        check_revisited(self, quota_steps(self, self.n_steps, block_length, response_length // block_length))

    @property
    def budget(self) -> int:
        """Tokens that a response may have."""
        return self.response_length

    @property
    def unit(self) -> int:
        """Tokens that the context must have room for: all of them, for later blocks are visible as masks."""
        return self.response_length

    @torch.no_grad()
    @packed_weights()
    def sample(
        self,
        predictor: Predictor,
        prompt: Rows,
        is_valid: Flags | None = None,
        generator: Generators = None,
        on_step: Callable[[Canvas], None] | None = None,
    ) -> Sampled:
        """Generate a response to every prompt of a batch.

        Args:
            predictor: the model.
            prompt: int64 [B, P], shorter prompts padded on the left; or one list of ids per row.
            is_valid: bool [B, P], false at the padding.
            generator: randomness of draws and of random remasking, see `RowNoise.start`.
            on_step: called with the canvas after each step.

        Raises:
            ValueError: see `Canvas.start`.
        """
        check_stop_strings(self.stop_strings, self.tokenizer)
        prompt, is_valid = as_rows(prompt, is_valid, predictor)
        canvas = Canvas.start(predictor, prompt, is_valid, self.response_length)
        canvas.on_step = on_step
        rows = torch.arange(len(prompt), device=prompt.device)
        asker = Asker(predictor, self.guidance_scale, torch.zeros_like(rows), self.cache, self.refresh_every)
        noise = RowNoise.start(generator, len(rows), rows.device)
        block_length = self.block_length or self.response_length
        steps = quota_steps(self, self.n_steps, block_length, self.response_length // block_length)
        for start in range(canvas.n_prompt, canvas.x.shape[1], block_length):
            window = slice(start, start + block_length)
            fill_window(asker, canvas, window, steps, self, rows, noise, self.response_length)
        responses = canvas.responses(predictor.tokens)
        reasons = ["eos" if len(response) < self.response_length else "length" for response in responses]
        for row, response in enumerate(responses):
            if (end := find_end(response, (), (), self.stop_strings, self.tokenizer)) is not None:
                responses[row], reasons[row] = response[: end[0]], end[1]
        return Sampled(canvas.x, responses, reasons, asker.nfe, asker.token_forwards, canvas.trace, canvas.n_steps)
