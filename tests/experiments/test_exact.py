"""Enumeration over all masks against independent ways to the same numbers."""

import itertools
import math

import pytest
import torch

from illada_lab.evaluation import exact_log_likelihood
from illada_lab.experiments.exact import enumerate_masks, estimator_variances, weightings
from tests.small import UniformPredictor, small_predictor

TEXT = [9, 12, 9, 15]


@pytest.fixture(scope="module")
def enumeration():
    return enumerate_masks(small_predictor(), [0], TEXT)


def test_log_likelihood_is_the_mean_over_all_orders(enumeration):
    """The chain rule, order by order, asked of the predictor one token at a time."""
    predictor = small_predictor()
    total, logs = 0.0, 0.0
    for order in itertools.permutations(range(len(TEXT))):
        x, log_p = torch.tensor([[0, *[predictor.tokens.mask] * len(TEXT)]]), 0.0
        for i in order:
            with torch.no_grad():
                log_p += float(predictor(x)[0, i + 1].double().log_softmax(-1)[TEXT[i]])
            x[0, i + 1] = TEXT[i]
        total, logs = total + math.exp(log_p), logs + log_p
    n = math.factorial(len(TEXT))
    assert enumeration.log_likelihood() == pytest.approx(math.log(total / n), abs=1e-5)
    # The bound is the mean of the logarithms.
    assert weightings(enumeration)["1/t, over the length"] * len(TEXT) == pytest.approx(-logs / n, abs=1e-5)


def test_the_bound_is_that_of_the_evaluation(enumeration):
    value = exact_log_likelihood(small_predictor(), torch.tensor([0]), torch.tensor(TEXT))
    assert weightings(enumeration)["1/t, over the length"] * len(TEXT) == pytest.approx(-value, abs=1e-5)


def test_uniform_predictor_by_hand():
    """Every masked token costs log V."""
    e, cost = enumerate_masks(UniformPredictor(24), [0], TEXT), math.log(24)
    assert -e.log_likelihood() == pytest.approx(4 * cost)
    values = weightings(e)
    assert values["1/t, over the length"] == values["mean over the masked"] == pytest.approx(cost)
    assert values["mean over the masked of the batch"] == pytest.approx(cost)
    assert values["no weight, over the length"] == pytest.approx(cost / 2)  # E[t]
    assert values["1/t, over the masked"] == pytest.approx(cost * (1 + 1 / 2 + 1 / 3 + 1 / 4))


def test_weightings_and_variances_against_draws(enumeration):
    """The definitions, drawn: t uniform, each token masked with probability t."""
    generator, n, eps = torch.Generator().manual_seed(0), 400_000, 0.1
    losses = {tuple(row): v for row, v in zip(enumeration.is_masked.tolist(), enumeration.losses.tolist(), strict=True)}
    table = torch.zeros(2**4, dtype=torch.float64)
    for masked, value in losses.items():
        table[sum(m << i for i, m in enumerate(masked))] = value
    t = eps + (1 - eps) * torch.rand(n, 1, generator=generator, dtype=torch.float64)
    masked = torch.rand(n, 4, generator=generator, dtype=torch.float64) < t
    value = table[(masked.long() << torch.arange(4)).sum(1)]
    estimate = value / t[:, 0]
    assert estimator_variances(enumeration, eps)["independent"] == pytest.approx(float(estimate.var()), rel=0.02)
    whole = torch.rand(n, 1, generator=generator, dtype=torch.float64)
    masked = torch.rand(n, 4, generator=generator, dtype=torch.float64) < whole
    value, n_masked = table[(masked.long() << torch.arange(4)).sum(1)], masked.sum(1)
    values = weightings(enumeration)
    assert values["no weight, over the length"] == pytest.approx(float(value.mean()) / 4, rel=0.01)
    pooled = float(value.sum() / n_masked.sum())
    assert values["mean over the masked of the batch"] == pytest.approx(pooled, rel=0.01)
    seen = n_masked > 0
    assert values["mean over the masked"] == pytest.approx(float((value[seen] / n_masked[seen]).mean()), rel=0.01)


def test_long_texts_are_refused():
    with pytest.raises(ValueError, match="text = 13 tokens; every set of masks is asked about; 1 to 12"):
        enumerate_masks(UniformPredictor(24), [0], [7] * 13)
