"""The suite: an oracle that reads the generator's state has everything right, a guesser has what chance gives."""

import json
import math
import random
from pathlib import Path

import pytest
import torch

from illada_lab.commands.world_questions import frame_of, suite_of
from illada_lab.config import build, compose
from illada_lab.data.build_tokenizer import word_tokenizer
from illada_lab.data.worlds import World
from illada_lab.evaluation import world_tasks
from illada_lab.evaluation.choice import ChoiceItem, choose
from illada_lab.evaluation.intervals import bootstrap
from illada_lab.evaluation.journal import Journal
from illada_lab.evaluation.sandbox import run_programs
from illada_lab.evaluation.world_suite import (
    BLOCK_LENGTH,
    BUDGET,
    SuiteResult,
    chance_of_facts,
    completing,
    evaluate_base,
    evaluate_instruct,
)
from illada_lab.samplers import EntropyBound, FixedLength, VariableLength
from illada_lab.training.checkpoint import LoadedRun
from tests.evaluation.oracle import Guesser, Oracle
from tests.small import small_predictor

N = 12
SOURCE = {"_target_": "illada_lab.data.worlds.WorldSource", "world_seed": 0, "n_people": 8, "stage": "pretrain"}


@pytest.fixture(scope="module")
def world():
    return World(seed=0, n_people=8)


@pytest.fixture(scope="module")
def tokenizer(world):
    return word_tokenizer(world.words)


@pytest.fixture(scope="module")
def oracle(world, tokenizer):
    return Oracle(world, tokenizer, N)


def test_an_oracle_has_every_base_task_right(oracle, world, tokenizer):
    result = evaluate_base(oracle, tokenizer, world, n_questions=N, n_mc_samples=16)
    assert {row["task"]: row["value"] for row in result.rows} == {row["task"]: 1.0 for row in result.rows}
    assert {row["task"] for row in result.rows} == {
        "facts, completed", "sums, completed", "facts, four candidates", "story endings, four candidates",
        "one-way books, as told", "one-way books, reversed", "one-way books, author infilled", "equations, operand infilled",
    }  # fmt: skip
    # Two rules score the choices.
    assert [row["metric"] for row in result.rows if row["task"] == "facts, four candidates"] == [
        "Monte-Carlo likelihood, 16 samples", "confidence score",
    ]  # fmt: skip
    # Every answer can be checked by eye.
    for item in result.items:
        assert item["prompt"] and item["answer"] in item["text"] and item["is_correct"]


class Bare:
    """An oracle that knows texts without BOS, and without EOS or with it."""

    def __init__(self, oracle, has_bos, has_eos) -> None:
        self.oracle, self.has_bos, self.has_eos = oracle, has_bos, has_eos
        self.tokens, self.spec, self.vocab_size = oracle.tokens, oracle.spec, oracle.vocab_size

    def __call__(self, x, is_valid=None):
        logits, bos, eos = torch.zeros(*x.shape, self.vocab_size), self.tokens.bos, self.tokens.eos
        valid = torch.ones_like(x, dtype=torch.bool) if is_valid is None else is_valid
        for row in range(len(x)):
            own = x[row, valid[row]].tolist()
            if self.has_bos is False:
                assert own.pop(0) == eos, "of the document before"
            assert bos not in own and (self.has_eos or eos not in own)
            found = self.oracle(torch.tensor([[bos, *own, *[eos] * (not self.has_eos)]]))[0]
            logits[row, valid[row]] = found[int(self.has_bos is None) : len(found) - (not self.has_eos)]
        return logits


@pytest.mark.parametrize(("has_bos", "has_eos"), [(None, False), (False, True)])
def test_questions_are_framed_as_the_documents_of_training_were(oracle, world, tokenizer, has_bos, has_eos):
    """A model that never saw a BOS, or an EOS, is asked without."""
    bare = Bare(oracle, has_bos, has_eos)
    result = evaluate_base(bare, tokenizer, world, n_questions=2, n_mc_samples=2, has_bos=has_bos, has_eos=has_eos)
    assert {row["task"]: row["value"] for row in result.rows} == {row["task"]: 1.0 for row in result.rows}
    assert len(result.rows) == 10 and result.settings["response_length"] == 2 + has_eos


def test_the_command_asks_as_the_configuration_of_the_run_says(world, tokenizer):
    data = {"adds_bos": False, "adds_eos": False, "source": SOURCE}
    loaded = LoadedRun(small_predictor(), tokenizer, {"data": data}, step=1, path=Path("a"))
    asked = suite_of(compose(["scale=smoke", "checkpoint=a"]), loaded)
    assert (asked.keywords["has_bos"], asked.keywords["has_eos"]) == (None, False)
    assert frame_of(loaded) == {"has_bos": None, "has_eos": False}, "another folder of results"
    data |= {"adds_bos": True, "adds_eos": True}
    assert frame_of(loaded) == {}


def test_the_worlds_configuration_answers_as_a_suite_without_one_does():
    usual = build(compose(["evaluation=toy"]).evaluation.sampler)
    assert usual == VariableLength(max_length=BUDGET, block_length=BLOCK_LENGTH)
    for n in (2, 3):
        assert completing(usual, n) == completing(None, n) == FixedLength(response_length=n, n_steps=n)


def test_a_base_model_completes_by_the_rules_of_the_sampler():
    """Not by its blocks: how long a statement is, is given."""
    sampler = VariableLength(max_length=64, block_length=32, remasking="random", temperature=0.7, top_k=3)
    assert completing(sampler, 3) == FixedLength(
        response_length=3, n_steps=3, remasking="random", temperature=0.7, top_k=3
    )
    bound = VariableLength(max_length=8, block_length=8, remasking="entropy", transfer=EntropyBound())
    assert completing(bound, 3) == FixedLength(response_length=3, remasking="entropy", transfer=EntropyBound())
    another = FixedLength(response_length=2)
    assert completing(another, 3) is another


def test_an_oracle_is_right_however_it_is_asked(oracle, world, tokenizer):
    sampler = VariableLength(max_length=8, block_length=8, remasking="entropy", transfer=EntropyBound(bound=9.0))
    result = evaluate_base(oracle, tokenizer, world, n_questions=2, n_mc_samples=2, sampler=sampler)
    assert {row["value"] for row in result.rows} == {1.0}
    assert result.settings == {
        "response_length": 3, "block_length": 3, "steps": None, "temperature": 0.0, "n_mc_samples": 2,
    }  # fmt: skip
    assert {item["nfe"] for item in result.items if item["task"] == "facts, completed"} == {1}


def test_an_oracle_has_every_instruct_task_right(oracle, world, tokenizer):
    result = evaluate_instruct(oracle, tokenizer, world, n_questions=N, run_code=True)
    assert {row["task"]: row["value"] for row in result.rows} == {row["task"]: 1.0 for row in result.rows}
    kinds = {"fact", "sum", "word sum", "choice", "reversal", "functions", "functions, from worked sums"}
    assert kinds <= {row["task"] for row in result.rows}
    read = [item for item in result.items if item["task"] == "functions, from worked sums"]
    assert len(read) == N and all(item["text"].startswith("def f(a, b, c):") for item in read)
    written = [item for item in result.items if item["task"] == "functions"]
    assert len(written) == N and all(item["program"].startswith("def f(") for item in written)
    assert all(0 < row["chance"] < 0.01 for row in result.rows if row["task"] == "functions")
    assert result.settings == {"max_length": 32, "block_length": 8, "steps_per_block": 8, "temperature": 0.0}


@pytest.mark.parametrize("model", ["base", "instruct"])
def test_a_broken_off_suite_goes_on(world, tokenizer, tmp_path, model):
    """Cut in the middle of a line: the file, the rows and the health panel come out the same; another seed asks other things."""
    predictor = small_predictor(vocab_size=tokenizer.vocab_size, max_length=128)

    def run(name, seed=3):
        journal = Journal(tmp_path / name)
        if model == "base":
            parts: dict = {"n_questions": 3, "n_mc_samples": 3}
            return journal, evaluate_base(predictor, tokenizer, world, **parts, seed=seed, journal=journal)
        parts = {"n_questions": 3, "run_code": True}
        return journal, evaluate_instruct(predictor, tokenizer, world, **parts, seed=seed, journal=journal)

    _, whole = run("whole")
    text = (tmp_path / "whole").read_text()
    assert [json.loads(line) for line in text.splitlines()] == whole.items
    assert len({item["key"] for item in whole.items}) == len(whole.items)
    (tmp_path / "cut").write_text(text[: len(text) * 2 // 3])
    journal, resumed = run("cut")
    assert (tmp_path / "cut").read_text() == text and 0 < journal.n_taken < len(whole.items)
    assert (resumed.rows, resumed.items) == (whole.rows, whole.items)
    assert resumed.health == [row for row in whole.health if row["name"] != "tokens per second"]
    run("again")
    assert (tmp_path / "again").read_text() == text
    run("other", seed=4)
    assert (tmp_path / "other").read_text() != text


def test_intervals_are_bootstrap_ones_drawn_from_the_seed():
    one, again = SuiteResult(seed=0), SuiteResult(seed=0)
    for result in (one, again):
        result.add("task", "metric", [True] * 13 + [False] * 8, chance=0.0)
        result.add("all right", "metric", [True] * 20, chance=0.0)
    assert one.rows == again.rows
    (row, sure), low_high = one.rows, bootstrap([True] * 13 + [False] * 8, seed=0)
    assert (row["ci_low"], row["ci_high"]) == low_high and row["n"] == 21
    assert 0.8 < sure["ci_low"] < 0.9 and sure["ci_high"] == 1.0  # Wilson: a bootstrap of equal items has no width
    assert bootstrap([True] * 13 + [False] * 8, seed=1, n_draws=50) != bootstrap([True] * 13 + [False] * 8, n_draws=50)


def within_chance(n_right: int, n: int, chance: float) -> bool:
    return abs(n_right - n * chance) <= 4 * math.sqrt(n * chance * (1 - chance))


@pytest.mark.parametrize("rule", ["monte_carlo", "confidence"])
def test_random_models_choose_by_chance(rule):
    generator = torch.Generator().manual_seed(0)
    items = [
        ChoiceItem([0, *torch.randint(7, 24, (3,), generator=generator).tolist()],
                   torch.randint(7, 24, (4, 2), generator=generator).tolist(), i % 4)
        for i in range(200)
    ]  # fmt: skip
    chosen = choose(small_predictor(), items, rule, n_samples=4 if rule == "monte_carlo" else None, generator=generator)
    assert within_chance(sum(a == item.answer for a, item in zip(chosen, items, strict=True)), 200, 0.25)


def test_a_guesser_fills_holes_by_chance(world, tokenizer):
    for holes in (world_tasks.equations(200, random.Random(0)), world_tasks.told_holes(world, 99) * 40):
        pool = holes[0].pool
        filled = world_tasks.fill(Guesser(tokenizer, pool), tokenizer, holes)
        assert all(word in pool for _, _, word in filled)
        assert within_chance(sum(right for right, _, _ in filled), len(holes), 1 / len(pool))


def test_holes_have_one_answer(world):
    for hole in world_tasks.equations(500, random.Random(0)):
        left, _, right = hole.text.removesuffix(" .").partition(" = ")
        fitting = [w for w in hole.pool if sum(map(int, left.replace("___", w).split(" + "))) == int(right)]
        assert fitting == [hole.answer]
    books = {p.book for p in world.lexicon.people if p.is_one_way}
    assert {hole.text.split()[2] for hole in world_tasks.told_holes(world, 99)} == books
    assert {text.split()[0] for text, _ in world_tasks.reversed_statements(world, 99)} == books


def test_the_twin_answers_the_same_questions(world, tokenizer):
    """Untrained: what counts is that every task has its row, under the rules that a twin can follow."""
    twin = small_predictor(is_causal=True, vocab_size=tokenizer.vocab_size, max_length=128)
    base = evaluate_base(twin, tokenizer, world, n_questions=4, n_mc_samples=2)
    assert {key for key, value in base.settings.items() if value is not None} == {"max_length", "temperature"}
    assert [row["metric"] for row in base.rows] == [
        "exact match", "exact match", "likelihood, exact", "likelihood, exact", "exact match", "exact match",
        "likeliest word of its kind", "likeliest word of its kind",
    ]  # fmt: skip
    assert {row["task"] for row in evaluate_instruct(twin, tokenizer, world, n_questions=2).rows} >= {
        "fact",
        "reversal",
    }


@pytest.mark.parametrize(
    ("response", "passes"),
    [
        ("3 + 2 = 5 . 5 + 5 = 10 . the answer is 10", True),
        ("2 + 3 = 5 . 5 + 5 = 10 . the answer is 10", True),
        ("5 + 2 = 7 . 7 + 3 = 10 . the answer is 10", True),
        ("3 + 2 = 5 . the answer is 10", False),
        ("3 + 2 = 6 . 5 + 5 = 10 . the answer is 10", False),
        ("3 + 2 = 5 . 5 + 9 = 14 . the answer is 14", False),
        ("the answer is 10", False),
        ("", False),
    ],
)
def test_worked_sums_are_functions(response, passes):
    """Of "tom has 3, gets 2 and 5": steps from the numbers of the question work on others, numbers from nowhere do not."""
    question = "tom has 3 nuts . mia gives 2 and leo gives 5 . how many nuts does tom have ?"
    (outcome,) = run_programs([world_tasks.tested(world_tasks.function_of(question, response))])
    assert outcome.has_passed is passes


def test_the_chance_of_a_fact_is_that_of_its_kind_of_answer(world):
    person, n = world.lexicon.people[0], len(world.lexicon.people)
    assert chance_of_facts(world, [person.town, person.book]) == pytest.approx((1 / 8 + 1 / n) / 2)
    assert world.lexicon.alternatives(person.job) != world.lexicon.alternatives(person.town)
