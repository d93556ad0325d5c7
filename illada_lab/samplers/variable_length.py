"""iLLaDA's sampler: append one block of masks at a time until the answer ends."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from illada_lab.models.linear import packed_weights
from illada_lab.models.protocol import Predictor
from illada_lab.samplers.asker import Asker
from illada_lab.samplers.canvas import Canvas, Flags, Rows, as_rows, check_ids
from illada_lab.samplers.decode import Rules, check_revisited, fill_window
from illada_lab.samplers.noise import Generators, RowNoise
from illada_lab.samplers.result import Sampled
from illada_lab.samplers.room import write_by_room
from illada_lab.samplers.stopping import Decoder, check_stop_strings, check_stop_tokens, find_end


@dataclass(frozen=True, kw_only=True)
class VariableLength(Rules):
    """A block of masks is appended and filled, nothing stands behind it; then the response is searched for an end.

    Args:
        max_length: budget of the response, tokens; rounded down to whole blocks.
        block_length: tokens per block.
        steps_per_block: reverse steps per block; None: one token per step, as published, or what a transfer rule needs.
        stop_ids: token ids that end a response; None: the model's own (EOS, end of turn).
        stop_sequences: token sequences that end a response as well.
        stop_strings: texts that end a response as well; needs a tokenizer.
        tokenizer: what decodes the response when there are stop strings; a run-time argument.
        all others: see `Rules`.

    Raises:
        ValueError: an empty block, a budget below one block, more steps than tokens, revisiting with one step per block, stop ids or
            sequences that are none, an unknown rule.

    Source: iLLaDA, inference. The published code refuses batches; here rows may end at different blocks.
    """

    max_length: int
    block_length: int
    steps_per_block: int | None = None
    stop_ids: Sequence[int] | None = None
    stop_sequences: Sequence[Sequence[int]] = ()
    stop_strings: Sequence[str] = ()
    tokenizer: Decoder | None = None

    runtime_arguments: ClassVar[frozenset[str]] = frozenset({"tokenizer"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block_length < 1:
            raise ValueError(f"block_length = {self.block_length}; tokens per block; 1 or more")
        if self.max_length < self.block_length:
            raise ValueError(
                f"max_length = {self.max_length}; less than one block of {self.block_length}; {self.block_length} or more"
            )
        if self.steps_per_block is not None and self.transfer is not None:
            raise ValueError(
                f"steps_per_block = {self.steps_per_block}; has no effect with transfer = {type(self.transfer).__name__}; null"
            )
        if self.steps_per_block is not None and not 1 <= self.steps_per_block <= self.block_length:
            raise ValueError(
                f"steps_per_block = {self.steps_per_block}; one to as many as a block has tokens; 1 to {self.block_length}"
            )
        check_revisited(self, self.steps_per_block or self.block_length)
        check_stop_tokens(self.stop_ids, self.stop_sequences)
        if self.stop_strings and self.tokenizer is not None:
            check_stop_strings(self.stop_strings, self.tokenizer)

    @property
    def budget(self) -> int:
        """Tokens that a response may have."""
        return self.max_length

    @property
    def unit(self) -> int:
        """Tokens that the context must have room for: a block."""
        return self.block_length

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
        """Generate a response to every prompt of a batch; rows may end at different blocks, ended rows cost nothing.

        Args:
            predictor: the model.
            prompt: int64 [B, P], shorter prompts padded on the left; or one list of ids per row.
            is_valid: bool [B, P], false at the padding.
            generator: randomness of draws and of random remasking, see `RowNoise.start`.
            on_step: called with the canvas after each step.

        Raises:
            ValueError: see `Canvas.start`; the context must hold the prompt and one block, and cuts the budget of a row by the row's own
                prompt (`write_by_room`).
        """
        check_stop_strings(self.stop_strings, self.tokenizer)
        prompt, is_valid = as_rows(prompt, is_valid, predictor)
        noise = RowNoise.start(generator, len(prompt), prompt.device)

        def write(rows: Tensor, prompt: Tensor, is_valid: Tensor | None, budget: int) -> Sampled:
            return self._write(predictor, prompt, is_valid, budget, RowNoise(noise.keys[rows]), on_step)

        return write_by_room(write, predictor, prompt, is_valid, wanted=self.max_length, unit=self.block_length)

    def _write(
        self,
        predictor: Predictor,
        prompt: Tensor,
        is_valid: Tensor | None,
        budget: int,
        noise: RowNoise,
        on_step: Callable[[Canvas], None] | None,
    ) -> Sampled:
        """Write rows that have the same budget."""
        tokens = predictor.tokens
        stop_ids = tokens.stop_ids if self.stop_ids is None else tuple(self.stop_ids)
        check_ids("stop_ids", stop_ids, predictor)
        canvas = Canvas.start(predictor, prompt, is_valid, self.block_length)
        canvas.on_step = on_step
        rows = torch.arange(len(prompt), device=prompt.device)
        asker = Asker(predictor, self.guidance_scale, torch.zeros_like(rows), self.cache, self.refresh_every)
        steps = None if self.transfer is not None else self.steps_per_block or self.block_length
        ends: dict[int, tuple[int, str]] = {}
        active = rows
        for block in range(budget // self.block_length):
            if block:
                canvas.is_prompt[:] = True  # guidance asks without all that stands before the block, as published
                canvas.append(tokens.mask, self.block_length)
            start = canvas.n_prompt + block * self.block_length
            window = slice(start, start + self.block_length)
            fill_window(asker, canvas, window, steps, self, active, noise, budget)
            written = canvas.x[:, canvas.n_prompt :].tolist()
            for row in active.tolist():
                end = find_end(written[row], stop_ids, self.stop_sequences, self.stop_strings, self.tokenizer)
                if end is not None:
                    ends[row] = end
            active = torch.tensor([r for r in active.tolist() if r not in ends], dtype=torch.long, device=prompt.device)
            if not len(active):
                break
        responses, reasons = [], []
        for row, written_row in enumerate(canvas.x[:, canvas.n_prompt :].tolist()):
            end, reason = ends.get(row, (len(written_row), "length"))
            responses.append(written_row[:end])
            reasons.append(reason)
            # Blocks appended for others, and what stood behind the end, are nobody's text. An EOS or end of turn is the model's; of what
            # stopped a response otherwise nothing stays.
            canvas.x[row, canvas.n_prompt + end + (reason == "eos") :] = tokens.filler
        return Sampled(canvas.x, responses, reasons, asker.nfe, asker.token_forwards, canvas.trace, canvas.n_steps)
