"""Rows of a batch whose contexts leave different room: written in groups, so that each gets what it would get alone."""

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from illada_lab.models.protocol import Predictor
from illada_lab.samplers.canvas import check_context, check_left_padded
from illada_lab.samplers.result import Sampled
from illada_lab.shapes import Positions, Tokens

# Writes some rows: (their numbers, prompts, valid positions, budget) -> what came out.
Write = Callable[[Tensor, Tensor, Tensor | None, int], Sampled]


def budget_of(n_prompt: int, *, limit: int | None, wanted: int, unit: int) -> int:
    """Tokens that a response may have behind a prompt: whole units, one at least.

    Args:
        n_prompt: tokens of the prompt.
        limit: tokens of the context; None: no limit.
        wanted: tokens of a response, where there is room for them.
        unit: tokens that are written at a time.
    """
    room = wanted if limit is None else min(wanted, limit - n_prompt)
    return max(unit, room // unit * unit)


def cut_budgets(predictor: Predictor, lengths: Iterable[int], *, wanted: int, unit: int) -> list[int]:
    """Budgets of the prompts behind which the context has less room than wanted; those that have room for it are left out.

    Args:
        predictor: whose context is the limit.
        lengths: tokens of each prompt.
        wanted, unit: as in `write_by_room`.
    """
    limit, whole = _limit(predictor), budget_of(0, limit=None, wanted=wanted, unit=unit)
    budgets = (budget_of(n, limit=limit, wanted=wanted, unit=unit) for n in lengths)
    return [budget for budget in budgets if budget < whole]


def _limit(predictor: Predictor) -> int | None:
    return getattr(getattr(predictor, "spec", None), "max_length", None)


def write_by_room(
    write: Write, predictor: Predictor, prompt: Tokens, is_valid: Positions | None, *, wanted: int, unit: int
) -> Sampled:
    """Write all rows of a batch, together where they have room for equally much.

    The context is cut by a row's own prompt and not by the padding that a longer one in the batch makes necessary. Where that gives rows
    different budgets, those of one budget are written together, without the columns that are padding in all of them.

    Args:
        write: writes rows of one budget.
        predictor: whose context is the limit.
        prompt: int64 [B, P], padding on the left.
        is_valid: bool [B, P]; None: no padding.
        wanted: tokens of a response, where there is room for them.
        unit: tokens that are written at a time (a block); budgets are whole numbers of it, one at least.

    Raises:
        ValueError: the longest prompt leaves no room for one unit; before anything is written.
    """
    everything = torch.arange(len(prompt), device=prompt.device)
    limit, wanted = _limit(predictor), budget_of(0, limit=None, wanted=wanted, unit=unit)
    if limit is None or prompt.ndim != 2:
        return write(everything, prompt, is_valid, wanted)
    # Flags that are none, or of another shape, are refused where the canvas is made.
    is_odd = is_valid is not None and (is_valid.dtype != torch.bool or is_valid.shape != prompt.shape)
    if is_valid is None or is_odd or not len(prompt) or prompt.shape[1] + wanted <= limit:
        return write(everything, prompt, is_valid, budget_of(prompt.shape[1], limit=limit, wanted=wanted, unit=unit))
    check_left_padded(is_valid)  # what is cut off at the left below is padding
    lengths = is_valid.sum(1)
    # The longest prompt is written last: were it refused there, all others would have been written in vain.
    check_context(predictor, int(lengths.max()), unit)
    budgets = torch.tensor([budget_of(n, limit=limit, wanted=wanted, unit=unit) for n in lengths.tolist()])
    parts: list[tuple[Tensor, int, Sampled]] = []
    for budget in sorted(set(budgets.tolist()), reverse=True):
        rows = (budgets == budget).nonzero()[:, 0].to(prompt.device)
        width = int(lengths[rows].max())
        own = slice(prompt.shape[1] - width, None)
        parts.append((rows, width, write(rows, prompt[rows, own], is_valid[rows, own], budget)))
    return _merged(parts, prompt, predictor.tokens.filler)


def _merged(parts: Sequence[tuple[Tensor, int, Sampled]], prompt: Tensor, filler: int) -> Sampled:
    """The results of groups of rows, each with the width of its prompts, as that of the batch."""
    n_rows, n_prompt = prompt.shape
    tokens = F.pad(prompt, (0, max(found.tokens.shape[1] - width for _, width, found in parts)), value=filler)
    nfe, token_forwards = (torch.zeros(n_rows, dtype=torch.long, device=prompt.device) for _ in range(2))
    responses: list[list[int]] = [[] for _ in range(n_rows)]
    reasons, trace, n_steps = [""] * n_rows, [], 0
    for rows, width, found in parts:
        response = found.tokens[:, width:]
        tokens[rows, n_prompt : n_prompt + response.shape[1]] = response
        nfe[rows], token_forwards[rows] = found.nfe.to(nfe.device), found.token_forwards.to(nfe.device)
        numbers = rows.tolist()
        for number, text, reason in zip(numbers, found.responses, found.stop_reasons, strict=True):
            responses[number], reasons[number] = text, reason
        trace += [{**record, "row": numbers[record["row"]], "step": record["step"] + n_steps} for record in found.trace]
        n_steps += found.n_steps
    return Sampled(tokens, responses, reasons, nfe, token_forwards, trace, n_steps)
