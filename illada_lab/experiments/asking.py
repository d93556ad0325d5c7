"""Questions put to a model, with everything counted that generation costs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from illada_lab.data.chat import ChatTemplate
from illada_lab.data.worlds import Instruction
from illada_lab.evaluation.generation import Sampler, is_right
from illada_lab.training.checkpoint import LoadedRun

BATCH = 64


@dataclass
class Asked:
    """Answers to a list of questions.

    Attributes:
        texts: what the model said.
        is_correct: whether it gives the answer.
        nfe: predictor passes per answer, mean.
        token_forwards: positions computed per answer, mean; padding of the batch counts.
        seconds: of processor time per answer.
        eos_first: share of answers that are empty: EOS was their first token.
    """

    texts: list[str]
    is_correct: list[bool]
    nfe: float
    token_forwards: float
    seconds: float
    eos_first: float

    @property
    def share(self) -> float:
        """Share of right answers."""
        return sum(self.is_correct) / len(self.is_correct)

    def row(self, **about: Any) -> dict[str, Any]:
        """A row of a table: what was varied, then what was measured."""
        return {**about, "exact match": self.share, "passes": self.nfe, "positions": self.token_forwards,
                "seconds": self.seconds, "empty": self.eos_first, "n": len(self.texts)}  # fmt: skip


def ask(model: LoadedRun, questions: Sequence[Instruction], sampler: Sampler, seed: int = 0) -> Asked:
    """Let a fine-tuned model answer every question with a sampler.

    Args:
        model: fine-tuned, with its tokenizer.
        questions: with the answers to check.
        sampler: how it answers.
        seed: of the sampler's randomness; each question has its own, whatever its batch.
    """
    chat = ChatTemplate(model.tokenizer)
    prompts = [chat.prompt([{"role": "user", "content": item.prompt}]) for item in questions]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    texts = [""] * len(prompts)
    nfe = forwards = n_empty = 0
    begin = time.process_time()
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        x, is_valid = left_padded([prompts[i] for i in chosen], model.predictor.tokens.filler)
        out = sampler.sample(
            model.predictor, x, is_valid, [torch.Generator().manual_seed(seed * 10**6 + i) for i in chosen]
        )
        nfe, forwards = nfe + int(out.nfe.sum()), forwards + int(out.token_forwards.sum())
        n_empty += sum(not response for response in out.responses)
        for i, response in zip(chosen, out.responses, strict=True):
            texts[i] = model.tokenizer.decode(response, skip_special=False)
    n = len(prompts)
    is_correct = [is_right(text, item.answer) for text, item in zip(texts, questions, strict=True)]
    return Asked(texts, is_correct, nfe / n, forwards / n, (time.process_time() - begin) / n, n_empty / n)


def left_padded(rows: Sequence[Sequence[int]], filler: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Rows of different lengths as one tensor, padding on the left; and where it is not padding (None: nowhere is any)."""
    width = max(map(len, rows))
    x = torch.tensor([[filler] * (width - len(row)) + list(row) for row in rows])
    is_valid = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
    return x, None if bool(is_valid.all()) else is_valid
