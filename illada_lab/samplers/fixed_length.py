"""LLaDA's sampler: a response of a fixed length, filled block by block."""

import torch

from illada_lab.models.protocol import Predictor
from illada_lab.samplers.decode import Canvas, Rules, fill_window
from illada_lab.samplers.guidance import Guided
from illada_lab.samplers.result import Sampled
from illada_lab.shapes import Positions, Tokens


class FixedLength:
    """All masks are there from the start; blocks are filled from left to right, and later blocks are visible as masks.

    Args:
        response_length: R, tokens.
        n_steps: reverse steps in all.
        block_length: tokens per block; None: one block.
        remasking, guidance_scale, temperature, ban_eos, defer_eos, has_trace: see `Rules`.

    Raises:
        ValueError: blocks that do not divide the response, steps that do not divide among the blocks or are more than tokens.

    Source: LLaDA, inference and Appendix B.4; remainder of the quota to the first steps as published.
    """

    def __init__(
        self,
        *,
        response_length: int,
        n_steps: int,
        block_length: int | None = None,
        remasking: str = "low_confidence",
        guidance_scale: float = 0.0,
        temperature: float = 0.0,
        ban_eos: bool = False,
        defer_eos: bool = False,
        has_trace: bool = True,
    ) -> None:
        block_length = block_length or response_length
        if response_length < 1 or block_length < 1 or response_length % block_length:
            legal = [n for n in range(1, response_length + 1) if response_length % n == 0]
            nearest = sorted(legal, key=lambda n: abs(n - block_length))[:3]
            raise ValueError(
                f"block_length = {block_length}; must divide response_length = {response_length}; nearest: {nearest}"
            )
        n_blocks = response_length // block_length
        if n_steps < n_blocks or n_steps % n_blocks or n_steps > response_length:
            per_block = min(max(1, round(n_steps / n_blocks)), block_length)
            raise ValueError(
                f"n_steps = {n_steps}; each of {n_blocks} blocks needs the same number of steps, 1 to {block_length}; "
                f"nearest: {per_block * n_blocks}"
            )
        self.response_length, self.block_length, self.steps_per_block = (
            response_length,
            block_length,
            n_steps // n_blocks,
        )
        self.rules = Rules(
            remasking=remasking,
            guidance_scale=guidance_scale,
            temperature=temperature,
            ban_eos=ban_eos,
            defer_eos=defer_eos,
            has_trace=has_trace,
        )

    @torch.no_grad()
    def sample(
        self,
        predictor: Predictor,
        prompt: Tokens,
        is_valid: Positions | None = None,
        generator: torch.Generator | None = None,
    ) -> Sampled:
        """Generate a response to every prompt of a batch.

        Args:
            predictor: the model.
            prompt: int64 [B, P], shorter prompts padded on the left.
            is_valid: bool [B, P], false at the padding.
            generator: randomness of draws and of random remasking (CPU generator).

        Raises:
            ValueError: see `Canvas.start`.
        """
        canvas = Canvas.start(predictor, prompt, is_valid, self.response_length)
        rows = torch.arange(len(prompt), device=prompt.device)
        guided = Guided(predictor, self.rules.guidance_scale, torch.zeros_like(rows))
        for start in range(canvas.n_prompt, canvas.x.shape[1], self.block_length):
            window = slice(start, start + self.block_length)
            fill_window(guided, canvas, window, self.steps_per_block, self.rules, rows, generator)
        responses, reasons = [], []
        for row in canvas.x[:, canvas.n_prompt :].tolist():
            end = next((i for i, token in enumerate(row) if token in predictor.tokens.stop_ids), None)
            responses.append(row if end is None else row[:end])
            reasons.append("length" if end is None else "eos")
        return Sampled(canvas.x, responses, reasons, guided.nfe, guided.token_forwards, canvas.trace, canvas.n_steps)
