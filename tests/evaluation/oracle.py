"""Predictors of known quality: one that reads the generator's state, and one that guesses among words of the right kind."""

import random

import torch

from illada_lab.data.worlds import facts
from illada_lab.data.worlds.instructions import QUESTION_KINDS
from illada_lab.data.worlds.posterior import StoryPosterior
from illada_lab.evaluation.world_functions import function_tasks
from illada_lab.models.spec import ModelSpec

# What nothing in the world says is this unlikely (nats), not impossible: a bound over mask sets must stay finite.
UNLIKELY = -20.0
SPEC = ModelSpec(
    vocab_size=400, d_model=4, n_layers=1, n_heads=1, n_kv_heads=1, d_ffn=4, max_length=256, is_tied=True,
    rope_theta=1e4, norm_eps=1e-6,
)  # fmt: skip


class Oracle:
    """Knows every statement, every story and every answer of a world.

    Args:
        world: whose state it reads.
        tokenizer: its words.
        n_questions, seed: of the suite, for the questions that are drawn.
    """

    def __init__(self, world, tokenizer, n_questions: int, seed: int = 0) -> None:
        self.tokens, self.spec, self.vocab_size = tokenizer.tokens, SPEC, tokenizer.vocab_size
        self.tokenizer, self.stories = tokenizer, StoryPosterior(world.stories)
        texts = [text for table in world.tables.values() for split in table.values() for text in split]
        # The sentences that no text states are part of the state too.
        texts += [form.format(**vars(p)) for p in world.lexicon.people for form in facts.REVERSE_STATEMENTS]
        ids = [[self.tokens.bos, *tokenizer.encode(text), self.tokens.eos] for text in dict.fromkeys(texts)]
        self.statements = {n: torch.tensor([x for x in ids if len(x) == n]) for n in {len(x) for x in ids}}
        asked = [item for kind in QUESTION_KINDS for item in world.questions("test", kind, n_questions, seed=seed)]
        said = [(item.prompt, item.response) for item in asked]
        said += [(task.prompt, task.program) for task in function_tasks(n_questions, random.Random(seed))]
        talks = [[self.tokens.bos, 4, *tokenizer.encode(p), 6, *tokenizer.encode(r)] for p, r in said]
        self.talks = torch.tensor([x + [self.tokens.eos] * (120 - len(x)) for x in talks])

    def __call__(self, x, is_valid=None):
        logits = torch.zeros(*x.shape, self.vocab_size)
        valid = torch.ones_like(x, dtype=torch.bool) if is_valid is None else is_valid
        for row in range(len(x)):
            logits[row, valid[row]] = self._row(x[row, valid[row]])
        return logits

    def _row(self, x):
        is_open = x == self.tokens.mask
        known = self.talks[:, : len(x)] if 4 in x.tolist() else self.statements.get(len(x), x.new_zeros(0, len(x)))
        matching = known[((known == x) | is_open).all(1)]
        if len(matching):
            return self._of([{int(t): 1 / len(column) for t in column} for column in matching.T], len(x))
        return self._of(self._story(x.tolist()) or [{} for _ in x], len(x))

    def _story(self, x):
        if x[-1] not in (self.tokens.eos, self.tokens.mask) or 4 in x:
            return None
        words = [None if i == self.tokens.mask else self.tokenizer.token_text(i) for i in x[1:-1]]
        try:
            found = self.stories(words)
        except ValueError:
            return None
        ids = [{self.tokenizer.encode(word)[0]: p for word, p in weights.items()} for weights in found]
        return [{self.tokens.bos: 1.0}, *ids, {self.tokens.eos: 1.0}]

    def _of(self, weights, n):
        logits = torch.full((n, self.vocab_size), UNLIKELY)
        for position, column in enumerate(weights):
            for token, p in column.items():
                logits[position, token] = max(UNLIKELY, float(torch.tensor(p).log()))
        return logits


class Guesser:
    """Knows of what kind a word must be, and nothing else: at every mask a random word of the pool."""

    def __init__(self, tokenizer, pool, seed: int = 0) -> None:
        self.tokens, self.spec, self.vocab_size = tokenizer.tokens, SPEC, tokenizer.vocab_size
        self.pool = [tokenizer.encode(word)[0] for word in pool]
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, x, is_valid=None):
        logits = torch.full((*x.shape, self.vocab_size), UNLIKELY)
        logits[..., self.pool] = torch.rand(*x.shape, len(self.pool), generator=self.generator)
        return logits
