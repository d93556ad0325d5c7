"""The reverse process inside one window: predict, score, reveal, until no mask is left. Every sampler runs this loop."""

import difflib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from illada_lab.models.protocol import Predictor
from illada_lab.samplers.confidence import RULES
from illada_lab.samplers.draw import draw
from illada_lab.samplers.guidance import Guided
from illada_lab.samplers.transfer import most_confident, transfer_counts
from illada_lab.shapes import Positions, Tokens


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How predictions become tokens.

    Args:
        remasking: "low_confidence" or "random".
        guidance_scale: 0 is off.
        temperature: 0 is argmax.
        ban_eos: EOS is never predicted (logit -inf).
        defer_eos: a predicted EOS has confidence 0, so it is revealed last.
        has_trace: record every revealed token.

    Raises:
        ValueError: an unknown rule, or a number out of range.

    Source: LLaDA, Appendix B.4 for the two EOS options, with the model's own ids.
    """

    remasking: str = "low_confidence"
    guidance_scale: float = 0.0
    temperature: float = 0.0
    ban_eos: bool = False
    defer_eos: bool = False
    has_trace: bool = True

    def __post_init__(self) -> None:
        if self.remasking not in RULES:
            near = difflib.get_close_matches(str(self.remasking), RULES) or list(RULES)
            raise ValueError(f"remasking = {self.remasking!r}; not a rule; {', '.join(near)}")
        if self.temperature < 0:
            raise ValueError(f"temperature = {self.temperature}; cannot be negative; 0 (argmax) or more")
        if self.guidance_scale < 0:
            raise ValueError(f"guidance_scale = {self.guidance_scale}; cannot be negative; 0 (off) or more")


@dataclass
class Canvas:
    """Prompt and response while they are filled.

    Attributes:
        x: tokens, int64 [B, L].
        is_valid: attendable positions bool [B, L], or None: all.
        is_prompt: positions that were given.
        n_prompt: columns of the prompt.
        n_steps: reverse steps taken so far.
        trace: see `Sampled`.
    """

    x: Tokens
    is_valid: Positions | None
    is_prompt: Positions
    n_prompt: int
    n_steps: int
    trace: list[dict[str, Any]]

    @classmethod
    def start(cls, predictor: Predictor, prompt: Tokens, is_valid: Positions | None, n_response: int) -> "Canvas":
        """A prompt with `n_response` masks behind it.

        Args:
            predictor: whose [MASK] it is.
            prompt: int64 [B, P]; shorter prompts stand at the right, padding on the left.
            is_valid: bool [B, P], false at the padding; None: no padding.
            n_response: positions of the response.

        Raises:
            ValueError: an empty prompt, a [MASK] in it, padding on the right, or prompt + response longer than the context.
        """
        mask = predictor.tokens.mask
        if prompt.ndim != 2 or prompt.shape[1] == 0:
            raise ValueError(
                f"prompt = shape {list(prompt.shape)}; needs at least one token per row; [B, P], for example BOS alone"
            )
        if bool((prompt == mask).any()):
            where = (prompt == mask).nonzero()[0].tolist()
            raise ValueError(
                f"prompt[{where[0]}, {where[1]}] = {mask}; the id of [MASK] in a prompt would be filled in; remove it"
            )
        if is_valid is not None and bool((is_valid[:, :-1] & ~is_valid[:, 1:]).any() | ~is_valid[:, -1].all()):
            raise ValueError(
                "is_valid; a prompt's padding stands on its left, so that the response follows the prompt; left-pad"
            )
        limit = getattr(getattr(predictor, "spec", None), "max_length", None)
        if limit is not None and prompt.shape[1] + n_response > limit:
            raise ValueError(
                f"prompt + response = {prompt.shape[1]} + {n_response} tokens; longer than the model's context; at most {limit}"
            )
        canvas = cls(prompt.clone(), is_valid, torch.ones_like(prompt, dtype=torch.bool), prompt.shape[1], 0, [])
        canvas.append(mask, n_response)
        return canvas

    def append(self, mask: int, n: int) -> None:
        """Put `n` masks behind everything."""
        extra = self.x.new_full((len(self.x), n), mask)
        self.x = torch.cat((self.x, extra), 1)
        self.is_prompt = torch.cat((self.is_prompt, torch.zeros_like(extra, dtype=torch.bool)), 1)
        if self.is_valid is not None:
            self.is_valid = torch.cat((self.is_valid, torch.ones_like(extra, dtype=torch.bool)), 1)


@torch.no_grad()
def fill_window(
    guided: Guided,
    canvas: Canvas,
    window: slice,
    n_steps: int,
    rules: Rules,
    rows: Tensor,
    generator: torch.Generator | None,
) -> None:
    """Fill the masks of a window in `n_steps` steps, in place.

    Args:
        guided: the predictor and its counters.
        canvas: what is filled.
        window: columns that may be revealed now.
        n_steps: steps; the quota is fixed from the masks at the start.
        rules: how.
        rows: rows still being written, int64 [b]; others cost nothing.
        generator: randomness; None: torch's global generator.
    """
    tokens = guided.predictor.tokens
    in_window = torch.zeros_like(canvas.is_prompt)
    in_window[:, window] = True
    counts = transfer_counts((in_window & (canvas.x == tokens.mask))[rows].sum(1), n_steps)
    for step in range(n_steps):
        canvas.n_steps += 1
        # A row whose quota is 0 now has nothing to reveal and is not computed.
        is_due = counts[:, step] > 0
        if not bool(is_due.any()):
            continue
        due = rows[is_due]
        x = canvas.x[due]
        is_masked = in_window[due] & (x == tokens.mask)
        is_valid = None if canvas.is_valid is None else canvas.is_valid[due]
        logits = guided.logits_at(x, is_masked, is_valid, canvas.is_prompt[due], due)
        # [MASK] is no answer: nothing in the published code forbids it, and then a position stays masked for ever.
        logits[:, tokens.mask] = -torch.inf
        if rules.ban_eos:
            logits[:, list(tokens.stop_ids)] = -torch.inf
        drawn = draw(logits, rules.temperature, generator)
        sureness = RULES[rules.remasking](logits, drawn, generator).float()
        if rules.defer_eos:
            is_eos = torch.isin(drawn, drawn.new_tensor(tokens.stop_ids))
            sureness = sureness.masked_fill(is_eos, 0.0)
        confidence = torch.full(x.shape, -torch.inf, device=x.device).masked_scatter(is_masked, sureness)
        is_transferred = most_confident(confidence, counts[is_due, step])
        if rules.has_trace:
            _record(canvas, guided, due, is_transferred, is_masked, logits, drawn)
        predicted = x.masked_scatter(is_masked, drawn)
        canvas.x[due] = torch.where(is_transferred, predicted, x)


def _record(
    canvas: Canvas,
    guided: Guided,
    due: Tensor,
    is_transferred: Tensor,
    is_masked: Tensor,
    logits: Tensor,
    drawn: Tensor,
) -> None:
    """Append a record for every token revealed at this step."""
    chosen = is_transferred[is_masked]  # of the M predictions, those that are kept
    where = is_transferred.nonzero()
    top = logits[chosen].float().softmax(1)
    own = top.gather(1, drawn[chosen][:, None])[:, 0]
    rival = top.scatter(1, drawn[chosen][:, None], -1.0).max(1)
    for (row, position), token, p, q, other in zip(
        where.tolist(), drawn[chosen].tolist(), own.tolist(), rival.values.tolist(), rival.indices.tolist(), strict=True
    ):
        canvas.trace.append(
            {
                "step": canvas.n_steps,
                "row": int(due[row]),
                "position": position - canvas.n_prompt,
                "token": token,
                "confidence": p,
                "runner_up": other,
                "runner_up_confidence": q,
                "nfe": int(guided.nfe[due[row]]),
            }
        )
