"""Answers that a model writes, compared with those that are right."""

import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from illada_lab.models.protocol import Predictor
from illada_lab.samplers.result import Sampled


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
        stop_reason: "eos" or "length".
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
    """
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
        traces: dict[int, list[dict[str, Any]]] = {}
        for record in out.trace:
            traces.setdefault(record["row"], []).append(record)
        for n, i in enumerate(chosen):
            response = out.responses[n]
            text = tokenizer.decode(response, skip_special=False)
            found[i] = Generated(
                text=text,
                stop_reason=out.stop_reasons[n],
                nfe=int(out.nfe[n]),
                n_tokens=len(response),
                trace=traces.get(n, []),
                token_forwards=int(out.token_forwards[n]),
            )
    return [g for g in found if g is not None], time.perf_counter() - begin


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
    return getattr(sampler, "steps_per_block", None) or getattr(sampler, "block_length", None)


def is_right(text: str, answer: str) -> bool:
    """Whether a response gives the answer: all of it, or in a worked one what stands behind "the answer is"."""
    said = re.split(r"the answer is", text)[-1]
    return " ".join(said.split()).rstrip(" .") == " ".join(answer.split())
