"""Products by another library: the same values, put back afterwards, only where it is meant."""

import pytest
import torch
from torch import nn

from illada_lab.models import fast_linear
from illada_lab.models.fast_linear import fast_linears
from tests.small import UniformPredictor, small_predictor


@pytest.fixture(autouse=True)
def faster(monkeypatch):
    if not torch.backends.mkldnn.is_available():
        pytest.skip("no oneDNN here")
    monkeypatch.setattr(fast_linear, "is_faster", lambda: True)


def replaced(model) -> int:
    return sum("forward" in vars(module) for module in model.modules()) + ("head" in vars(model))


@pytest.mark.parametrize("is_tied", [True, False])
@torch.inference_mode()
def test_values_are_the_same_and_the_model_is_left_as_it_was(is_tied):
    predictor, x = small_predictor(is_tied=is_tied), torch.randint(7, 24, (3, 10))
    is_wanted = torch.rand(3, 10) < 0.5
    before = predictor(x)
    with fast_linears(predictor):
        # Four of attention and three of the feed-forward part in each of two layers; an untied head is a layer too.
        assert replaced(predictor) == 14 + 1 + (not is_tied)
        torch.testing.assert_close(predictor(x), before, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(predictor.logits_at(x, is_wanted), before[is_wanted], atol=1e-5, rtol=1e-5)
        # Nothing is copied: what the weights are now counts.
        predictor.norm.weight.mul_(2)
        predictor.layers[0].mlp.down_proj.weight.mul_(2)
        after = predictor(x)
    assert replaced(predictor) == 0
    torch.testing.assert_close(predictor(x), after, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_biases_and_errors():
    model, x = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3)), torch.randn(2, 4, 5)
    with pytest.raises(RuntimeError), fast_linears(model):
        torch.testing.assert_close(model(x), model[1].__class__.forward(model[1], nn.Linear.forward(model[0], x)))
        raise RuntimeError
    assert replaced(model) == 0


@torch.no_grad()
def test_other_models_stay_as_they_are():
    for model in (small_predictor().double(), small_predictor().bfloat16(), UniformPredictor(24), nn.LayerNorm(3)):
        head = getattr(model, "head_weight", None)
        with fast_linears(model):
            assert replaced(model) == (
                1 if hasattr(model, "head") and head is not None and head.dtype == torch.float32 else 0
            )
    with fast_linears(lambda x: x):
        pass
    predictor = small_predictor()
    with torch.autocast("cpu", torch.bfloat16), fast_linears(predictor):
        assert replaced(predictor) == 0


def test_with_gradients_it_is_a_mistake():
    with pytest.raises(AssertionError, match="no gradient"), fast_linears(small_predictor()):
        pass
