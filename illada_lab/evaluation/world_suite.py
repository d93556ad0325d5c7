"""The paper's task types in miniature, on the world's own questions.

| here | there |
|---|---|
| facts and sums, completed or chosen | MMLU, ARC-C: knowledge |
| endings of stories, chosen | HellaSwag, PIQA: sentence completion |
| word sums | GSM8K, MATH: several steps |
| who wrote a book that was only told from its author's side | the reversal experiment |
| equations with a hole; worked sums run as functions (`world_tasks`) | BBH: symbolic reasoning; HumanEval, MBPP |

The autoregressive twin answers the same questions: greedily where a mask predictor samples, by the chain rule where it is scored.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from illada_lab.data.chat import ChatTemplate
from illada_lab.data.tokenizer import Tokenizer
from illada_lab.data.worlds import World, facts, sums
from illada_lab.data.worlds import lexicon as lx
from illada_lab.evaluation import world_tasks as tasks
from illada_lab.evaluation.autoregressive import Greedy
from illada_lab.evaluation.choice import ChoiceItem, choose
from illada_lab.evaluation.generation import Generated, Sampler, generate, is_right
from illada_lab.evaluation.health import health
from illada_lab.evaluation.intervals import wilson
from illada_lab.evaluation.masked import looks_back
from illada_lab.evaluation.sandbox import run_programs
from illada_lab.evaluation.world_choices import ending_choices, fact_choice
from illada_lab.models.protocol import Predictor
from illada_lab.samplers import FixedLength, VariableLength

TARGET = 0.95
# How instruct models answer: tokens of a block and of an answer at most.
BLOCK_LENGTH, BUDGET = 8, 32


@dataclass
class SuiteResult:
    """What a suite measured.

    Attributes:
        rows: one per task and rule: task, metric, value, ci_low, ci_high, n, chance, target, note.
        items: every question with what the model said.
        health: rows of the health panel (generated answers only).
        settings: what the numbers depend on beside model and world.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    items: list[dict[str, Any]] = field(default_factory=list)
    health: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def add(
        self,
        task: str,
        metric: str,
        is_correct: Sequence[bool],
        *,
        chance: float,
        target: float | None = None,
        note: str = "",
    ) -> None:
        """One row, with Wilson's 95 % interval."""
        low, high = wilson(sum(is_correct), len(is_correct))
        self.rows.append(
            {"task": task, "metric": metric, "value": sum(is_correct) / len(is_correct), "ci_low": low, "ci_high": high,
             "n": len(is_correct), "chance": chance, "target": target, "note": note}
        )  # fmt: skip


def evaluate_base(
    predictor: Predictor, tokenizer: Tokenizer, world: World, *, n_questions: int, n_mc_samples: int, seed: int = 0
) -> SuiteResult:
    """A pre-trained model: completions of statements, and both scoring rules of multiple choice.

    Args:
        predictor: the model.
        tokenizer: its tokenizer.
        world: the world it was trained on.
        n_questions: items per task, at most.
        n_mc_samples: mask sets per candidate.
        seed: of items and masks.
    """
    result, draw = SuiteResult(), random.Random(seed)
    bos, eos = predictor.tokens.bos, predictor.tokens.eos
    assert bos is not None, "our own tokenizers have a BOS"

    def encode(text: str) -> list[int]:
        return tokenizer.encode_known(text)

    statements = {
        "facts": [(fact.statements()[0], fact.answer) for fact in facts.all_facts(world.lexicon)],
        "sums": [(item.statements()[0], item.answer) for item in sums.all_sums()],
    }
    # The answer, the full stop and EOS: a statement's length is part of what the model is given.
    is_twin = looks_back(predictor)
    sampler = Greedy(max_length=3) if is_twin else FixedLength(response_length=3, n_steps=3)
    result.settings = {
        "response_length": 3, "block_length": 3, "steps": 3, "temperature": 0.0, "n_mc_samples": n_mc_samples
    }  # fmt: skip

    def complete(task: str, asked: list[tuple[str, str]], chance: float, target: float | None, note: str) -> None:
        prompts = [[bos, *encode(text)] for text, _ in asked]
        written, _ = generate(predictor, tokenizer, prompts, sampler)
        is_correct = [g.text == f"{answer} ." for g, (_, answer) in zip(written, asked, strict=True)]
        result.add(task, "exact match", is_correct, chance=chance, target=target, note=note)
        for g, right, (text, answer) in zip(written, is_correct, asked, strict=True):
            result.items.append(_item(task, text, answer, g, right))

    for task, listed in statements.items():
        chosen = draw.sample(listed, min(n_questions, len(listed)))
        asked = [(text.removesuffix(f" {answer} ."), answer) for text, answer in chosen]
        chance = 1 / len(lx.NUMBERS) if task == "sums" else 1 / len(lx.TOWNS)
        complete(f"{task}, completed", asked, chance, TARGET, "stated in pre-training, completed")

    generator = torch.Generator().manual_seed(seed)
    for task, items in (
        (
            "facts, four candidates",
            [fact_choice(t, a, world, draw, encode, bos, eos) for t, a in statements["facts"]][:n_questions],
        ),
        ("story endings, four candidates", ending_choices(world, n_questions, draw, encode, bos, eos)),
    ):
        right = [item.answer for item in items]
        rules = {"monte_carlo": f"Monte-Carlo likelihood, {n_mc_samples} samples", "confidence": "confidence score"}
        for rule, metric in ({"chain_rule": "likelihood, exact"} if is_twin else rules).items():
            got = choose(predictor, items, rule, n_samples=n_mc_samples, generator=generator)
            result.add(task, metric, [a == b for a, b in zip(got, right, strict=True)], chance=0.25)
            named = f"{task}: {rule.replace('_', ' ')}"
            result.items += [_choice(named, item, n, tokenizer) for item, n in zip(items, got, strict=True)]

    one_in = 1 / len(world.lexicon.people)
    told, reverse = tasks.told_statements(world, n_questions), tasks.reversed_statements(world, n_questions)
    complete("one-way books, as told", told, one_in, None, "told in this direction only")
    complete("one-way books, reversed", reverse, one_in, None, "told in the other direction only")
    for task, holes, note in (
        (
            "one-way books, author infilled",
            tasks.told_holes(world, n_questions),
            "a hole in the sentence that was told",
        ),
        ("equations, operand infilled", tasks.equations(n_questions, draw), "symbolic: the sum read backwards"),
    ):
        filled = tasks.fill(predictor, tokenizer, holes)
        metric = "likeliest word of its kind" if is_twin else "exact match"
        result.add(task, metric, [right for right, _, _ in filled], chance=1 / len(holes[0].pool), note=note)
        for hole, (right, g, word) in zip(holes, filled, strict=True):
            shown = g or Generated(word, "chosen", len(hole.pool), 1, [])
            result.items.append(_item(task, hole.text, hole.answer, replace(shown, text=word, trace=[]), right))
    return result


def evaluate_instruct(
    predictor: Predictor,
    tokenizer: Tokenizer,
    world: World,
    *,
    n_questions: int,
    sampler: Sampler | None = None,
    run_code: bool = False,
    seed: int = 0,
) -> SuiteResult:
    """A fine-tuned model: questions that fine-tuning never asked, answered in words of its own.

    Args:
        predictor: the model.
        tokenizer: its tokenizer.
        world: the world it was trained on.
        n_questions: items per task, at most.
        sampler: how it answers; None: variable length, blocks of 8, one token per step, budget 32; the twin greedily.
        run_code: also run worked sums as functions, in the sandbox.
        seed: of the items.
    """
    result, chat = SuiteResult(), ChatTemplate(tokenizer)
    usual = VariableLength(max_length=BUDGET, block_length=BLOCK_LENGTH)
    sampler = sampler or (Greedy(max_length=BUDGET) if looks_back(predictor) else usual)
    result.settings = {
        "max_length": getattr(sampler, "max_length", None), "block_length": getattr(sampler, "block_length", None),
        "steps_per_block": getattr(sampler, "block_length", None), "temperature": getattr(sampler, "temperature", 0.0),
    }  # fmt: skip
    notes = {
        "fact": ("asked in other words in fine-tuning", TARGET, 1 / len(lx.TOWNS)),
        "sum": ("asked in other words in fine-tuning", TARGET, 1 / len(lx.NUMBERS)),
        "fact_unasked": ("stated in pre-training, never asked for", None, 1 / len(lx.TOWNS)),
        "sum_unasked": ("stated in pre-training, never asked for", None, 1 / len(lx.NUMBERS)),
        "word_sum": ("two steps, worked", None, 1 / 27),
        "choice": ("four candidates, the right word", None, 0.25),
        "reversal": ("told in the other direction only", None, 1 / len(world.lexicon.people)),
    }
    everything: list[Generated] = []
    seconds = 0.0
    for kind, (note, target, chance) in notes.items():
        asked = world.questions("test", kind, n_questions, seed=seed)
        prompts = [chat.prompt([{"role": "user", "content": item.prompt}]) for item in asked]
        written, took = generate(predictor, tokenizer, prompts, sampler)
        is_correct = [is_right(g.text, item.answer) for g, item in zip(written, asked, strict=True)]
        result.add(kind.replace("_", " "), "exact match", is_correct, chance=chance, target=target, note=note)
        for g, right, item in zip(written, is_correct, asked, strict=True):
            result.items.append(_item(kind, item.prompt, item.response, g, right))
        everything, seconds = everything + written, seconds + took
        if kind == "word_sum" and run_code:
            programs = [tasks.function_of(item.prompt, g.text) for item, g in zip(asked, written, strict=True)]
            outcomes = run_programs([tasks.tested(program) for program in programs])
            passed = [outcome.has_passed for outcome in outcomes]
            note = "worked sums as functions, run on other numbers"
            result.add("functions", "tests passed", passed, chance=0.0, note=note)
            for item, g, program, right in zip(asked, written, programs, passed, strict=True):
                shown = replace(g, text=program or "", trace=[])
                result.items.append(_item("functions", item.prompt, item.response, shown, right))
    result.health = health(everything, seconds, predictor.tokens)
    return result


def _choice(task: str, item: ChoiceItem, chosen: int, tokenizer: Tokenizer) -> dict[str, Any]:
    """A choice as it reads."""
    texts = [tokenizer.decode(candidate) for candidate in item.candidates]
    shown = Generated(texts[chosen], "chosen", 0, len(item.candidates[chosen]), [])
    asked = f"{tokenizer.decode(item.prompt)} ({' | '.join(texts)})"
    return _item(task, asked, texts[item.answer], shown, chosen == item.answer)


def _item(task: str, prompt: str, answer: str, generated: Generated, is_correct: bool) -> dict[str, Any]:
    return {"task": task, "prompt": prompt, "text": generated.text, "answer": answer, "is_correct": is_correct,
            "stop_reason": generated.stop_reason, "nfe": generated.nfe, "trace": generated.trace}  # fmt: skip
