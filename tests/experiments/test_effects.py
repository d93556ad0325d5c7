"""Sign and operands of every claim's effect: worked out anew from the tables, of what is recorded and of what the code returns.

At smoke scale nothing is learnt, so most shares are 0 and a wrong sign would not show; here studies run on made-up measurements.
"""

import json
from functools import cache
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
from omegaconf import DictConfig

from illada_lab.config import build, compose, groups
from illada_lab.evaluation.choice import ChoiceItem
from illada_lab.evaluation.examiner import SuiteResult
from illada_lab.experiments import (
    acceleration,
    architecture,
    base_table,
    instruct_table,
    isolation,
    objective,
    recipes,
    reversal,
    reversal_twin,
    sampling,
    scaling,
    scoring,
    sft_epochs,
    sft_format,
)
from illada_lab.experiments.asking import Asked
from illada_lab.experiments.lab import Lab, Trained
from illada_lab.training.checkpoint import LoadedRun
from tests.experiments.effects import STUDIES, from_tables

RESULTS = Path(__file__).parents[2] / "results"
# Results of studies, repeated measurements among them; a main job's are no study's.
RECORDED = sorted(path for path in RESULTS.rglob("*.json") if path.parent.name != "reproduce")
# Claims whose effect does not follow from the tables, and why.
NOT_IN_TABLES = {"acceleration": {"refresh": "compares texts, and no table holds any"}}
# A ladder of three sizes is as good here as one of six.
SETTINGS = {"scaling": ["study.factors=[0.5,1.0,1.4]"]}


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: str(path.relative_to(RESULTS)))
def test_recorded_effects_follow_from_the_recorded_tables(path):
    result = json.loads(path.read_text())
    assert result["seeds"]
    for record in result["seeds"]:
        found, effects = from_tables(result["study"], record["tables"]), record["effects"]
        assert found == pytest.approx({claim: effects[claim] for claim in found}, rel=1e-6), f"seed {record['seed']}"
        assert set(found) == set(effects) - set(NOT_IN_TABLES.get(result["study"], ()))
    for claim in result["claims"]:
        assert claim["effects"] == [record["effects"][claim["id"]] for record in result["seeds"]]


def test_no_study_is_forgotten():
    assert sorted(STUDIES) == sorted(groups()["study"])
    assert {path.stem for path in RECORDED} | set(NOT_IN_TABLES) <= set(STUDIES)
    assert {"toy", "mini"} <= {path.parent.name for path in RECORDED}


@pytest.mark.parametrize("name", groups()["study"])
def test_effects_follow_from_the_tables_of_made_up_measurements(name, made_up):
    study = build(compose([f"study={name}", "scale=smoke", *SETTINGS.get(name, [])]).study)
    claims, absent, seen = {claim.id for claim in study.claims}, NOT_IN_TABLES.get(name, {}), set()
    lab = Untrained("smoke")
    for _ in range(3):
        outcome = study.run(lab)
        found = from_tables(name, outcome.tables)
        assert set(found) | set(absent) == claims == set(outcome.effects) and not set(found) & set(absent)
        assert found == pytest.approx({claim: outcome.effects[claim] for claim in found}, rel=1e-6)
        seen |= {claim for claim, effect in found.items() if effect not in (0, 1)}
    # Of an effect that is 0, or a ratio of 1, the order of its operands does not matter.
    assert seen == set(found)


def test_a_cache_that_changes_a_text_is_seen(monkeypatch, made_up):
    """`refresh`: of three texts one is another."""
    study = build(compose(["study=acceleration", "scale=smoke"]).study)
    known = study.stories(Untrained("smoke"))
    known[acceleration.BASE].texts, known[acceleration.EXACT].texts = ["a", "b", "c"], ["a", "b", "d"]
    monkeypatch.setattr(acceleration.Acceleration, "stories", lambda study, lab: known)
    assert study.run(Untrained("smoke")).effects["refresh"] == pytest.approx(-1 / 3)


DRAW = Random(0)


class Untrained(Lab):
    """Its models have curves at random, others each time, and nothing else."""

    def config(self, *overrides):
        return composed(*overrides)

    @property
    def pretrained(self):
        return trained()

    tuned = pretrained

    def train(self, name, *overrides):
        return trained()

    def train_from(self, start, name, *overrides):
        return trained()

    def branch(self, start, name, *overrides):
        return trained()


@cache
def composed(*overrides: str) -> DictConfig:
    """Smoke scale with overrides, composed once."""
    return compose(["scale=smoke", *overrides])


def trained() -> Trained:
    """Validated at half and at the end of smoke scale's 20 steps, among others; the entropy is that of one language."""

    def kind(entropy: float) -> dict:
        bound = entropy + DRAW.uniform(0.1, 2)
        return {
            "nelbo_per_token": bound,
            "entropy_per_token": entropy,
            "over_entropy": bound / entropy - 1,
            "stderr": 0.1,
        }

    model = object.__new__(LoadedRun)
    model.predictor = SimpleNamespace(tokens=SimpleNamespace(bos=1, eos=2))
    model.tokenizer = SimpleNamespace(encode_known=None)
    model.config = {"data": {"source": {"n_documents": 40}}}
    validation = [
        {"step": step, "kinds": {"all": kind(0.5), "story": kind(0.4)}, "bins": []} for step in (4, 10, 16, 20)
    ]
    return Trained(model, {"tokens": 1000, "validation": validation})


def asked(*_) -> Asked:
    """Responses of which a share at random is good."""
    share, n = DRAW.random(), 500
    return Asked(
        texts=["a"] * n,
        is_correct=[DRAW.random() < share for _ in range(n)],
        nfe=DRAW.uniform(1, 24),
        token_forwards=DRAW.uniform(24, 900),
        seconds=0.1,
        empty=DRAW.random(),
    )


def chosen(predictor, items, *_, **__) -> list[int]:
    """The right one, which is the first, in a share at random."""
    share = DRAW.random()
    return [0 if DRAW.random() < share else 1 for _ in items]


def suite(stands_for, rules):
    """Every task, one that does not count among them, under every rule where there are candidates."""

    def evaluate(*_, **__) -> SuiteResult:
        about = {"ci_low": 0.0, "ci_high": 1.0, "chance": 0.25, "n": 8}
        found = SuiteResult()
        for task in (*stands_for, "reversal"):
            for metric in rules if "candidates" in task else ("exact match",):
                found.rows.append({"task": task, "metric": metric, "value": DRAW.random(), **about})
        return found

    return evaluate


class Document:
    """A text with losses at random; every other bound is none."""

    def __init__(self, n_tokens: int):
        self.e, self.surprise = SimpleNamespace(length=n_tokens), DRAW.uniform(2, 9)
        self.losses = {name: DRAW.uniform(1, 10) for name in objective.WEIGHTS}
        self.bound = self.surprise + DRAW.choice((-0.5, 0.5))
        self.variances = {"independent": DRAW.uniform(1, 9), "fixed count": DRAW.uniform(1, 9)}


def variant(*_) -> dict:
    """Bounds and sizes at random."""
    names = ("bound", "bound on halves", "parameters", "without embeddings", "cache bytes per token")
    return {name: DRAW.uniform(1, 9) for name in names}


@pytest.fixture
def made_up(monkeypatch):
    """In place of whatever asks a model: an answer at random."""
    DRAW.seed(0)
    for module in (acceleration, isolation, sampling, sft_epochs, sft_format):
        monkeypatch.setattr(module, "ask", asked)
        monkeypatch.setattr(module, "question_task", lambda *_: None)
        monkeypatch.setattr(module, "story_task", lambda *_: None, raising=False)
    for module in (recipes, sft_format):
        monkeypatch.setattr(module, "response_only", lambda *_: trained())
    for module in (scoring, reversal_twin):
        monkeypatch.setattr(module, "choose", chosen)
    for module in (reversal, reversal_twin):
        monkeypatch.setattr(module, "infilled", lambda *_: (DRAW.random(), 500))
    items = [ChoiceItem([1], [[3, 2], [4, 2], [5, 6, 2]], 0)] * 500
    tasks = dict.fromkeys(("facts", "sums", "last sentence", "whole story"), items)
    monkeypatch.setattr(scoring, "choice_items", lambda *_: tasks)
    monkeypatch.setattr(reversal.Reversal, "_chosen", lambda *_: DRAW.random())
    monkeypatch.setattr(reversal_twin, "_items", lambda *_: items)
    monkeypatch.setattr(reversal_twin, "_written", lambda *_: DRAW.random())
    monkeypatch.setattr(base_table, "evaluate_base", suite(base_table.STANDS_FOR, base_table.RULES.values()))
    monkeypatch.setattr(instruct_table, "evaluate_instruct", suite(instruct_table.STANDS_FOR, ()))
    monkeypatch.setattr(sft_epochs.SftEpochs, "tuned", lambda *_: (trained(), 10))
    monkeypatch.setattr(scaling, "planned", lambda scale: {"scale": scale})
    monkeypatch.setattr(architecture.Architecture, "_halves", lambda *_: None)
    monkeypatch.setattr(architecture, "_row", variant)
    monkeypatch.setattr(isolation.Isolation, "_texts", lambda *_: (None, None))
    monkeypatch.setattr(isolation, "_bound", lambda *_: DRAW.random())
    texts = [(f"text {n}", list(range(n))) for n in (5, 7, 8, 10)]
    monkeypatch.setattr(objective.ObjectiveStudy, "_texts", lambda *_: texts)
    monkeypatch.setattr(objective, "enumerate_masks", lambda predictor, head, ids: len(ids))
    monkeypatch.setattr(objective, "_Document", Document)
    monkeypatch.setattr(objective, "gradient_noise", lambda *_: [])
