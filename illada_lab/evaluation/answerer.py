"""A model behind the three questions that evaluation harnesses ask: how likely, how likely in all, and what next.

Every request has randomness of its own, from the seed and its text: an answer does not depend on what else is asked, nor on a run that was
broken off.
"""

import json
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from illada_lab.data.chat import ChatTemplate
from illada_lab.data.tokenizer import Tokenizer
from illada_lab.evaluation.autoregressive import Greedy, chain_rule_log_likelihoods
from illada_lab.evaluation.choice import confidence_scores
from illada_lab.evaluation.generation import Generated, generate, seed_of
from illada_lab.evaluation.likelihood import monte_carlo_log_likelihoods
from illada_lab.evaluation.masked import Pair
from illada_lab.evaluation.options import asked_of
from illada_lab.models.mask_predictor import MaskPredictor
from illada_lab.samplers import EndOfThinking, FixedLength, VariableLength
from illada_lab.samplers.room import cut_budgets

MASKED = ("confidence", "monte_carlo")
SCORING = (*MASKED, "chain_rule")
# Settings, what they are where they say nothing, and the rules that they have an effect on.
EFFECTS = (
    ("n_samples", None, ("monte_carlo",)),
    ("ends_texts", False, ("monte_carlo",)),
    ("guidance_scale", 0, MASKED),
    ("has_eos", None, MASKED),
    ("block_length", None, MASKED),
    ("steps_per_block", None, MASKED),
    ("thinking_power", None, MASKED),
)
# Mask sets of a candidate, as in the papers, and tokens of a block, as in iLLaDA's settings of the evaluation.
N_SAMPLES, BLOCK_LENGTH = 128, 32
# In front of a conversation on its way through a harness, which knows text only: a character that stands for nothing.
CHAT = "\ue000"
# Kind of a task -> its metric that counts whether the greedy answer is the candidate. Source: lm-eval, `process_results`.
COUNTS_GREEDY = {"loglikelihood": "acc", "multiple_choice": "exact_match"}


@dataclass(kw_only=True)
class Answerer:
    """Scores and generates from text.

    Args:
        predictor: the model; an autoregressive one is scored by the chain rule and answers greedily.
        tokenizer: its tokenizer.
        scoring: confidence, monte_carlo, or chain_rule (twins).
        n_samples: mask sets per candidate (monte_carlo); None: 128, the papers' number.
        guidance_scale: classifier-free guidance of scores and answers; 0 is off.
        has_bos: BOS stands in front of every text; None: nothing does.
        has_eos: EOS stands behind a candidate, visible. None: it does, but for chain_rule, which looks back only.
        ends_texts: EOS stands behind whole texts, visible, too (`rolling_log_likelihoods`; monte_carlo): to a model whose documents all
            ended in it a text without one is a text that breaks off. Where it stands gives a text's length away, for which nobody pays:
            the bound is one on -log p(text | its length). A twin by the chain rule is not told the length.
        has_greedy: also find out whether the greedy answer is the candidate; costs a pass per token. None: of candidates that stand alone.
        max_length: budget of an answer where the harness names none, tokens.
        block_length: tokens per block, all of the budget where a harness names a smaller one; None: 32, in a smaller budget all of it.
        steps_per_block: reverse steps per block, one per token where the block is smaller; None: one token per step.
        thinking_power: of the growing push towards "</think>" in answers; None: none.
        batch_size: answers generated together.
        seed: of masks and draws.

    Raises:
        ValueError: an unknown rule, settings without effect on it, numbers out of range, a budget below one block.

    Source: iLLaDA, settings of the evaluation: both scores with BOS and EOS for likelihood tasks.
    """

    predictor: MaskPredictor
    tokenizer: Tokenizer
    scoring: str = "confidence"
    n_samples: int | None = None
    guidance_scale: float = 0.0
    has_bos: bool | None = True
    has_eos: bool | None = None
    ends_texts: bool = False
    has_greedy: bool | None = None
    max_length: int = 256
    block_length: int | None = None
    steps_per_block: int | None = None
    thinking_power: float | None = None
    batch_size: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.scoring not in SCORING:
            raise ValueError(f"scoring = {self.scoring!r}; not a rule; {', '.join(SCORING)}")
        if self.predictor.spec.is_causal != (self.scoring == "chain_rule"):
            legal = "chain_rule" if self.predictor.spec.is_causal else "confidence or monte_carlo"
            raise ValueError(f"scoring = {self.scoring}; not for this model; {legal}")
        for key, nothing, rules in EFFECTS:
            value = getattr(self, key)
            if self.scoring not in rules and value not in (None, nothing):
                why = "on an autoregressive model" if self.scoring == "chain_rule" else f"with scoring = {self.scoring}"
                raise ValueError(f"{key} = {value}; has no effect {why}; {json.dumps(nothing)}")
        for key in ("n_samples", "max_length", "block_length", "steps_per_block", "batch_size"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise ValueError(f"{key} = {value}; too few; 1 or more")
        # Of what plays no part there is nothing to be told.
        if self.scoring == "monte_carlo" and self.n_samples is None:
            self.n_samples = N_SAMPLES
        if self.scoring != "chain_rule":
            self.has_eos = True if self.has_eos is None else self.has_eos
            self.block_length = self.block_length or min(BLOCK_LENGTH, self.max_length)
            if self.max_length < self.block_length:
                raise ValueError(
                    f"max_length = {self.max_length}; less than one block of {self.block_length}; {self.block_length} or more"
                )
            if self.steps_per_block is not None and self.steps_per_block > self.block_length:
                raise ValueError(
                    f"steps_per_block = {self.steps_per_block}; more than a block has tokens; 1 to {self.block_length}"
                )

    def encode(self, text: str) -> list[int]:
        """Ids of a text; a conversation that `chat` made becomes the prompt of its chat format."""
        if not text.startswith(CHAT):
            return self.tokenizer.encode_known(text)
        messages, end = json.JSONDecoder().raw_decode(text[len(CHAT) :])
        return [*ChatTemplate(self.tokenizer).prompt(messages), *self.encode(text[len(CHAT) + end :])]

    @staticmethod
    def chat(messages: Sequence[dict[str, str]]) -> str:
        """A conversation as text that `encode` understands: special tokens cannot be typed."""
        return CHAT + json.dumps([dict(message) for message in messages], ensure_ascii=False)

    def pair(self, context: str, continuation: str) -> Pair:
        """Ids of a prompt and of what follows it; white space between the two belongs to the second, as in lm-eval.

        A context that leaves no room is cut on the left.

        Raises:
            ValueError: an empty continuation, or one longer than the model's context.
        """
        if not continuation:
            raise ValueError("continuation = ''; nothing to score; text")
        prompt, response, room = self._split(context, continuation)
        return self._cut(prompt, room), response

    def _split(self, context: str, continuation: str) -> tuple[list[int], list[int], int]:
        """Ids of a prompt, all of them, and of what follows it, and how many tokens the prompt may have."""
        if context.startswith(CHAT):
            prompt, response = self.encode(context), self.encode(continuation)
        else:
            whole_context, context = context, context.rstrip()
            continuation = whole_context[len(context) :] + continuation
            head = self.encode(context)
            whole = self.encode(context + continuation)
            # Where a token reaches over the border, each side is encoded for itself.
            is_clean = whole[: len(head)] == head
            response = whole[len(head) :] if is_clean else self.encode(continuation)
            prompt = self._opened(head)
        most = self.predictor.spec.max_length - 1 - bool(self.has_eos)  # and a token in front
        if not 1 <= len(response) <= most:
            raise ValueError(f"continuation = {continuation[:40]!r}; {len(response)} tokens; 1 to {most}")
        return prompt, response, most + 1 - len(response)

    def expect(self, task: str, kind: str, metrics: Collection[str]) -> None:
        """Get ready for a task of a harness: find out whether the greedy answer is the candidate, where a metric counts that.

        Args:
            task: its name.
            kind: what it asks: loglikelihood, loglikelihood_rolling, multiple_choice, generate_until.
            metrics: names of what is made of the scores.

        Raises:
            ValueError: a metric of likelihoods under a rule that gives none.
        """
        of_likelihoods = sorted(m for m in metrics if "perplexity" in m or m == "bits_per_byte")
        if of_likelihoods and self.scoring == "confidence":
            raise ValueError(
                f"scoring = confidence; no likelihood, so no {of_likelihoods[0]}, which {task} asks for; monte_carlo"
            )
        # Once it is so it stays so, whatever else the same model is asked.
        self.ends_texts |= kind == "loglikelihood_rolling" and bool(self.has_eos)
        self.has_greedy = bool(self.has_greedy) or COUNTS_GREEDY.get(kind) in metrics

    def log_likelihoods(
        self, requests: Sequence[tuple[str, str]], is_alone: Sequence[bool] | None = None
    ) -> list[tuple[float, bool]]:
        """Score of each (context, continuation), and whether the greedy answer is the continuation.

        Args:
            requests: context and continuation.
            is_alone: of each whether it is the only candidate of its question, so that nothing but the greedy answer can say whether it is
                right; None: of none. Counts where `has_greedy` is None; otherwise that says whether greedy answers are found out.

        Returns:
            Score, nats, and the flag; False where it was not found out.
        """
        pairs = [self.pair(context, continuation) for context, continuation in requests]
        wanted = [bool(self.has_greedy)] * len(pairs) if is_alone is None or self.has_greedy is not None else is_alone
        found = iter(self._greedy([pair for pair, is_wanted in zip(pairs, wanted, strict=True) if is_wanted]))
        is_greedy = [is_wanted and next(found) for is_wanted in wanted]
        return list(zip(self.scores(pairs), is_greedy, strict=True))

    def scores(self, pairs: Sequence[Pair]) -> list[float]:
        """Scores of token ids under the rule."""
        return self._scores(pairs, [self.predictor.tokens.eos] if self.has_eos else [])

    def _scores(self, pairs: Sequence[Pair], behind: Sequence[int]) -> list[float]:
        if self.scoring == "chain_rule":
            return chain_rule_log_likelihoods(self.predictor, pairs)
        if self.scoring == "monte_carlo":
            own = [torch.Generator().manual_seed(seed_of(self.seed, pair)) for pair in pairs]
            n_sets = self.n_samples or N_SAMPLES
            found = monte_carlo_log_likelihoods(self.predictor, pairs, n_sets, self.guidance_scale, own, behind)
            return [value for value, _ in found]
        return confidence_scores(self.predictor, pairs, behind, guidance_scale=self.guidance_scale)[0]

    def rolling_log_likelihoods(self, texts: Sequence[str]) -> list[float]:
        """log p of whole texts, nats: in windows of half a context, each behind as much of the text as fits.

        Under masks a bound, with `ends_texts` one on log p of a text given its length.

        Raises:
            ValueError: a rule that is no likelihood, or an empty text.
        """
        if self.scoring == "confidence":
            raise ValueError("scoring = confidence; no likelihood, so it cannot be added up over a text; monte_carlo")
        end = [self.predictor.tokens.eos] if self.ends_texts else []
        # Windows behind which the text goes on, and the last ones.
        pairs: tuple[list[Pair], list[Pair]] = ([], [])
        owner: tuple[list[int], list[int]] = ([], [])
        limit = self.predictor.spec.max_length
        window = max(1, limit // 2)
        for number, text in enumerate(texts):
            ids = self.encode(text)
            if not ids:
                raise ValueError(f"text {number} = {text!r}; nothing to score; text")
            for start in range(0, len(ids), window):
                response, is_last = ids[start : start + window], start + window >= len(ids)
                room = limit - len(response) - (len(end) if is_last else 0)
                pairs[is_last].append((self._cut(self._opened(ids[:start]), room, is_told=False), response))
                owner[is_last].append(number)
        totals = [0.0] * len(texts)
        for some, numbers, behind in zip(pairs, owner, ([], end), strict=True):
            for number, value in zip(numbers, self._scores(some, behind), strict=True):
                totals[number] += value
        return totals

    def answers(self, requests: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
        """What the model says behind each context; arguments and errors as `written`."""
        return [g.text for g in self.written(requests)]

    def written(
        self, requests: Sequence[tuple[str, dict[str, Any]]], repeats: Sequence[int] | None = None
    ) -> list[Generated]:
        """What the model says behind each context, up to its end, a stop string or the budget, and what that took.

        Args:
            requests: context and the harness's options: until, max_gen_toks (or another of its names), do_sample, temperature, top_p,
                top_k. A temperature above 0 says by itself that an answer is drawn; do_sample=false takes the likeliest token, whatever
                the temperature.
            repeats: of each how often it was asked before: every time has draws of its own; None: never.

        Raises:
            ValueError: an option that is not known, that would have no effect, or that leaves nothing to write or to draw.
        """
        found: list[Generated | None] = [None] * len(requests)
        times = [0] * len(requests) if repeats is None else repeats
        groups: dict[str, list[int]] = {}
        for number, (_, options) in enumerate(requests):
            groups.setdefault(json.dumps(options, sort_keys=True, default=str), []).append(number)
        for numbers in groups.values():
            sampler = self._sampler(requests[numbers[0]][1])
            room = self._prompt_room(sampler)
            prompts = [self._cut(self._prompt(requests[number][0]), room) for number in numbers]
            written, _ = generate(
                self.predictor, self.tokenizer, prompts, sampler, batch_size=self.batch_size,
                seeds=[
                    seed_of(self.seed, (prompt, times[number]) if times[number] else prompt)
                    for number, prompt in zip(numbers, prompts, strict=True)
                ],
            )  # fmt: skip
            for number, g in zip(numbers, written, strict=True):
                found[number] = g
        return [g for g in found if g is not None]

    def cut_budgets(self, requests: Iterable[tuple[str, dict[str, Any]]]) -> list[int]:
        """Budgets, tokens, of those answers for which the context has less room than they were to have; as in `answers`."""
        found: list[int] = []
        for context, options in requests:
            sampler = self._sampler(options)
            n_prompt = min(len(self._prompt(context)), self._prompt_room(sampler))
            unit = getattr(sampler, "block_length", 1)
            found += cut_budgets(self.predictor, [n_prompt], wanted=sampler.max_length, unit=unit)
        return found

    def n_cut(self, requests: Iterable[tuple[str, Any]]) -> int:
        """How many different contexts are longer than the model's context leaves room for and lose their beginning.

        Args:
            requests: each a context and a candidate, or a context and a harness's options.
        """
        found = set[str]()
        for context, asked in requests:
            if isinstance(asked, str):
                prompt, _, room = self._split(context, asked)
            else:
                prompt, room = self._prompt(context), self._prompt_room(self._sampler(asked))
            if len(prompt) > room:
                found.add(context)  # once, however many candidates stand behind it
        return len(found)

    def _prompt(self, context: str) -> list[int]:
        ids = self.encode(context)
        return ids if context.startswith(CHAT) else self._opened(ids)

    def _prompt_room(self, sampler: Any) -> int:
        """Tokens that a prompt may have: what the budget leaves, half of the context at least."""
        limit = self.predictor.spec.max_length
        return limit - min(sampler.max_length, limit // 2)

    def _sampler(self, options: dict[str, Any]) -> Any:
        """The sampler that a harness's options mean."""
        budget, stops, (temperature, cuts) = asked_of(options, usual_budget=self.max_length)
        text = {"stop_strings": stops, "tokenizer": self.tokenizer if stops else None}
        if self.scoring == "chain_rule":
            if temperature:
                raise ValueError(f"temperature = {temperature}; the twin answers greedily; do_sample=false")
            return Greedy(max_length=budget, **text)
        block = min(self.block_length or budget, budget)
        steps = None if self.steps_per_block is None else min(self.steps_per_block, block)
        push = None
        if self.thinking_power is not None:
            push = EndOfThinking(sequence=self.tokenizer.encode_marker("</think>"), power=self.thinking_power)
        return VariableLength(
            max_length=budget, block_length=block, steps_per_block=steps, temperature=temperature,
            guidance_scale=self.guidance_scale, end_of_thinking=push, has_trace=False, **cuts, **text,
        )  # fmt: skip

    def _greedy(self, pairs: Sequence[Pair]) -> list[bool]:
        """Whether the model, filling as many masks as the response has tokens, writes the response."""
        found = [False] * len(pairs)
        for length in {len(response) for _, response in pairs}:
            own = [i for i, (_, response) in enumerate(pairs) if len(response) == length]
            sampler: Any = FixedLength(response_length=length, has_trace=False, guidance_scale=self.guidance_scale)
            if self.scoring == "chain_rule":
                sampler = Greedy(max_length=length)
            written, _ = generate(
                self.predictor, self.tokenizer, [pairs[i][0] for i in own], sampler, batch_size=self.batch_size
            )
            for i, g in zip(own, written, strict=True):
                found[i] = g.text == self.tokenizer.decode(pairs[i][1], skip_special=False)
        return found

    def _opened(self, ids: Sequence[int]) -> list[int]:
        return self.tokenizer.tokens.opened(ids, self.has_bos)

    @staticmethod
    def _cut(prompt: list[int], room: int, *, is_told: bool = True) -> list[int]:
        """The end of a prompt that is too long, its first token kept: a model is used to what a text begins with."""
        if len(prompt) <= room:
            return prompt
        if is_told:
            print(
                f"prompt = {len(prompt)} tokens; cut on the left to {room}: the model's context is full",
                file=sys.stderr,
            )
        return [*prompt[:1], *prompt[len(prompt) - room + 1 :]] if room > 1 else prompt[len(prompt) - room :]
