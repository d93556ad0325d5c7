"""The reverse process inside one window: predict, score, reveal, until no mask is left. Every sampler runs this loop."""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from illada_lab.samplers.asker import NO_NUMBERS, Asker
from illada_lab.samplers.canvas import Canvas, check_ids
from illada_lab.samplers.confidence import (
    LAST,
    PROBABILITY,
    RULES,
    Confidence,
    check_rule,
    is_drawn,
    is_told_mask,
    name_of,
    rule_of,
    unit_of,
)
from illada_lab.samplers.draw import draw
from illada_lab.samplers.noise import Noise, RowNoise
from illada_lab.samplers.thinking import EndOfThinking
from illada_lab.samplers.transfer import Transfer, most_confident, transfer_counts

# Logits that are drawn from at once: a draw holds several times as many numbers in float64 (2^25: about 1 GiB). Our choice.
MAX_DRAWN = 2**25


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How predictions become tokens; every sampler has these settings.

    Args:
        remasking: confidence rule: low_confidence, margin, entropy, random or left_to_right, or one's own (`Confidence`).
        transfer: how many are revealed at a step: `Threshold`, `Factor`, `EntropyBound`; None: a fixed quota, masks over steps.
        guidance_scale: 0 is off.
        temperature: 0 is argmax.
        top_k: draw from the k likeliest tokens, of equal ones the first; None: from all.
        top_p: draw from the likeliest tokens that make up this probability; None: from all.
        ban_eos: EOS is never predicted (logit -inf); the end of a turn may be.
        defer_eos: a predicted EOS or end of turn has confidence 0, so it is revealed last.
        end_of_thinking: a growing push towards "</think>", or None (always, where a text is filled in).
        n_revisited: after each step but a block's last so many of its least sure tokens become masks again and are decided anew.
        cache: "prefix" or "dual": passes inside a block compute a part of the canvas only; None: all of it.
        refresh_every: with a cache, steps between full passes inside a block; None: at block borders only.
        has_trace: record every revealed token.

    Raises:
        ValueError: an unknown rule, a number out of range, or a setting that would have no effect.

    Source: LLaDA, Appendix B.4 for the two EOS options, with the model's own ids; Fast-dLLM for caches; ReMDM (arXiv 2503.00307) for
        revisiting, here by lowest confidence at the time of revealing (our choice: no random choice to repeat).
    """

    remasking: str | Confidence = "low_confidence"
    transfer: Transfer | None = None
    guidance_scale: float = 0.0
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    ban_eos: bool = False
    defer_eos: bool = False
    end_of_thinking: EndOfThinking | None = None
    n_revisited: int = 0
    cache: str | None = None
    refresh_every: int | None = None
    has_trace: bool = True

    def __post_init__(self) -> None:
        check_rule(self.remasking)
        if self.transfer is not None and not _can_read(self.transfer, self.remasking):
            legal = " or ".join(name for name in RULES if _can_read(self.transfer, name))
            if not isinstance(self.remasking, str):
                legal += f", or a rule with unit = {' or '.join(map(repr, self.transfer.needs))}"
            raise ValueError(
                f"transfer = {type(self.transfer).__name__}; cannot read the numbers of remasking = {name_of(self.remasking)}; "
                f"remasking = {legal}"
            )
        for name, value, zero in (
            ("temperature", self.temperature, "argmax"),
            ("guidance_scale", self.guidance_scale, "off"),
        ):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} = {value}; must be finite and cannot be negative; 0 ({zero}) or more")
        for name, value, is_legal, legal in (
            ("top_k", self.top_k, self.top_k is None or self.top_k >= 1, "1 or more"),
            ("top_p", self.top_p, self.top_p is None or 0 < self.top_p <= 1, "above 0, at most 1"),
        ):
            if not is_legal:
                raise ValueError(f"{name} = {value}; which tokens can be drawn; {legal}, or null for all")
            if value is not None and self.temperature == 0:
                raise ValueError(f"{name} = {value}; has no effect at temperature 0, which takes the likeliest; null")
        if self.cache not in (None, "prefix", "dual"):
            raise ValueError(f"cache = {self.cache!r}; not a cache; prefix, dual or null")
        if self.refresh_every is not None and (self.cache is None or self.refresh_every < 1):
            why = "has no effect without a cache; null" if self.cache is None else "steps; 1 or more, or null"
            raise ValueError(f"refresh_every = {self.refresh_every}; {why}")
        if self.n_revisited < 0:
            raise ValueError(f"n_revisited = {self.n_revisited}; tokens per step; 0 (off) or more")
        if self.n_revisited and self.transfer is not None:
            raise ValueError(
                f"n_revisited = {self.n_revisited}; with transfer = {type(self.transfer).__name__} a block might never end; 0"
            )

    @property
    def is_random(self) -> bool:
        """Whether two samples of one prompt can differ."""
        return self.temperature > 0 or is_drawn(self.remasking)


def _can_read(transfer: Transfer, remasking: str | Confidence) -> bool:
    return not transfer.needs or bool({name_of(remasking), unit_of(remasking)} & set(transfer.needs))


def quota_steps(
    rules: Rules, n_steps: int | None, block_length: int, n_blocks: int, name: str = "n_steps"
) -> int | None:
    """Steps per block of a fixed quota, checked; None where a transfer rule decides.

    Raises:
        ValueError: steps that do not divide among the blocks, are more than tokens, or have no effect.
    """
    if rules.transfer is not None:
        if n_steps is not None:
            raise ValueError(f"{name} = {n_steps}; has no effect with transfer = {type(rules.transfer).__name__}; null")
        return None
    if n_steps is None:
        return block_length
    if n_steps < n_blocks or n_steps % n_blocks or n_steps > n_blocks * block_length:
        per_block = min(max(1, round(n_steps / n_blocks)), block_length)
        raise ValueError(
            f"{name} = {n_steps}; each of {n_blocks} blocks needs the same number of steps, 1 to {block_length}; "
            f"nearest: {per_block * n_blocks}"
        )
    return n_steps // n_blocks


def check_revisited(rules: Rules, steps_per_block: int | None) -> None:
    """Refuse revisiting where a block has one step.

    Raises:
        ValueError: nothing is taken back at a block's last step, and there is no other.
    """
    if rules.n_revisited and steps_per_block == 1:
        raise ValueError(
            f"n_revisited = {rules.n_revisited}; has no effect with one step per block, which is its last; 0, or more steps"
        )


@torch.inference_mode()  # the canvas was made outside of it and stays an ordinary tensor
def fill_window(
    asker: Asker,
    canvas: Canvas,
    window: slice,
    n_steps: int | None,
    rules: Rules,
    rows: Tensor,
    noise: RowNoise,
    budget: int,
) -> None:
    """Fill the masks of a window, in place.

    Args:
        asker: the predictor and its counters.
        canvas: what is filled.
        window: columns that may be revealed now.
        n_steps: steps of a fixed quota, which is decided from the masks at the start; None: the transfer rule decides.
        rules: how.
        rows: rows still being written, int64 [b]; others cost nothing.
        noise: randomness of all rows of the batch.
        budget: tokens of the response at most (end-of-thinking boost).

    Raises:
        ValueError: the predictor's logits are no numbers, its vocabulary lacks an id of `rules`, or a transfer rule reveals nothing.
    """
    if rules.end_of_thinking is not None:
        check_ids("end_of_thinking.sequence", rules.end_of_thinking.sequence, asker.predictor)
    mask = asker.predictor.tokens.mask
    in_window = torch.zeros_like(canvas.is_prompt)
    in_window[:, window] = True
    is_ours = in_window & (canvas.x == mask)
    if canvas.is_valid is not None:
        is_ours &= canvas.is_valid
    n_open = is_ours[rows].sum(1)
    counts = None if n_steps is None else transfer_counts(n_open, n_steps)
    # Known beforehand, so that a quota never waits for the device to learn who is done.
    n_due = None if counts is None else (counts > 0).sum(0).tolist()
    asker.enter_block()
    origin = canvas.origin
    is_nan = torch.zeros((), dtype=torch.bool, device=canvas.x.device)
    for step in range(len(n_due)) if n_due is not None else itertools.count():
        due = rows
        if n_due is None:
            due = rows[(is_ours & (canvas.x == mask))[rows].any(1)]
            if not len(due):
                break
        elif n_due[step] < len(rows):
            assert counts is not None
            if n_due[step] == 0:
                continue
            due = rows[counts[:, step] > 0]
        canvas.n_steps += 1
        x = canvas.x[due]
        is_masked = is_ours[due] & (x == mask)
        is_valid = None if canvas.is_valid is None else canvas.is_valid[due]
        logits = asker.logits_at(x, is_masked, is_valid, canvas.is_prompt[due], due, window)
        where = is_masked.nonzero()
        own = due[where[:, 0]]
        if rules.end_of_thinking is not None:
            rules.end_of_thinking(logits, x, is_masked, canvas.n_prompt, budget)
        n_at_once = max(1, MAX_DRAWN // logits.shape[1])
        proposed = [
            _propose(asker, rules, part, here[:, 1], noise.at(row, asker.nfe[row], here[:, 1] - origin[row]))
            for part, here, row in zip(
                logits.split(n_at_once), where.split(n_at_once), own.split(n_at_once), strict=True
            )
        ]
        drawn, sureness = (torch.cat(parts) for parts in zip(*proposed, strict=True))
        # NaN is the largest of all to argmax, so that what is drawn shows it; read once, when the window is full.
        is_nan |= logits.gather(1, drawn[:, None]).isnan().any()
        # Where everything is ruled out there is no confidence; it is revealed all the same, last.
        sureness = torch.nan_to_num(sureness, nan=LAST, posinf=torch.inf, neginf=LAST)
        confidence = torch.full(x.shape, -torch.inf, device=x.device).masked_scatter(is_masked, sureness)
        if counts is None:
            assert rules.transfer is not None
            is_transferred = rules.transfer(confidence)
            if not bool((is_transferred & is_masked).any(1).all()):
                raise ValueError(
                    f"transfer = {type(rules.transfer).__name__}; revealed no mask of a row, whose block would never end; "
                    "at least one position of every row, where the confidence is above -inf"
                )
        else:
            # So many that as many masks are left as the quota wants, whatever was taken back before.
            left = counts[:, step + 1 :].sum(1)
            left = left if len(due) == len(rows) else left[counts[:, step] > 0]
            is_transferred = most_confident(confidence, is_masked.sum(1) - left)
        canvas.confidence[due] = torch.where(is_transferred, confidence, canvas.confidence[due])
        if rules.has_trace:
            _record(canvas, asker, due, is_transferred, is_masked, logits, drawn)
        canvas.x[due] = torch.where(is_transferred, x.masked_scatter(is_masked, drawn), x)
        if rules.n_revisited and counts is not None:
            # Not a row's last step: what it took back would stay a mask.
            _revisit(canvas, is_ours, due[left > 0], rules, asker)
        if canvas.on_step is not None:
            canvas.on_step(canvas)
    if bool(is_nan):
        raise ValueError(NO_NUMBERS)


def _propose(asker: Asker, rules: Rules, logits: Tensor, positions: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """A token for every masked position and how sure it is; the rule about EOS changes the logits in place."""
    tokens = asker.predictor.tokens
    if rules.ban_eos:
        logits[:, tokens.eos] = -torch.inf
    # [MASK] is no answer: nothing in the published code forbids it, and then a position stays masked for ever. Its probability counts
    # in the confidence of the others, as published.
    of_mask = logits[:, tokens.mask].clone()
    logits[:, tokens.mask] = -torch.inf
    drawn = draw(logits, rules.temperature, noise, rules.top_k, rules.top_p)
    logits[:, tokens.mask] = of_mask
    if not rules.defer_eos:
        return drawn, _score(rules.remasking, logits, drawn, positions, noise, tokens.mask)
    # As published: the confidence of everything else is that of a world without EOS.
    without = logits.index_fill(1, drawn.new_tensor(tokens.stop_ids), -torch.inf)
    sureness = _score(rules.remasking, without, drawn, positions, noise, tokens.mask)
    is_eos = torch.isin(drawn, drawn.new_tensor(tokens.stop_ids))
    return drawn, sureness.masked_fill(is_eos, 0.0 if unit_of(rules.remasking) == PROBABILITY else LAST)


def _score(
    remasking: str | Confidence, logits: Tensor, tokens: Tensor, positions: Tensor, noise: Noise, mask: int
) -> Tensor:
    """Confidence of every prediction, float32 [M]."""
    more = {"mask": mask} if is_told_mask(remasking) else {}
    found = rule_of(remasking)(logits, tokens, positions, noise, **more)
    if not isinstance(found, Tensor) or found.shape != tokens.shape:
        given = f"shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"remasking = {name_of(remasking)}; gave {given}; a number for each of the M = {len(tokens)} predictions, [{len(tokens)}]"
        )
    return found.float()


def _revisit(canvas: Canvas, is_ours: Tensor, rows: Tensor, rules: Rules, asker: Asker) -> None:
    """Make the `n_revisited` least sure revealed tokens of each row masks again."""
    x, mask, n = canvas.x[rows], asker.predictor.tokens.mask, rules.n_revisited
    is_revealed = is_ours[rows] & (x != mask)
    unsure = torch.where(is_revealed, -canvas.confidence[rows], -torch.inf)
    is_taken = most_confident(unsure, is_revealed.sum(1).clamp(max=n))
    canvas.x[rows] = torch.where(is_taken, mask, x)
    if rules.has_trace:
        nothing = dict.fromkeys(("token", "confidence", "runner_up", "runner_up_confidence"))
        nfe, numbers = asker.nfe.tolist(), rows.tolist()
        canvas.trace += [
            {
                "step": canvas.n_steps,
                "row": numbers[row],
                "position": position - canvas.n_prompt,
                **nothing,
                "nfe": nfe[numbers[row]],
            }
            for row, position in is_taken.nonzero().tolist()
        ]


def _record(
    canvas: Canvas,
    asker: Asker,
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
    rival = top.scatter(1, drawn[chosen][:, None], -1.0)
    rival[:, asker.predictor.tokens.mask] = -1.0
    rival = rival.max(1)
    nfe, rows = asker.nfe.tolist(), due.tolist()
    for (row, position), token, p, q, other in zip(
        where.tolist(), drawn[chosen].tolist(), own.tolist(), rival.values.tolist(), rival.indices.tolist(), strict=True
    ):
        canvas.trace.append(
            {
                "step": canvas.n_steps,
                "row": rows[row],
                "position": position - canvas.n_prompt,
                "token": token,
                "confidence": p,
                "runner_up": other,
                "runner_up_confidence": q,
                "nfe": nfe[rows[row]],
            }
        )
