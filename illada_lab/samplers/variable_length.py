"""iLLaDA's sampler: append one block of masks at a time until the answer ends."""

from collections.abc import Sequence

import torch

from illada_lab.models.protocol import Predictor
from illada_lab.samplers.decode import Canvas, Rules, fill_window
from illada_lab.samplers.guidance import Guided
from illada_lab.samplers.result import Sampled
from illada_lab.shapes import Positions, Tokens


class VariableLength:
    """A block of masks is appended and filled, nothing stands behind it; then the response is searched for an end.

    Args:
        max_length: budget of the response, tokens; rounded down to whole blocks.
        block_length: tokens per block.
        steps_per_block: reverse steps per block; None: one token per step, as published.
        stop_ids: token ids that end a response; None: the model's own (EOS, end of turn).
        stop_sequences: token sequences that end a response as well (stop strings, tokenised).
        remasking, guidance_scale, temperature, has_trace: see `Rules`.

    Raises:
        ValueError: a budget below one block, more steps than tokens, an unknown rule.

    Source: iLLaDA, inference.
    """

    def __init__(
        self,
        *,
        max_length: int,
        block_length: int,
        steps_per_block: int | None = None,
        stop_ids: Sequence[int] | None = None,
        stop_sequences: Sequence[Sequence[int]] = (),
        remasking: str = "low_confidence",
        guidance_scale: float = 0.0,
        temperature: float = 0.0,
        has_trace: bool = True,
    ) -> None:
        if block_length < 1 or max_length < block_length:
            raise ValueError(
                f"max_length = {max_length}; less than one block of {block_length}; {max(1, block_length)} or more"
            )
        steps = block_length if steps_per_block is None else steps_per_block
        if not 1 <= steps <= block_length:
            raise ValueError(f"steps_per_block = {steps}; one to as many as a block has tokens; 1 to {block_length}")
        self.max_length, self.block_length, self.steps_per_block = max_length, block_length, steps
        self.stop_ids = None if stop_ids is None else tuple(stop_ids)
        self.stop_sequences = [list(sequence) for sequence in stop_sequences]
        self.rules = Rules(
            remasking=remasking, guidance_scale=guidance_scale, temperature=temperature, has_trace=has_trace
        )

    @torch.no_grad()
    def sample(
        self,
        predictor: Predictor,
        prompt: Tokens,
        is_valid: Positions | None = None,
        generator: torch.Generator | None = None,
    ) -> Sampled:
        """Generate a response to every prompt of a batch; rows may end at different blocks, ended rows cost nothing.

        Args:
            predictor: the model.
            prompt: int64 [B, P], shorter prompts padded on the left.
            is_valid: bool [B, P], false at the padding.
            generator: randomness of draws and of random remasking (CPU generator).

        Raises:
            ValueError: see `Canvas.start`; the context must hold the prompt and one block, and cuts the budget.
        """
        tokens = predictor.tokens
        stop_ids = tokens.stop_ids if self.stop_ids is None else self.stop_ids
        budget = self.max_length
        limit = getattr(getattr(predictor, "spec", None), "max_length", None)
        if limit is not None:
            budget = max(self.block_length, min(budget, limit - prompt.shape[1]))
        canvas = Canvas.start(predictor, prompt, is_valid, self.block_length)
        rows = torch.arange(len(prompt), device=prompt.device)
        guided = Guided(predictor, self.rules.guidance_scale, torch.zeros_like(rows))
        ends: dict[int, int] = {}
        active = rows
        for block in range(budget // self.block_length):
            if block:
                canvas.append(tokens.mask, self.block_length)
            start = canvas.n_prompt + block * self.block_length
            window = slice(start, start + self.block_length)
            fill_window(guided, canvas, window, self.steps_per_block, self.rules, active, generator)
            written = canvas.x[:, canvas.n_prompt :].tolist()
            for row in active.tolist():
                end = self._end(written[row], stop_ids)
                if end is not None:
                    ends[row] = end
            active = torch.tensor([r for r in active.tolist() if r not in ends], dtype=torch.long, device=prompt.device)
            if not len(active):
                break
        responses, reasons = [], []
        for row, written_row in enumerate(canvas.x[:, canvas.n_prompt :].tolist()):
            responses.append(written_row[: ends.get(row, len(written_row))])
            reasons.append("eos" if row in ends else "length")
            if row in ends:
                # Blocks appended for others, and what stood behind the end, are nobody's text.
                behind = canvas.n_prompt + ends[row] + 1
                canvas.x[row, behind:] = tokens.filler
        return Sampled(canvas.x, responses, reasons, guided.nfe, guided.token_forwards, canvas.trace, canvas.n_steps)

    def _end(self, response: list[int], stop_ids: Sequence[int]) -> int | None:
        """Where a response ends: at the first stop id or sequence, or None."""
        found = [i for i, token in enumerate(response) if token in stop_ids][:1]
        for sequence in self.stop_sequences:
            n = len(sequence)
            found += [i for i in range(len(response) - n + 1) if response[i : i + n] == sequence][:1]
        return min(found, default=None)
