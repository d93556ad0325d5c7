"""Answers that a model writes, compared with those that are right."""

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

    def sample(self, predictor: Predictor, prompt: Any, is_valid: Any = None, generator: Any = None) -> Sampled:
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
    """

    text: str
    stop_reason: str
    nfe: int
    n_tokens: int
    trace: list[dict[str, Any]]


def generate(
    predictor: Predictor,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    sampler: Sampler,
    *,
    batch_size: int = 64,
    generator: torch.Generator | None = None,
) -> tuple[list[Generated], float]:
    """Generate a response to every prompt, in batches of prompts of similar length.

    Args:
        predictor: the model.
        tokenizer: for the responses' text.
        prompts: token ids.
        sampler: how.
        batch_size: prompts per batch.
        generator: randomness.

    Returns:
        The generations in the prompts' order, and the seconds it took.
    """
    found: list[Generated | None] = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    device = getattr(getattr(predictor, "head_weight", None), "device", torch.device("cpu"))
    begin = time.perf_counter()
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        width = max(len(prompts[i]) for i in chosen)
        x = torch.full((len(chosen), width), predictor.tokens.filler)
        is_valid = torch.zeros(len(chosen), width, dtype=torch.bool)
        for n, i in enumerate(chosen):
            x[n, width - len(prompts[i]) :] = torch.tensor(prompts[i])
            is_valid[n, width - len(prompts[i]) :] = True
        out = sampler.sample(predictor, x.to(device), None if bool(is_valid.all()) else is_valid.to(device), generator)
        traces: dict[int, list[dict[str, Any]]] = {}
        for record in out.trace:
            traces.setdefault(record["row"], []).append(record)
        for n, i in enumerate(chosen):
            response = out.responses[n]
            text = tokenizer.decode(response, skip_special=False)
            found[i] = Generated(text, out.stop_reasons[n], int(out.nfe[n]), len(response), traces.get(n, []))
    return [g for g in found if g is not None], time.perf_counter() - begin


def is_right(text: str, answer: str) -> bool:
    """Whether a response gives the answer: all of it, or in a worked one what stands behind "the answer is"."""
    said = re.split(r"the answer is", text)[-1]
    return " ".join(said.split()).rstrip(" .") == " ".join(answer.split())


def health(generations: Sequence[Generated], seconds: float) -> list[dict[str, Any]]:
    """What to look at before believing a score: stop reasons, empty answers, loops, cost.

    Returns:
        Rows of name, value, note, is_warning.

    Source: our choice, from the threads that fill the field's issue lists ("most answers are nothing but EOS").
    """
    n = max(1, len(generations))
    ended = sum(g.stop_reason == "eos" for g in generations) / n
    empty = sum(g.n_tokens == 0 for g in generations) / n
    looped = sum(_loops(g.text) for g in generations) / n
    written = sum(g.n_tokens for g in generations)
    passes = sum(g.nfe for g in generations)
    return [
        {"name": "answers that ended by themselves", "value": f"{ended:.1%}", "note": "the others filled their budget",
         "is_warning": ended < 0.5},
        {"name": "empty answers", "value": f"{empty:.1%}", "note": "EOS at once; above 20 % the model has learnt EOS as padding",
         "is_warning": empty > 0.2},
        {"name": "answers with a loop", "value": f"{looped:.1%}", "note": "three equal words or phrases in a row",
         "is_warning": looped > 0.1},
        {"name": "passes per answer", "value": f"{passes / n:.1f}", "note": "predictor passes (NFE)", "is_warning": False},
        {"name": "tokens per answer", "value": f"{written / n:.1f}", "note": "without the end token", "is_warning": False},
        {"name": "tokens per second", "value": f"{written / max(seconds, 1e-9):.0f}", "note": "all answers together",
         "is_warning": False},
    ]  # fmt: skip


def _loops(text: str) -> bool:
    """The same one to four words three times in a row."""
    words = text.split()
    return any(
        words[i : i + k] == words[i + k : i + 2 * k] == words[i + 2 * k : i + 3 * k]
        for k in range(1, 5)
        for i in range(len(words) - 3 * k + 1)
    )
