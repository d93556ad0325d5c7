"""The bound against enumeration of all mask sets, and against what a uniform predictor must give."""

import itertools
import math

import pytest
import torch

from illada_lab.data.batch import Batch
from illada_lab.diffusion import (
    CosineSchedule,
    LinearSchedule,
    RowRandom,
    UniformTimes,
    bits_per_byte,
    mask_tokens,
    nelbo,
)
from illada_lab.objectives import Pretrain
from tests.small import UniformPredictor, small_predictor


def enumerated_nelbo(predictor, x0: torch.Tensor) -> float:
    """Exact bound of one sequence: integral over t of sum over mask sets, term by term.

    A set of k masks out of L has probability t^k (1-t)^(L-k); with the weight 1/t its integral over t is B(k, L-k+1).
    """
    length = len(x0)
    total = 0.0
    for k in range(1, length + 1):
        integral = math.gamma(k) * math.gamma(length - k + 1) / math.gamma(length + 1)
        for chosen in itertools.combinations(range(length), k):
            xt = x0.clone()
            xt[list(chosen)] = predictor.tokens.mask
            log_p = predictor(xt[None])[0].double().log_softmax(-1)
            total -= integral * sum(float(log_p[i, x0[i]]) for i in chosen)
    return total


def any_order_nelbo(predictor, x0: torch.Tensor) -> float:
    """The same number by another road: the mean of -log p over all orders of revealing."""
    orders = list(itertools.permutations(range(len(x0))))
    total = 0.0
    for order in orders:
        xt = torch.full_like(x0, predictor.tokens.mask)
        for i in order:
            total -= float(predictor(xt[None])[0, i].double().log_softmax(-1)[x0[i]])
            xt[i] = x0[i]
    return total / len(orders)


@torch.no_grad()
def test_enumeration_equals_any_order():
    predictor = small_predictor()
    x0 = torch.tensor([9, 12, 7, 20])
    assert enumerated_nelbo(predictor, x0) == pytest.approx(any_order_nelbo(predictor, x0), abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("schedule", [LinearSchedule(), CosineSchedule()])
def test_nelbo_equals_enumeration_over_masks_by_quadrature(schedule):
    """No randomness: every mask set at every t of a fine grid, through the package's own functions."""
    predictor = small_predictor()
    x0 = torch.tensor([[9, 12, 7]])
    sets = torch.tensor([s for s in itertools.product([False, True], repeat=3) if any(s)])
    xt = torch.where(sets, predictor.tokens.mask, x0)
    log_p = predictor(xt).double().log_softmax(-1)
    ce = -log_p.gather(-1, x0.expand(len(sets), -1)[..., None])[..., 0]
    # Gauss-Legendre nodes integrate these smooth integrands to rounding error.
    import numpy as np

    nodes, node_weights = np.polynomial.legendre.leggauss(40)
    total = 0.0
    for node, node_weight in zip((nodes + 1) / 2, node_weights / 2, strict=True):
        t = torch.tensor(node)
        p = schedule.mask_probability(t)
        probability = torch.where(sets, p, 1 - p).prod(-1)
        values = nelbo(ce, sets, schedule.weight(t).expand_as(ce).float())
        total += node_weight * float((probability * values).sum())
    assert total == pytest.approx(enumerated_nelbo(predictor, x0[0]), abs=1e-5)


@torch.no_grad()
def test_monte_carlo_loss_is_within_its_own_error_of_the_enumeration():
    predictor = small_predictor()
    x0 = torch.tensor([9, 12, 7, 20, 15])
    n = 4096
    batch = Batch(
        tokens=x0.expand(n, -1).clone(),
        segment_ids=torch.ones(n, 5, dtype=torch.long),
        is_prompt=torch.zeros(n, 5, dtype=torch.bool),
        index=torch.arange(n),
    )
    random = RowRandom(0, batch.index)
    noise = random.uniform(5)
    t = UniformTimes()(random, 1)
    xt, is_masked = mask_tokens(batch.tokens, t.expand(n, 5), noise, predictor.tokens.mask)
    log_p = predictor(xt).log_softmax(-1)
    ce = -log_p.gather(-1, batch.tokens[..., None])[..., 0]
    values = nelbo(ce, is_masked, (1 / t).float().expand(n, 5))
    exact = enumerated_nelbo(predictor, x0)
    stderr = float(values.std() / n**0.5)
    assert abs(float(values.mean()) - exact) < 4 * stderr
    # The objective draws the same numbers and must give the same mean, per token.
    loss = Pretrain(times=UniformTimes())(predictor, batch, RowRandom(0, batch.index))
    assert float(loss.value) == pytest.approx(float(values.mean()) / 5, rel=1e-4)


def test_uniform_predictor_gives_log_vocabulary():
    """Every weighting that is a bound passes this on average; with all t = 1 it holds exactly."""
    predictor = UniformPredictor(24)
    batch = Batch(
        tokens=torch.randint(7, 24, (3, 10)),
        segment_ids=torch.ones(3, 10, dtype=torch.long),
        is_prompt=torch.zeros(3, 10, dtype=torch.bool),
        index=torch.arange(3),
    )
    loss = Pretrain(times=lambda random, n: torch.ones(3, n, dtype=torch.float64))(
        predictor, batch, RowRandom(0, batch.index)
    )
    assert float(loss.value) == pytest.approx(math.log(24), rel=1e-6)


def test_same_noise_at_a_larger_ratio_masks_a_superset():
    x0 = torch.randint(7, 24, (4, 30))
    noise = torch.rand(4, 30)
    few, many = (mask_tokens(x0, torch.full((4, 30), t), noise, 5)[1] for t in (0.3, 0.8))
    assert (few <= many).all() and few.sum() < many.sum()


def test_bits_per_byte():
    value = bits_per_byte(torch.tensor([8 * math.log(2), 0.0]), torch.tensor([1, 3]))
    assert float(value) == pytest.approx(2.0)
