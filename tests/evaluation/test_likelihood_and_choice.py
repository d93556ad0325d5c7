import math

import pytest
import torch

from illada_lab.evaluation import ChoiceItem, choose, confidence_score, exact_log_likelihood, monte_carlo_log_likelihood
from illada_lab.evaluation.choice import confidence_scores
from illada_lab.evaluation.generation import is_right
from illada_lab.evaluation.intervals import wilson
from illada_lab.evaluation.likelihood import stratified_counts
from tests.diffusion.test_nelbo import any_order_nelbo, enumerated_nelbo
from tests.small import UniformPredictor, small_predictor

NOTHING = torch.empty(0, dtype=torch.long)


@torch.no_grad()
def test_exact_value_is_the_enumeration_and_the_any_order_value():
    predictor, response = small_predictor(), torch.tensor([9, 12, 7, 20])
    exact = exact_log_likelihood(predictor, NOTHING, response)
    assert exact == pytest.approx(-enumerated_nelbo(predictor, response), abs=1e-6)
    assert exact == pytest.approx(-any_order_nelbo(predictor, response), abs=1e-5)


def test_uniform_predictor_gives_exactly_minus_length_log_vocabulary():
    predictor, prompt, response = UniformPredictor(24), torch.tensor([0, 8]), torch.tensor([9, 12, 7, 20, 11])
    expected = -5 * math.log(24)
    assert exact_log_likelihood(predictor, prompt, response) == pytest.approx(expected, rel=1e-9)
    value, stderr = monte_carlo_log_likelihood(predictor, prompt, response, n_samples=7)
    assert value == pytest.approx(expected, rel=1e-9) and stderr == pytest.approx(0, abs=1e-9)
    assert confidence_score(predictor, prompt, response)[0] == pytest.approx(expected, rel=1e-6)


@torch.no_grad()
def test_monte_carlo_is_within_four_standard_errors_in_many_cases():
    generator = torch.Generator().manual_seed(0)
    for case in range(40):
        predictor = small_predictor(seed=case)
        response = torch.randint(7, 24, (3 + case % 4,), generator=generator)
        prompt = torch.randint(7, 24, (case % 3,), generator=generator)
        value, stderr = monte_carlo_log_likelihood(predictor, prompt, response, n_samples=200, generator=generator)
        assert abs(value - exact_log_likelihood(predictor, prompt, response)) < 4 * stderr + 1e-9


@pytest.mark.parametrize(("length", "n"), [(8, 16), (10, 4), (7, 5), (3, 128)])
def test_mask_counts_are_uniform_whatever_the_length_and_the_number_of_samples(length, n):
    """The published estimator rounds, which is biased where L is no multiple of n."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.cat([stratified_counts(length, n, generator) for _ in range(3000)])
    share = torch.bincount(counts, minlength=length + 1)[1:] / len(counts)
    assert counts.min() == 1 and counts.max() == length
    torch.testing.assert_close(share, torch.full((length,), 1 / length), atol=0.01, rtol=0)


@torch.no_grad()
def test_guidance_changes_the_likelihood_and_follows_the_convention():
    predictor, prompt, response = small_predictor(), torch.tensor([0, 8]), torch.tensor([9])
    x, blind = torch.tensor([[0, 8, 5]]), torch.tensor([[5, 5, 5]])
    cond, uncond = predictor(x)[0, -1].double(), predictor(blind)[0, -1].double()
    expected = (uncond + 3 * (cond - uncond)).log_softmax(0)[9]
    assert exact_log_likelihood(predictor, prompt, response, guidance_scale=2.0) == pytest.approx(
        float(expected), abs=1e-5
    )


@torch.no_grad()
def test_confidence_score_equals_one_at_a_time():
    for seed in range(10):
        predictor = small_predictor(seed=seed)
        generator = torch.Generator().manual_seed(seed)
        prompt, response = (torch.randint(7, 24, (n,), generator=generator) for n in (3, 6))
        x = torch.cat((prompt, torch.full((6,), 5), torch.tensor([2])))
        masked, total, order = set(range(6)), 0.0, []
        while masked:
            log_p = predictor(x[None])[0].double().log_softmax(-1)
            best = max(masked, key=lambda i: float(log_p[3 + i, response[i]]))
            total += float(log_p[3 + best, response[best]])
            x[3 + best] = response[best]
            masked.remove(best)
            order.append(best)
        score, got = confidence_score(predictor, prompt, response, append=torch.tensor([2]))
        assert score == pytest.approx(total, abs=1e-4) and got == order


@torch.no_grad()
def test_batched_scores_equal_single_ones():
    predictor = small_predictor()
    pairs = [([0, 8, 9], [10, 11]), ([0], [12, 13, 14, 15]), ([0, 7, 7, 7, 9], [20])]
    together, orders = confidence_scores(predictor, pairs, append=[2])
    for (prompt, response), score, order in zip(pairs, together, orders, strict=True):
        alone = confidence_score(predictor, torch.tensor(prompt), torch.tensor(response), append=torch.tensor([2]))
        assert alone[0] == pytest.approx(score, abs=1e-4) and alone[1] == order


@torch.no_grad()
@pytest.mark.parametrize("rule", ["monte_carlo", "confidence"])
def test_choose_takes_the_likelier_candidate(rule):
    predictor = small_predictor()
    prompt = [0, 8]
    ranked = predictor(torch.tensor([[*prompt, 5]]))[0, -1].argsort(descending=True)
    items = [ChoiceItem(prompt, [[int(ranked[k])] for k in (9, 1, 15, 4)], 1)]
    assert choose(predictor, items, rule, n_samples=8) == [1]


def test_bad_input_is_named():
    predictor = small_predictor()
    with pytest.raises(ValueError, match=r"response = \[\]"):
        monte_carlo_log_likelihood(predictor, NOTHING, NOTHING)
    with pytest.raises(ValueError, match=r"response = \[\]"):
        confidence_score(predictor, torch.tensor([0]), NOTHING)
    with pytest.raises(ValueError, match="13 tokens.*at most 12"):
        exact_log_likelihood(predictor, NOTHING, torch.full((13,), 9))
    with pytest.raises(ValueError, match="n_samples = 0"):
        monte_carlo_log_likelihood(predictor, NOTHING, torch.tensor([9]), n_samples=0)
    with pytest.raises(ValueError, match="rule = 'guess'"):
        choose(predictor, [], "guess")


def test_wilson_interval():
    low, high = wilson(95, 100)
    assert (low, high) == (pytest.approx(0.8882, abs=1e-3), pytest.approx(0.9785, abs=1e-3))
    assert wilson(10, 10)[1] == 1.0 and wilson(0, 10)[0] == 0.0
    with pytest.raises(ValueError, match="n_correct = 3, n = 2"):
        wilson(3, 2)


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("rome", "rome", True),
        (" rome .", "rome", True),
        ("3 + 2 = 5 . the answer is 5", "5", True),
        ("3 + 2 = 6 . the answer is 6", "5", False),
        ("rome rome", "rome", False),
        ("", "rome", False),
        ("15", "5", False),
    ],
)
def test_answers_are_compared_whole(text, answer, right):
    assert is_right(text, answer) is right
