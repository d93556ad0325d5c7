"""Answers that a model writes, compared with those that are right."""

import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from illada_lab.models.protocol import Predictor
from illada_lab.samplers.decode import quota_steps
from illada_lab.samplers.fixed_length import FixedLength
from illada_lab.samplers.result import Sampled
from illada_lab.samplers.stopping import response_text


@runtime_checkable
class Sampler(Protocol):
    """Anything with `sample`, as the samplers of this package have it."""

    def sample(self, predictor: Any, prompt: Any, /, is_valid: Any = None, generator: Any = None) -> Sampled:
        """Generate a response to every prompt."""
        ...


@dataclass
class Generated:
    """One generation.

    Attributes:
        text: the response.
        stop_reason: "eos", "stop" or "length".
        nfe: predictor passes.
        n_tokens: tokens of the response.
        trace: records of this row.
        token_forwards: positions computed, padding of the batch counts; 0: not counted.
    """

    text: str
    stop_reason: str
    nfe: int
    n_tokens: int
    trace: list[dict[str, Any]]
    token_forwards: int = 0


def generate(
    predictor: Predictor,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    sampler: Sampler,
    *,
    batch_size: int = 64,
    generator: torch.Generator | None = None,
    seeds: Sequence[int] | None = None,
) -> tuple[list[Generated], float]:
    """Generate a response to every prompt, in batches of prompts of similar length.

    Args:
        predictor: the model.
        tokenizer: for the responses' text.
        prompts: token ids.
        sampler: how.
        batch_size: prompts per batch.
        generator: randomness; every prompt gets a generator of its own from it, so its text does not depend on the batches.
        seeds: of the prompts' generators, instead of drawing them.

    Returns:
        The generations in the prompts' order, and the seconds it took.

    Raises:
        ValueError: a batch size below 1; as the sampler.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}; prompts answered together; 1 or more")
    found: list[Generated | None] = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    device = getattr(getattr(predictor, "head_weight", None), "device", torch.device("cpu"))
    if seeds is None:
        seeds = torch.randint(2**62, (len(prompts),), generator=generator).tolist()
    begin = time.perf_counter()
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        x, is_valid = left_padded([prompts[i] for i in chosen], predictor.tokens.filler)
        out = sampler.sample(
            predictor,
            x.to(device),
            None if is_valid is None else is_valid.to(device),
            [torch.Generator().manual_seed(seeds[i]) for i in chosen],
        )
        for i, made in zip(chosen, rows_of(out, texts_of(out, sampler, tokenizer)), strict=True):
            found[i] = made
    return [g for g in found if g is not None], time.perf_counter() - begin


def texts_of(out: Sampled, sampler: Any, tokenizer: Any) -> list[str]:
    """What the responses say, special tokens shown, up to the stop strings of the sampler that wrote them."""
    strings = getattr(sampler, "stop_strings", ())
    return [
        response_text(response, reason, strings, tokenizer)
        for response, reason in zip(out.responses, out.stop_reasons, strict=True)
    ]


def rows_of(out: Sampled, texts: Sequence[str]) -> list[Generated]:
    """Each row of a sampler's result for itself.

    Args:
        out: the result.
        texts: what the responses say.
    """
    traces: list[list[dict[str, Any]]] = [[] for _ in texts]
    for record in out.trace:
        traces[record["row"]].append(record)
    return [
        Generated(text, reason, int(nfe), len(response), trace, int(forwards))
        for text, reason, nfe, response, trace, forwards in zip(
            texts, out.stop_reasons, out.nfe, out.responses, traces, out.token_forwards, strict=True
        )
    ]


def left_padded(rows: Sequence[Sequence[int]], filler: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Rows of different lengths as one tensor, padding on the left; and where it is not padding (None: nowhere is any)."""
    width = max(map(len, rows))
    x = torch.tensor([[filler] * (width - len(row)) + list(row) for row in rows])
    is_valid = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
    return x, None if bool(is_valid.all()) else is_valid


def seed_of(seed: int, request: Any) -> int:
    """Seed of one request's generator: its draws depend on what it is, not on its place or its neighbours."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {request}".encode(), digest_size=7).digest())


def steps_told(sampler: Any) -> int | None:
    """Reverse steps per block, as a result says it; None where a transfer rule decides, or there are no blocks."""
    if getattr(sampler, "transfer", None) is not None:
        return None
    if isinstance(sampler, FixedLength):  # all steps are of the response, in one block where none is said
        block_length = sampler.block_length or sampler.response_length
        return quota_steps(sampler, sampler.n_steps, block_length, sampler.response_length // block_length)
    return getattr(sampler, "steps_per_block", None) or getattr(sampler, "block_length", None)


def is_right(text: str, answer: str) -> bool:
    """Whether a response gives the answer: all of it, or in a worked one what stands behind "the answer is"."""
    said = re.split(r"the answer is", text)[-1]
    return " ".join(said.split()).rstrip(" .") == " ".join(answer.split())
