"""Tasks put to a model, with everything counted that generation costs."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from illada_lab.data.chat import ChatTemplate
from illada_lab.data.worlds import World
from illada_lab.evaluation.generation import Sampler, generate, is_right
from illada_lab.samplers import Rules
from illada_lab.training.checkpoint import LoadedRun

BATCH = 64
# What stands behind the first sentence of a story of one form: 23 words and EOS. Divisible into blocks of 12, 8, 4 and 1.
STORY_TOKENS = 24


@dataclass
class Task:
    """Prompts, and how to tell whether a response is good.

    Attributes:
        prompts: token ids.
        checks: of each prompt, from the response's text.
    """

    prompts: list[list[int]]
    checks: list[Callable[[str], bool]]


@dataclass
class Asked:
    """Responses to a task.

    Attributes:
        texts: what the model said.
        is_correct: whether it passes the check.
        nfe: predictor passes per response, mean.
        token_forwards: positions computed per response, mean; padding of the batch counts.
        seconds: of processor time per response.
        empty: share of responses whose first token is EOS.
    """

    texts: list[str]
    is_correct: list[bool]
    nfe: float
    token_forwards: float
    seconds: float
    empty: float

    @property
    def share(self) -> float:
        """Share of good responses."""
        return sum(self.is_correct) / len(self.is_correct)

    def row(self, **about: Any) -> dict[str, Any]:
        """A row of a table: what was varied, then what was measured."""
        return {**about, "right": self.share, "passes": self.nfe, "positions": self.token_forwards,
                "seconds": self.seconds, "empty": self.empty, "n": len(self.texts)}  # fmt: skip


def question_task(world: World, model: LoadedRun, kinds: Sequence[str], n: int, seed: int) -> Task:
    """Questions of several kinds in equal parts, for a fine-tuned model; right is the answer.

    Args:
        world: which asks.
        model: whose tokenizer and chat format.
        kinds: kinds of questions of the world.
        n: in all, at most.
        seed: of the questions.
    """
    chat = ChatTemplate(model.tokenizer)
    task = Task([], [])
    for kind in kinds:
        for item in world.questions("test", kind, max(1, n // len(kinds)), seed=seed):
            task.prompts.append(chat.prompt([{"role": "user", "content": item.prompt}]))
            task.checks.append(lambda text, answer=item.answer: is_right(text, answer))
    return task


def story_task(world: World, model: LoadedRun, n: int, seed: int) -> Task:
    """First sentences of stories, for a base model; right is any continuation that makes a story of the world's grammar.

    The hero decides the pronoun and, with the place, what can be found; object, colour and animal come twice or three times and must
    agree. All windows are of `STORY_TOKENS`, which the model is shown, so the form of the rest is the same throughout.

    Args:
        world: whose stories.
        model: whose tokenizer.
        n: how many.
        seed: of the first sentences.
    """
    bos = model.predictor.tokens.bos
    assert bos is not None, "our own tokenizers have a BOS"
    draw = random.Random(seed)
    task = Task([], [])
    for document in world.documents("test", n, seed=draw.randrange(2**31)):
        head = document.text.partition(" . ")[0] + " ."
        task.prompts.append([bos, *model.tokenizer.encode_known(head)])
        task.checks.append(lambda text, head=head: world.stories.parse(f"{head} {text}") is not None)
    return task


def ask(model: LoadedRun, task: Task, sampler: Sampler, seed: int = 0) -> Asked:
    """Let a model respond to every prompt with a sampler.

    Args:
        model: with its tokenizer.
        task: prompts and checks.
        sampler: how it responds.
        seed: of the sampler's randomness; each prompt has its own, whatever its batch.
    """
    if isinstance(sampler, Rules):
        sampler = replace(sampler, has_trace=False)  # nobody reads it, and writing it takes as long as a small model
    n, begin = len(task.prompts), time.process_time()
    seeds = [seed * 10**6 + i for i in range(n)]
    said, _ = generate(model.predictor, model.tokenizer, task.prompts, sampler, batch_size=BATCH, seeds=seeds)
    seconds = time.process_time() - begin
    return Asked(
        texts=[one.text for one in said],
        is_correct=[check(one.text) for one, check in zip(said, task.checks, strict=True)],
        nfe=sum(one.nfe for one in said) / n,
        token_forwards=sum(one.token_forwards for one in said) / n,
        seconds=seconds / n,
        empty=sum(not one.n_tokens for one in said) / n,
    )
