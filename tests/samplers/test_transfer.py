"""Which predictions are revealed: by hand on small tables, and through samplers whose answers are known."""

import pytest
import torch

from illada_lab.samplers import EntropyBound, Factor, FixedLength, Threshold, VariableLength
from illada_lab.samplers.confidence import RULES
from illada_lab.tokens import ILLADA
from tests.scripted import Scripted
from tests.small import noise_of

NO = -torch.inf
PROMPT = torch.tensor([[0, 9, 10]])


def test_threshold_reveals_what_is_sure_and_always_the_surest():
    confidence = torch.tensor([[0.95, 0.2, 0.9, NO], [0.3, 0.1, NO, 0.2], [NO, NO, NO, 0.99]])
    assert Threshold(threshold=0.9)(confidence).tolist() == [
        [True, False, True, False], [True, False, False, False], [False, False, False, True]
    ]  # fmt: skip


def test_factor_reveals_as_many_as_the_theorem_allows():
    # (n + 1)(1 - c): 2 * 0.01, 3 * 0.2 = 0.6, 4 * 0.3 = 1.2: the third is one too many at factor 1.
    confidence = torch.tensor([[0.7, NO, 0.99, 0.8], [NO, 0.1, 0.05, NO]])
    assert Factor(factor=1.0)(confidence).tolist() == [[False, False, True, True], [False, True, False, False]]
    assert Factor(factor=1.3)(confidence)[0].tolist() == [True, False, True, True]


def test_entropy_bound_adds_up_all_but_the_last():
    # Entropies 0.02, 0.05, 0.08, 0.5: before the third 0.07, before the fourth 0.15.
    confidence = -torch.tensor([[0.08, 0.02, 0.5, 0.05], [torch.inf, 0.7, 0.9, torch.inf]])
    assert EntropyBound(bound=0.1)(confidence).tolist() == [[True, True, False, True], [False, True, False, False]]
    assert EntropyBound(bound=0.0)(confidence)[0].tolist() == [False, True, False, False]


def test_confidence_rules_by_hand():
    p = torch.tensor([[0.6, 0.3, 0.1], [0.4, 0.35, 0.25]])
    arguments = (p.log() + 7.0, torch.tensor([0, 1]), torch.tensor([4, 2]), noise_of(2))
    assert RULES["low_confidence"](*arguments).tolist() == pytest.approx([0.6, 0.35], abs=1e-6)
    assert RULES["margin"](*arguments).tolist() == pytest.approx([0.3, 0.05], abs=1e-6)
    assert RULES["entropy"](*arguments).tolist() == pytest.approx((p * p.log()).sum(1).tolist())
    assert RULES["left_to_right"](*arguments).tolist() == [-4, -2]
    certain = torch.tensor([[0.0, -torch.inf]])
    assert RULES["entropy"](certain, torch.tensor([0]), torch.tensor([0]), noise_of(1)).tolist() == [0.0]


def test_mask_is_none_of_the_two_that_a_margin_is_between():
    """At the first place it is the likeliest, at the second one of two: what is sure of a token comes before what is not."""
    mask = ILLADA.mask
    logits = torch.full((2, 24), -torch.inf)
    logits[0, [mask, 7, 8]] = torch.tensor([0.5, 0.26, 0.24]).log()
    logits[1, [mask, 7]] = torch.tensor([0.4, 0.6]).log()
    rest = (torch.tensor([7, 7]), torch.tensor([3, 4]), noise_of(2))
    assert RULES["margin"](logits, *rest, mask=mask).tolist() == pytest.approx([0.02, 0.6], abs=1e-6)
    assert RULES["margin"](logits, *rest).tolist() == pytest.approx([0.24, 0.2], abs=1e-6)

    class OfMasks(Scripted):
        def __call__(self, x, is_valid=None):
            return torch.cat((torch.zeros(len(x), 3, 24), logits.expand(len(x), 2, 24)), 1)

    out = FixedLength(response_length=2, remasking="margin").sample(OfMasks([0]), PROMPT)
    assert [(r["position"], r["token"]) for r in out.trace] == [(1, 7), (0, 7)]


@pytest.mark.parametrize("transfer", [Threshold(threshold=0.9), Factor(factor=1.0)])
def test_sure_predictors_need_one_pass_per_block(transfer):
    text = [0, 9, 10, *range(11, 19)]
    out = FixedLength(response_length=8, block_length=4, transfer=transfer).sample(Scripted(text), PROMPT)
    assert out.tokens[0].tolist() == text and out.nfe.tolist() == [2]


def test_a_threshold_of_one_reveals_one_token_per_step():
    text = [0, 9, 10, *range(11, 19)]
    out = FixedLength(response_length=8, block_length=4, transfer=Threshold(threshold=1.0)).sample(
        Scripted(text), PROMPT
    )
    assert out.tokens[0].tolist() == text and out.nfe.tolist() == [8]


def test_a_threshold_of_one_reveals_at_once_what_float32_cannot_tell_from_certain():
    class Surer(Scripted):
        def __call__(self, x, is_valid=None):
            return super().__call__(x, is_valid) * 3

    sampler = FixedLength(response_length=8, block_length=4, transfer=Threshold(threshold=1.0))
    assert sampler.sample(Surer([0, 9, 10, *range(11, 19)]), PROMPT).nfe.tolist() == [2]


def test_rows_need_the_steps_they_need():
    class HalfSure(Scripted):
        def __call__(self, x, is_valid=None):
            logits = super().__call__(x, is_valid)
            logits[x[:, 1] == 8] *= 0.2
            return logits

    text = [0, 9, 10, *range(11, 19)]
    sampler = VariableLength(max_length=8, block_length=4, transfer=Threshold(threshold=0.9))
    out = sampler.sample(HalfSure(text), torch.tensor([[0, 9, 10], [0, 8, 10]]))
    assert out.tokens[:, 3:].tolist() == [text[3:]] * 2 and out.nfe.tolist() == [2, 8]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"transfer": Threshold(), "n_steps": 8}, "n_steps = 8; has no effect with transfer = Threshold"),
        (
            {"transfer": Threshold(), "remasking": "entropy"},
            "transfer = Threshold; cannot read the numbers of remasking = entropy",
        ),
        ({"transfer": EntropyBound()}, "remasking = entropy"),
        ({"top_k": 3}, "top_k = 3; has no effect at temperature 0"),
        ({"top_p": 1.5, "temperature": 1.0}, "top_p = 1.5; which tokens can be drawn; above 0, at most 1"),
        ({"cache": "double"}, "cache = 'double'; not a cache; prefix, dual or null"),
        ({"refresh_every": 2}, "refresh_every = 2; has no effect without a cache"),
        ({"n_revisited": 1, "transfer": Threshold()}, "n_revisited = 1; with transfer = Threshold"),
        ({"remasking": "low_confidense"}, "remasking = 'low_confidense'; not a rule; low_confidence"),
    ],
)
def test_settings_that_cannot_be_or_have_no_effect(settings, message):
    with pytest.raises(ValueError, match=message):
        FixedLength(response_length=8, **settings)


@pytest.mark.parametrize(
    ("rule", "values", "message"),
    [(Threshold, {"threshold": 0.0}, "threshold = 0.0"), (Threshold, {"threshold": 1.1}, "above 0, at most 1"),
     (Factor, {"factor": 0.0}, "factor = 0.0"), (EntropyBound, {"bound": -1.0}, "bound = -1.0")],
)  # fmt: skip
def test_rules_out_of_range(rule, values, message):
    with pytest.raises(ValueError, match=message):
        rule(**values)
