"""A remasking order of one's own: from Python and from the configuration, in every sampler, told by its path and settings."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from illada_lab.config import ConfigError, build, compose, compose_and_check
from illada_lab.samplers import (
    Confidence,
    EntropyBound,
    Factor,
    FixedLength,
    Infill,
    Threshold,
    VariableLength,
    confidence,
)
from illada_lab.samplers.confidence import RULES, check_rule, is_drawn, rule_told, unit_of
from illada_lab.tokens import ILLADA
from tests.scripted import Scripted
from tests.small import small_predictor

PROMPT = torch.tensor([[0, 9, 10]])
TEXT = [0, 9, 10, *range(11, 19)]
HERE = "tests.samplers.test_own_rule"


class Backwards:
    """The last position first, in steps of a size."""

    def __init__(self, size: float = 1.0) -> None:
        if size <= 0:
            raise ValueError(f"size = {size}; of a step; above 0")
        self.size, self._seen = size, torch.zeros(3)

    def __call__(self, logits, tokens, positions, noise):
        return positions.float() * self.size


@dataclass(frozen=True, slots=True)
class Squared:
    """A probability again."""

    inner: Any = confidence.low_confidence
    unit: str = "probability"

    def __call__(self, logits, tokens, positions, noise):
        return self.inner(logits, tokens, positions, noise) ** 2


def backwards(logits, tokens, positions, noise, size=1.0):
    return positions.float() * size


def coin(logits, tokens, positions, noise):
    return noise(1)[:, 0].float()


coin.is_random = True  # type: ignore[attr-defined]


def order_of(sampler, predictor=None, x=PROMPT):
    out = sampler.sample(Scripted(TEXT) if predictor is None else predictor, x)
    return [record["position"] for record in out.trace]


@pytest.mark.parametrize("rule", [Backwards(), Backwards(size=2.0), backwards, functools.partial(backwards, size=3.0)])
def test_every_sampler_takes_a_rule_of_ones_own(rule):
    assert isinstance(rule, Confidence)
    assert order_of(FixedLength(response_length=4, remasking=rule)) == [3, 2, 1, 0]
    assert order_of(VariableLength(max_length=4, block_length=2, remasking=rule)) == [1, 0, 3, 2]
    holes = torch.tensor([[0, ILLADA.mask, 10, ILLADA.mask]])
    assert order_of(Infill(remasking=rule), x=holes) == [3, 1]
    assert order_of(FixedLength(response_length=4, n_steps=2, remasking=rule)) == [2, 3, 0, 1]


@pytest.mark.parametrize("name", RULES)
def test_a_named_rule_is_the_same_as_the_function_of_that_name(name):
    settings: dict = {"response_length": 12, "n_steps": 6, "defer_eos": True, "temperature": 0.7}
    one, other = (
        FixedLength(remasking=rule, **settings).sample(
            small_predictor(), PROMPT, generator=torch.Generator().manual_seed(0)
        )
        for rule in (name, RULES[name])
    )
    assert torch.equal(one.tokens, other.tokens) and one.trace == other.trace
    assert rule_told(RULES[name]) == name == rule_told(name)


def test_rules_say_what_their_numbers_are():
    assert {name: unit_of(name) for name in RULES} == {
        "low_confidence": "probability", "margin": "probability", "entropy": "nats", "random": None, "left_to_right": None,
    }  # fmt: skip
    assert [name for name in RULES if is_drawn(name)] == ["random"]
    assert (unit_of(Squared()), unit_of(Backwards()), is_drawn(coin), is_drawn(backwards)) == (
        "probability", None, True, False,
    )  # fmt: skip
    assert FixedLength(response_length=4, remasking=coin).is_random
    assert FixedLength(response_length=4, temperature=0.5).is_random
    assert not FixedLength(response_length=4, remasking=backwards).is_random


def test_thresholds_read_the_probabilities_of_ones_own_rule_and_no_mere_order():
    sure = VariableLength(max_length=8, block_length=4, remasking=Squared(), transfer=Threshold(threshold=0.9))
    assert sure.sample(Scripted(TEXT), PROMPT).nfe.tolist() == [2]
    unsure = VariableLength(max_length=8, block_length=4, remasking=Squared(), transfer=Threshold(threshold=0.999))
    assert unsure.sample(Scripted(TEXT), PROMPT).nfe.tolist() == [8]
    own = f"cannot read the numbers of remasking = {HERE}.Backwards; remasking = "
    for transfer, legal in (
        (Threshold(), "low_confidence or margin, or a rule with unit = 'probability'"),
        (Factor(), "low_confidence or margin, or a rule with unit = 'probability'"),
        (EntropyBound(), "entropy, or a rule with unit = 'nats'"),
    ):
        with pytest.raises(ValueError) as caught:
            FixedLength(response_length=4, remasking=Backwards(), transfer=transfer)
        assert str(caught.value) == f"transfer = {type(transfer).__name__}; {own}{legal}"


class Half:
    """A transfer rule of one's own: half of what is masked, whatever the numbers are."""

    needs: ClassVar[tuple[str, ...]] = ()

    def __call__(self, confidence):
        is_open = confidence > -torch.inf
        n = (int(is_open.sum()) + 1) // 2
        return torch.zeros_like(is_open).scatter(1, confidence.topk(n, dim=1).indices, True) & is_open


class OfOneRule(Half):
    """Names the rule that it reads."""

    needs: ClassVar[tuple[str, ...]] = ("left_to_right",)


def test_a_transfer_rule_of_ones_own_reads_any_order_or_a_rule_by_its_name():
    sampler = FixedLength(response_length=8, remasking=Backwards(), transfer=Half())
    assert sampler.sample(Scripted(TEXT), PROMPT).nfe.tolist() == [4]
    FixedLength(response_length=8, remasking="left_to_right", transfer=OfOneRule())
    with pytest.raises(ValueError, match="remasking = margin; remasking = left_to_right$"):
        FixedLength(response_length=8, remasking="margin", transfer=OfOneRule())


class Never(Half):
    """Reveals nothing, or what is none of its business."""

    def __init__(self, found):
        self.found = found

    def __call__(self, confidence):
        return torch.zeros_like(confidence, dtype=torch.bool) | self.found & (confidence == -torch.inf)


@pytest.mark.parametrize("found", [False, True])
def test_a_transfer_rule_that_reveals_nothing_is_named(found):
    with pytest.raises(
        ValueError, match="transfer = Never; revealed no mask of a row, whose block would never end; at"
    ):
        FixedLength(response_length=4, transfer=Never(found)).sample(Scripted(TEXT), PROMPT)


class Seeing:
    """A rule that is told what [MASK] is."""

    wants_mask = True

    def __call__(self, logits, tokens, positions, noise, *, mask):
        assert mask == ILLADA.mask
        return -positions.float()


class Blind(Backwards):
    """Wants to be told, and has no place for it."""

    wants_mask = True


def test_a_rule_that_wants_it_is_told_the_mask():
    for defer_eos in (False, True):
        rules = FixedLength(response_length=4, remasking=Seeing(), defer_eos=defer_eos)
        assert order_of(rules) == [0, 1, 2, 3]


@pytest.mark.parametrize("rule", [Squared(), Backwards(), backwards])
def test_deferred_ends_are_revealed_last_whatever_the_rule(rule):
    """Also where numbers are below 0, as Backwards could have them: the end of the canvas would come first."""
    text = [0, 9, 10, 11, 12, 2, 2]
    positions = order_of(FixedLength(response_length=4, defer_eos=True, remasking=rule), Scripted(text))
    assert set(positions[:2]) == {0, 1} and set(positions[2:]) == {2, 3}


@pytest.mark.parametrize(
    ("rule", "plain"),
    [
        (Backwards(size=2.0), {"_target_": f"{HERE}.Backwards", "size": 2.0}),
        (Squared(), {"_target_": f"{HERE}.Squared", "inner": "low_confidence", "unit": "probability"}),
        (
            Squared(inner=Backwards()),
            {"_target_": f"{HERE}.Squared", "inner": {"_target_": f"{HERE}.Backwards", "size": 1.0},
             "unit": "probability"},
        ),
        (backwards, {"_target_": f"{HERE}.backwards"}),
        (functools.partial(backwards, size=3.0), {"_target_": f"{HERE}.backwards", "_partial_": True, "size": 3.0}),
    ],
)  # fmt: skip
def test_a_rule_is_told_by_its_path_and_its_settings(rule, plain):
    assert rule_told(rule) == plain


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("low_confidense", "remasking = 'low_confidense'; not a rule; low_confidence"),
        (3, "remasking = 3; not a rule; low_confidence, margin, entropy, random, left_to_right, or what is called as"),
        (Backwards, rf"remasking = {HERE}.Backwards; a class, not a rule made of it; Backwards\(...\)"),
        (lambda logits: logits, r"is not called as a rule is .*; \(logits, tokens, positions, noise\)"),
        (Blind(), r"is not called as a rule is .*; \(logits, tokens, positions, noise, mask\)"),
    ],
)
def test_what_is_no_rule_is_refused_in_one_line(rule, message):
    with pytest.raises(ValueError, match=message) as caught:
        check_rule(rule)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("wrong", "given"),
    [
        (lambda logits, tokens, positions, noise: logits.float(), r"gave shape \[4, 24\]"),
        (lambda logits, tokens, positions, noise: 1.0, "gave float"),
    ],
)
def test_a_rule_gives_a_number_for_each_prediction(wrong, given):
    with pytest.raises(
        ValueError, match=rf"remasking = .*; {given}; a number for each of the M = 4 predictions, \[4\]"
    ):
        FixedLength(response_length=4, remasking=wrong).sample(Scripted(TEXT), PROMPT)


@pytest.mark.parametrize("choice", ["fixed_length", "variable_length", "infill"])
def test_the_configuration_takes_a_rule_as_a_node(choice):
    tree = compose_and_check([f"sampler={choice}", f"sampler.remasking={{_target_: {HERE}.Backwards, size: 2.0}}"])
    rule = build(tree.sampler).remasking
    assert isinstance(rule, Backwards) and rule.size == 2.0
    part = compose_and_check(
        [f"sampler={choice}", f"sampler.remasking={{_target_: {HERE}.backwards, _partial_: true, size: 2.0}}"]
    )
    plain = {"_target_": f"{HERE}.backwards", "_partial_": True, "size": 2.0}
    assert rule_told(build(part.sampler).remasking) == plain


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (f"{{_target_: {HERE}.Backwards, sise: 2.0}}", "sampler.remasking.sise = 2.0; Backwards has no such argument"),
        (
            f"{{_target_: {HERE}.Backwards, size: big}}",
            "sampler.remasking.size = 'big'; text is not what Backwards takes; a number",
        ),
        (f"{{_target_: {HERE}.Forwards}}", f"sampler.remasking._target_ = {HERE}.Forwards; "),
        ("3", "sampler.remasking = 3; a whole number is not what FixedLength takes; text or Confidence"),
        ("low_confidense", "sampler.remasking = 'low_confidense'; not a rule; low_confidence"),
    ],
)
def test_a_wrong_node_is_named(node, message):
    with pytest.raises(ConfigError) as caught:
        compose_and_check([f"sampler.remasking={node}"])
    assert message in str(caught.value)


def test_what_ones_own_rule_refuses_is_said_as_it_says_it():
    node = compose([f"sampler.remasking={{_target_: {HERE}.Backwards, size: -1.0}}"]).sampler
    with pytest.raises(ValueError, match=r"^size = -1.0; of a step; above 0$"):
        build(node)


def test_the_sampler_of_a_benchmark_takes_one_too():
    words = ["evaluation=gsm8k", "evaluation.path=a", f"evaluation.sampler.remasking={{_target_: {HERE}.Backwards}}"]
    compose_and_check(words)
    assert isinstance(build(compose(words).evaluation.sampler).remasking, Backwards)


def test_the_rule_that_contributing_shows_reveals_the_end_first():
    section = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text().partition("## A new remasking order\n")[2]
    shown: dict[str, Any] = {}
    exec(section.partition("```python\n")[2].partition("```")[0], shown)
    sampler = FixedLength(response_length=4, n_steps=4, remasking=shown["Late"](power=2.0))
    trace = sampler.sample(small_predictor(), torch.tensor([[8, 9]])).trace
    assert [step["position"] for step in trace] == [3, 2, 1, 0]
