"""The twin's likelihoods are the training objective's, and its next word is the likeliest."""

import pytest
import torch

from illada_lab.data.batch import Batch
from illada_lab.diffusion import RowRandom
from illada_lab.experiments.twin import log_likelihoods, log_probabilities
from illada_lab.objectives import Autoregressive
from tests.small import small_predictor

TEXTS = [[0, 9, 12, 9, 2], [0, 10, 11, 14, 2]]


def test_likelihood_is_what_training_minimises():
    twin = small_predictor(is_causal=True)
    x = torch.tensor(TEXTS)
    batch = Batch(x, torch.ones_like(x), torch.zeros_like(x, dtype=torch.bool), torch.arange(2))
    with torch.no_grad():
        loss = Autoregressive()(twin, batch, RowRandom(0, batch.index))
    assert float(loss.value) == pytest.approx(-sum(log_likelihoods(twin, TEXTS)) / 8, abs=1e-5)


def test_a_token_depends_on_those_before_it_only():
    twin = small_predictor(is_causal=True)
    before, after = log_probabilities(twin, [TEXTS[0]]), log_probabilities(twin, [[*TEXTS[0][:3], 15, 16]])
    assert torch.allclose(before[:, :4], after[:, :4], atol=1e-5)
    assert not torch.allclose(before[:, 4], after[:, 4], atol=1e-2)
