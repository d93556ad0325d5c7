"""The autoregressive twin on the same questions: exact likelihood by the chain rule, greedy answers with a key/value cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from illada_lab.evaluation.masked import BATCH_LOGITS, Pair, batches_by_length, check_sequences, looks_back
from illada_lab.models.cache import Cache, LayerCache
from illada_lab.models.kernels import Dense
from illada_lab.models.mask_predictor import MaskPredictor
from illada_lab.models.protocol import Predictor
from illada_lab.models.rope import rotary_table
from illada_lab.samplers.canvas import (
    Canvas,
    Flags,
    Rows,
    as_rows,
    check_flags,
    check_left_padded,
    check_tokens,
    check_width,
)
from illada_lab.samplers.result import Sampled
from illada_lab.samplers.room import write_by_room
from illada_lab.samplers.stopping import Decoder, check_stop_strings, find_end


@torch.no_grad()
def chain_rule_log_likelihoods(predictor: MaskPredictor, pairs: Sequence[Pair]) -> list[float]:
    """log p(response | prompt) of an autoregressive model, nats, exact: one pass for each batch of pairs.

    The twin reads BOS and what stands before a position, and predicts the token at it (`objectives.autoregressive.shift_right`).

    Args:
        predictor: the twin.
        pairs: token ids of prompt and response.

    Raises:
        ValueError: a model that is not causal, an empty response, ids that are none, [MASK], a sequence longer than the context.
    """
    bos = _start_token(predictor)
    check_sequences(predictor, pairs)
    device, found = predictor.head_weight.device, [0.0] * len(pairs)
    lengths = [len(prompt) + len(response) for prompt, response in pairs]
    n_wanted = [len(response) for _, response in pairs]
    for batch in batches_by_length(predictor, lengths, n_wanted, is_longest_first=True):
        width = max(lengths[i] for i in batch)
        x = torch.full((len(batch), width), predictor.tokens.filler)
        is_wanted = torch.zeros(x.shape, dtype=torch.bool)
        for n, i in enumerate(batch):
            whole = [*pairs[i][0], *pairs[i][1]]
            x[n, : len(whole)] = torch.tensor(whole)
            is_wanted[n, len(pairs[i][0]) : len(whole)] = True
        # What stands behind a row's end is never looked at: attention goes backwards only.
        inputs = torch.cat((torch.full((len(x), 1), bos), x[:, :-1]), 1).to(device)
        logits, targets = predictor.logits_at(inputs, is_wanted.to(device)), x[is_wanted].to(device)
        # In float64 some at a time: a large vocabulary's distributions take several times the memory of its logits.
        n_at_once = max(1, BATCH_LOGITS // logits.shape[1])
        log_p = torch.cat(
            [
                part.double().log_softmax(-1).gather(1, own[:, None])[:, 0]
                for part, own in zip(logits.split(n_at_once), targets.split(n_at_once), strict=True)
            ]
        )
        sums = torch.zeros(len(batch), dtype=torch.float64).index_add(0, is_wanted.nonzero()[:, 0], log_p.cpu())
        for i, value in zip(batch, sums.tolist(), strict=True):
            found[i] = value
    return found


@dataclass(frozen=True, kw_only=True)
class Greedy:
    """The likeliest next token, one after the other; keys and values of what has been read are kept.

    Args:
        max_length: tokens of a response at most.
        stop_strings: texts that end a response as well; looked for after every token, needs a tokenizer.
        tokenizer: what decodes the response when there are stop strings.

    Source: the usual way of answering with an autoregressive model; NFE is one per token.
    """

    max_length: int
    stop_strings: Sequence[str] = ()
    tokenizer: Decoder | None = None

    def __post_init__(self) -> None:
        if self.max_length < 1:
            raise ValueError(f"max_length = {self.max_length}; tokens of a response; 1 or more")
        check_stop_strings(self.stop_strings, self.tokenizer)

    @property
    def budget(self) -> int:
        """Tokens that a response may have."""
        return self.max_length

    @property
    def unit(self) -> int:
        """Tokens that the context must have room for: the first."""
        return 1

    @torch.no_grad()
    def sample(
        self,
        predictor: MaskPredictor,
        prompt: Rows,
        is_valid: Flags | None = None,
        generator: Any = None,
        on_step: Callable[[Canvas], None] | None = None,
    ) -> Sampled:
        """Answer every prompt of a batch.

        Args:
            predictor: the twin.
            prompt: int64 [B, P], shorter prompts padded on the left; or one list of ids per row.
            is_valid: bool [B, P], false at the padding.
            generator: not used: nothing is random.
            on_step: not called: there is no canvas.

        Raises:
            ValueError: a model that is not causal, an empty prompt, ids that are none, padding on the right, flags that are not bool, or a
                context that the prompt fills.
        """
        _start_token(predictor)
        prompt, is_valid = as_rows(prompt, is_valid, predictor)
        check_width(prompt)
        check_flags(is_valid, prompt, "prompt")
        check_tokens(predictor, prompt)
        check_left_padded(is_valid)
        if not len(prompt):
            nothing = prompt.new_zeros(0)
            return Sampled(prompt, [], [], nothing, nothing, [], 0)

        def write(rows: Tensor, prompt: Tensor, is_valid: Tensor | None, budget: int) -> Sampled:
            return self._write(predictor, prompt, is_valid, budget)

        return write_by_room(write, predictor, prompt, is_valid, wanted=self.max_length, unit=1)

    def _write(self, predictor: MaskPredictor, prompt: Tensor, is_valid: Tensor | None, budget: int) -> Sampled:
        """Answer prompts that have the same budget."""
        bos, stop_ids = _start_token(predictor), predictor.tokens.stop_ids
        n_rows, n_prompt = prompt.shape
        if n_prompt + budget > predictor.spec.max_length:
            raise ValueError(
                f"prompt = {n_prompt} tokens; leaves no room for an answer; at most {predictor.spec.max_length - 1}"
            )
        valid = torch.ones_like(prompt, dtype=torch.bool) if is_valid is None else is_valid
        # BOS moves in at the left of each row, in front of its first token.
        inputs = torch.cat((torch.full_like(prompt[:, :1], bos), torch.where(valid, prompt, bos)), 1)
        seen = torch.cat((valid, torch.ones_like(valid[:, :1])), 1)
        reader = _Reader(predictor, n_rows, n_prompt + budget)
        logits = reader.read(inputs, seen)
        written: list[list[int]] = [[] for _ in range(n_rows)]
        reasons = ["length"] * n_rows
        nfe = torch.zeros(n_rows, dtype=torch.long)
        is_open = [True] * n_rows
        for step in range(budget):
            chosen = logits.argmax(1)
            for row, token in enumerate(chosen.tolist()):
                if not is_open[row]:
                    continue
                nfe[row] += 1
                if token in stop_ids:
                    is_open[row], reasons[row] = False, "eos"
                    continue
                written[row].append(token)
                end = find_end(written[row], (), (), self.stop_strings, self.tokenizer) if self.stop_strings else None
                if end is not None:
                    is_open[row], reasons[row], written[row] = False, end[1], written[row][: end[0]]
            if not any(is_open) or step == budget - 1:
                break
            seen = torch.cat((seen, torch.ones_like(seen[:, :1])), 1)
            logits = reader.read(chosen[:, None], seen)
        filler = predictor.tokens.filler
        out = [[*row, *[filler] * (budget - len(row))] for row in written]
        tokens = torch.cat((prompt, torch.tensor(out, device=prompt.device)), 1)
        return Sampled(tokens, written, reasons, nfe, nfe + n_prompt, [], int(nfe.max()))


class _Reader:
    """The twin reading on: only new tokens are computed."""

    def __init__(self, predictor: MaskPredictor, n_rows: int, length: int) -> None:
        self.predictor, self.n_read = predictor, 0
        weight, spec = predictor.head_weight, predictor.spec
        shape = (n_rows, spec.n_kv_heads, length, spec.head_size)
        self.cache = Cache([LayerCache(weight.new_zeros(shape), weight.new_zeros(shape)) for _ in predictor.layers])

    def read(self, x: Tensor, seen: Tensor) -> Tensor:
        """Logits of the token behind those given, [B, V]; `seen` says which tokens so far are no padding."""
        predictor, start, stop = self.predictor, self.n_read, self.n_read + x.shape[1]
        positions = torch.arange(start, stop, device=x.device)
        table = rotary_table(positions, predictor.spec.head_size, predictor.spec.rope_theta)
        columns = torch.arange(self.cache.layers[0].keys.shape[2], device=x.device)
        known = torch.zeros(len(x), len(columns), dtype=torch.bool, device=x.device)
        known[:, :stop] = seen
        # A padded position may see itself, so that its softmax has something to sum.
        visible = (columns <= positions[:, None]) & known[:, None] | (columns == positions[:, None])
        h = predictor.embed_tokens(x)
        for layer, kept in zip(predictor.layers, self.cache.layers, strict=True):
            h = layer(h, table, Dense(visible[:, None]), kept, start)
        self.n_read = stop
        return predictor.head(predictor.norm(h[:, -1]))


def twin_of(predictor: Predictor) -> MaskPredictor:
    """A predictor that is an autoregressive twin.

    Raises:
        ValueError: it is none.
    """
    _check_causal(predictor)
    if not isinstance(predictor, MaskPredictor):
        raise ValueError(
            f"predictor = {type(predictor).__name__}; the chain rule is the twin's; a MaskPredictor with is_causal=true"
        )
    return predictor


def _check_causal(predictor: Predictor) -> None:
    if not looks_back(predictor):
        raise ValueError(
            "model.is_causal = false; a mask predictor has no chain rule; monte_carlo, confidence or a twin"
        )


def _start_token(predictor: MaskPredictor) -> int:
    _check_causal(predictor)
    bos = predictor.tokens.bos
    if bos is None:
        raise ValueError("tokens.bos = null; the twin starts every sequence with it; a token id")
    return bos
