"""What `replicate` refuses before anything is measured, what it says of results it takes, and what a study may measure."""

import importlib
import json
import math
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from illada_lab.commands.replicate import plans_of
from illada_lab.config import build, compose, compose_and_check, groups, to_plain
from illada_lab.experiments.claims import Claim
from illada_lab.experiments.jobs import Job
from illada_lab.experiments.replicate import Plan, command, looks_of, replicate
from illada_lab.experiments.study import Outcome, check_study, checked

RESULTS = Path(__file__).parents[2] / "results"
FILES = sorted(path for path in RESULTS.rglob("*.json") if path.parent.name in ("toy", "mini"))
# Measured with settings of its own (its `command` names them), which nobody gets without asking for them.
WITH_OTHER_SETTINGS = "toy/scaling.json"

MODULE = """
from illada_lab.experiments.claims import Claim
from illada_lab.experiments.study import Outcome

CALLS = []


class Counted:
    title = "Counted"
    trains_many = False
    claims = (Claim(id="gain", sentence="s", source="us", paper="not reported", metric="m", unit="nats"),)

    def __init__(self, *, k: int = 2, shape: tuple = (1, 2)) -> None:
        self.k = k

    def run(self, lab):
        CALLS.append(lab.seed)
        return Outcome(tables={"t": [{"k": self.k}]}, effects={"gain": 0.5 + 0.01 * lab.seed})
"""


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """A study in a module of its own: file, module and what `replicate` is called with."""
    path = tmp_path / "counted_study.py"
    path.write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("counted_study")
    said = []
    how = {
        "scale": "smoke",
        "seeds": [0, 1, 2],
        "runs_dir": tmp_path / "runs",
        "results_dir": tmp_path / "results",
        "say": said.append,
    }
    yield path, module, how, said
    sys.modules.pop("counted_study", None)


def node(**settings):
    return {"_target_": "counted_study.Counted", **settings}


def test_other_settings_are_refused_before_anything_is_measured(counted, tmp_path):
    """With as many seeds, more or fewer: a result of other settings is another result."""
    _, module, how, _ = counted
    replicate("counted", node(k=2), **how)
    path, measured = tmp_path / "results/smoke/counted.json", list(module.CALLS)
    before = path.read_text()
    for seeds in ([0, 1, 2], [0, 1], range(5)):
        with pytest.raises(ValueError) as caught:
            replicate("counted", node(k=-5), **{**how, "seeds": seeds})
        assert str(caught.value) == (
            f"study.k = -5; {path} was measured with 2 and would be lost; another results_dir=..., or delete that file"
        )
    assert measured == module.CALLS and path.read_text() == before
    # Fewer seeds of the same settings are refused for that.
    with pytest.raises(ValueError, match="seeds = 2; .* was made from 3"):
        replicate("counted", node(k=2), **{**how, "seeds": [0, 1]})
    # Beside it, and in its place once it is away.
    assert replicate("counted", node(k=-5), **{**how, "results_dir": tmp_path / "mine"})["config"]["k"] == -5
    path.unlink()
    assert replicate("counted", node(k=-5), **how)["looks"] == [3]


def test_a_folder_again_is_guarded_by_its_own_results(counted, tmp_path):
    _, _, how, _ = counted
    replicate("counted", node(k=2), **how)
    again = {**how, "results_dir": tmp_path / "results/again"}
    replicate("counted", node(k=3), **again)
    with pytest.raises(ValueError, match="study.k = 2; .*again/smoke/counted.json was measured with 3"):
        replicate("counted", node(k=2), **again)


def test_a_setting_that_nobody_gives_has_the_value_of_the_study(counted):
    """Named or not, it is the same measurement; another value is none."""
    _, _, how, _ = counted
    replicate("counted", node(), **how)
    assert replicate("counted", node(k=2, shape=[1, 2]), **how)["looks"] == [3]  # the same numbers: no further look
    assert replicate("counted", node(shape=(1, 2)), **how)["looks"] == [3]
    with pytest.raises(ValueError, match=r"study.k = 4; .* was measured with 2"):
        replicate("counted", node(k=4), **how)
    with pytest.raises(ValueError, match=r"study.shape = \[3\]; .* was measured with \[1,2\]"):
        replicate("counted", node(shape=[3]), **how)


def test_a_result_from_before_a_setting_was_there_is_one_of_its_usual_value(tmp_path):
    plan = Plan("architecture", to_plain(compose(["scale=mini", "study=architecture"]).study), "mini")
    older = {key: value for key, value in plan.node.items() if key != "n_steps"}
    path = tmp_path / "architecture.json"
    path.write_text(json.dumps({"config": {**older, "since_removed": 7}, "seeds": [{}] * 3, "looks": [3]}))
    assert looks_of(plan, path, 5) == [3, 5]
    changed = Plan(plan.name, {**plan.node, "n_steps": 1300}, plan.scale)
    with pytest.raises(ValueError, match=f"study.n_steps = 1300; .* was measured with {plan.node['n_steps']} and"):
        looks_of(changed, path, 5)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(RESULTS).as_posix())
def test_the_settings_of_today_are_those_of_the_committed_results(path):
    """None would be refused; where this fails, `replicate` as it stands would ask for another file."""
    known = json.loads(path.read_text())
    seeds = len(known["seeds"])
    plain = to_plain(compose([f"scale={known['scale']}", f"study={known['study']}"]).study)
    plan = Plan(known["study"], plain, known["scale"])
    if path.relative_to(RESULTS).as_posix() == WITH_OTHER_SETTINGS:
        with pytest.raises(ValueError, match="study.factors = .* was measured with"):
            looks_of(plan, path, seeds)
        words = [word for word in known["command"].split()[2:] if word.startswith("study.")]
        own = compose([f"scale={known['scale']}", f"study={known['study']}", *words]).study
        plan = Plan(plan.name, to_plain(own), plan.scale)
    assert looks_of(plan, path, seeds)[-1] == seeds


def test_all_studies_as_they_are_leave_the_ledger_alone():
    """`replicate` without a study, at the scales that it chooses."""
    assert len(FILES) > 40
    for plan in plans_of(compose_and_check(["scale=toy"])):
        looks_of(plan, RESULTS / plan.scale / f"{plan.name}.json", 5)


def test_results_of_other_code_are_taken_and_said_to_be(counted):
    path, module, how, said = counted
    replicate("counted", node(), **how)
    said.clear()
    replicate("counted", node(), **how)
    assert said == [f"counted seed {seed}: measured before" for seed in (0, 1, 2)]
    path.write_text(MODULE.replace("0.5 + 0.01", "0.7 + 0.01"))
    importlib.invalidate_caches()
    del sys.modules["counted_study"]
    said.clear()
    result = replicate("counted", node(), **how)
    assert [record["effects"]["gain"] for record in result["seeds"]] == [0.5, 0.51, 0.52]
    files = [Job("counted", node(), "smoke", seed, str(how["runs_dir"])).path for seed in (0, 1, 2)]
    assert said == [
        f"counted seed {seed}: measured before, with other code of the study; delete {file} to measure again"
        for seed, file in enumerate(files)
    ]
    # As told; and records from before this was noted say nothing.
    files[0].unlink()
    record = json.loads(files[1].read_text())
    assert len(record.pop("code")) == 12
    files[1].write_text(json.dumps(record))
    said.clear()
    assert replicate("counted", node(), **how)["seeds"][0]["effects"]["gain"] == 0.7
    assert said[:2] == ["counted seed 0: waiting", "counted seed 1: measured before"]
    assert "other code" in said[2]


def test_a_study_without_text_has_no_code_to_compare(counted, monkeypatch):
    """As one from a notebook: it is measured, and taken again without a word."""
    path, _, how, said = counted
    monkeypatch.setattr("illada_lab.experiments.jobs.code_of", lambda kind: None)
    assert replicate("counted", node(), **how)["seeds"][0]["code"] is None
    said.clear()
    replicate("counted", node(), **how)
    assert said[0] == "counted seed 0: measured before"


def claim(**changes):
    known = dict(id="gain", sentence="s", source="us", paper="not reported", metric="m", unit="nats")
    return Claim(**{**known, **changes})


class Whole:
    title, trains_many, claims = "t", False, (claim(),)

    def run(self, lab):
        return Outcome(effects={"gain": 1.0})


class NoScale:
    title, claims = "t", (claim(),)

    def run(self, lab): ...


class Bare: ...


class Comma(Whole):
    claims = claim()


class Twins(Whole):
    claims = (claim(), claim(sentence="another"))


class Endless(Whole):
    claims = (claim(threshold=math.inf),)


class Slip(Whole):
    def run(self, lab):
        return Outcome(effects={"gian": 1.0}, rooms={"gain": 1.0, "loss": 1.0})


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (NoScale, r"study = mine; .*\.NoScale has no trains_many; a study has title, claims, trains_many"),
        (Bare, r"\.Bare has no title, claims, trains_many, run; a study has"),
        (Comma, r"\.Comma\.claims is not what it tests; a tuple of Claim"),
        (Twins, r"\.Twins has several claims gain; an id of its own for each"),
        (
            Endless,
            r"\.Endless, claim gain: Out of range float values are not JSON compliant.*; texts, and finite numbers",
        ),
        (Slip, r"\.Slip\.run measures gian, loss, which no claim is called; gain"),
    ],
)
def test_what_is_wrong_with_a_study_is_said_before_it_runs(kind, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        check_study(kind(), "mine")
    assert len(str(caught.value).splitlines()) == 1
    check_study(Whole(), "mine")
    # And where it would be measured: `replicate` looks before it begins.
    target = {"_target_": f"{__name__}.{kind.__name__}"}
    with pytest.raises(ValueError, match=message):
        replicate("mine", target, scale="smoke", seeds=[0], runs_dir=tmp_path, results_dir=tmp_path, say=str)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", groups()["study"])
def test_the_studies_that_there_are_pass(name):
    check_study(build(to_plain(compose([f"study={name}"]).study)), name)


def outcome(tables=None, rooms=None, **effects):
    """Filled afterwards: under pytest its constructor looks at types, elsewhere it does not."""
    found = Outcome()
    found.tables.update(tables or {})
    found.effects.update(effects)
    found.rooms.update(rooms or {})
    return found


def test_numbers_of_other_libraries_are_numbers(counted, monkeypatch):
    """float32 from numpy, tensors, arrays: results hold them as JSON does."""
    _, module, how, _ = counted
    rows = [{"a": np.float32(0.5), "b": np.int64(3), "c": torch.tensor([1.0, 2.0]), "d": np.bool_(True), "e": None}]
    rows += [{"f": {np.int64(1): (1, "x")}}]
    found = outcome({"t": rows}, {"gain": torch.tensor(2)}, gain=np.float32(0.25))
    monkeypatch.setattr(module.Counted, "run", lambda self, lab: found)
    record = replicate("counted", node(), **how)["seeds"][2]
    assert record["effects"] == {"gain": 0.25} and record["rooms"] == {"gain": 2.0}
    assert record["tables"]["t"] == [{"a": 0.5, "b": 3, "c": [1.0, 2.0], "d": True, "e": None}, {"f": {"1": [1, "x"]}}]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (outcome(gian=1.0), "measured no effect of gain and effects of gian, which no claim is called; an effect for"),
        (outcome(), "measured no effect of gain; an effect for each of gain"),
        (outcome(gain=1.0, rooms={"loss": 1.0}), "measured rooms of loss, which no claim is called"),
        (outcome(gain=float("nan")), ": effect of gain = nan; cannot be judged; a finite number"),
        (outcome(gain=np.float32("inf")), ": effect of gain = .*inf.*; cannot be judged"),
        (outcome(gain="0.5"), ": effect of gain = '0.5'; cannot be judged"),
        (outcome(gain=None), ": effect of gain = None; cannot be judged"),
        (outcome(gain=torch.ones(9, 9)), r": effect of gain = tensor\(\[\[1., 1.*; cannot be judged"),
        (outcome(gain=1.0, rooms={"gain": float("inf")}), ": room of gain = inf; cannot be judged"),
        (outcome({"t": [{}, {"x": float("nan")}]}, gain=1.0), ": table t, 1, x = nan; results hold no such number"),
        (outcome({"t": [{"x": object()}]}, gain=1.0), ": table t, 0, x is object; results hold numbers"),
        (None, ": run returned NoneType; an Outcome"),
    ],
)
def test_what_cannot_be_judged_is_named(found, message):
    with pytest.raises(ValueError, match=f"study = mine; seed 3.*{message}") as caught:
        checked(found, [claim()], "mine", 3)
    assert len(str(caught.value).splitlines()) == 1


def test_the_command_of_a_study_without_a_file_describes_it():
    """And is read back as what it was."""
    settings = {"n": 4, "words": ["a b", "c"], "at": {"x": 0.5}, "name": "true", "none": None, "is_on": True}
    told = command(Plan("counted", node(**settings), "smoke"), 3)
    assert told.startswith("illada-lab replicate '+study={_target_:counted_study.Counted,n:4,words:")
    assert to_plain(compose(shlex.split(told)[2:]).study) == node(**settings)
    changed = {**to_plain(compose(["study=sampling", "scale=smoke"]).study), "n_stories": 7}
    del changed["block_lengths"]
    told = command(Plan("sampling", changed, "smoke"), 3)
    assert told == "illada-lab replicate study=sampling scale=smoke seeds=3 study.n_stories=7 ~study.block_lengths"
