"""Adapters: nothing changes until something is learnt, the base never does, and merging adds up."""

import copy
import importlib.util
import warnings

import pytest
import torch

from illada_lab.diffusion.randomness import RowRandom
from illada_lab.interop import export_published, load_published, load_published_into
from illada_lab.models.lora import Lora, adapter_state, fingerprint, is_adapted, load_adapters, merge
from illada_lab.objectives import Pretrain
from tests.small import random_batch, small_predictor

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")
X = torch.tensor([[0, 9, 5, 11, 5, 13, 2], [0, 5, 5, 5, 20, 21, 22]])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": 0}, "rank = 0; rows of a matrix; 1 or more"),
        ({"alpha": 0.0}, "alpha = 0.0; scales what is learnt"),
        ({"dropout": 1.0}, "dropout = 1.0; a share; 0 to below 1"),
        ({"targets": ["q"]}, "targets = .'q'.; matrices of a layer, one or more; of q_proj, k_proj"),
        ({"targets": []}, "targets = ..; matrices of a layer"),
        ({"targets": "q_proj"}, "targets = q_proj; one word, not several; .q_proj."),
    ],
)
def test_bad_settings(values, message):
    with pytest.raises(ValueError, match=message):
        Lora(**values)


def test_the_fingerprint_tells_models_apart():
    a, b = small_predictor(seed=0), small_predictor(seed=1)
    assert fingerprint(a) == fingerprint(small_predictor(seed=0)) == fingerprint(a.to(torch.float64)) != fingerprint(b)
    assert fingerprint(a.to(torch.float32)) != fingerprint(small_predictor(seed=0, is_tied=False))


def learn(predictor, n_steps=40):
    """A few steps on one batch; the losses."""
    trained = [p for p in predictor.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01)
    batch, objective, losses = random_batch(n_rows=8), Pretrain(), []
    for _ in range(n_steps):
        loss = objective(predictor, batch, RowRandom(0, batch.index)).value
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@needs_peft
def test_nothing_changes_at_first_and_only_adapters_can_be_trained():
    predictor = small_predictor()
    before = predictor(X)
    Lora(rank=3, targets=["q_proj", "down_proj"]).add_to(predictor)
    assert torch.equal(predictor(X), before) and is_adapted(predictor)
    trained = {name: p.shape for name, p in predictor.named_parameters() if p.requires_grad}
    assert set(trained) == set(adapter_state(predictor)) and len(trained) == 2 * 2 * 2
    assert trained["layers.1.mlp.down_proj.lora_A.default.weight"] == (3, 48)
    with pytest.raises(ValueError, match="has adapters already; merge them first"):
        Lora().add_to(predictor)


@needs_peft
def test_the_seed_decides_the_first_weights_and_nothing_else_is_drawn():
    predictors = [small_predictor() for _ in range(3)]
    torch.manual_seed(3)
    states = [adapter_state(Lora().add_to(p, seed=seed)) for p, seed in zip(predictors, (0, 0, 1), strict=True)]
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


@pytest.mark.parametrize("layout", ["illada", "llada", "llama"])
@needs_peft
def test_it_learns_leaves_the_base_alone_and_merges_to_the_same_model(tmp_path, layout):
    predictor = small_predictor(init_std=0.15)
    base = {name: p.clone() for name, p in predictor.named_parameters()}
    first = predictor(X)
    Lora(rank=4).add_to(predictor)
    losses = learn(predictor)
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    for name, weight in base.items():
        adapted = name if "norm" in name or "embed" in name else name.replace(".weight", ".base_layer.weight")
        assert torch.equal(predictor.get_parameter(adapted), weight), name
    with torch.no_grad():
        learnt = predictor.eval()(X)
        assert (learnt - first).abs().max() > 0.1
        with pytest.raises(ValueError, match="adapters are not merged"):
            export_published(predictor, tmp_path / "out", layout)
        merged = merge(predictor)
        assert [name for name, _ in merged.named_parameters()] == list(base) and not is_adapted(merged)
        torch.testing.assert_close(merged(X), learnt, atol=1e-5, rtol=0)
        back = load_published(export_published(merged, tmp_path / "out", layout))
        torch.testing.assert_close(back(X), learnt, atol=1e-5, rtol=0)
    assert all(p.requires_grad for p in merged.parameters())
    # A second time, and peft sees no adapters of before.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Lora(rank=2).add_to(merged)


@needs_peft
def test_adapters_travel_alone(tmp_path):
    predictor, other = (Lora(rank=4).add_to(small_predictor(), seed=seed) for seed in (0, 1))
    learn(predictor, 5)
    load_adapters(other, adapter_state(predictor))
    assert torch.equal(other.eval()(X), predictor.eval()(X))
    with pytest.raises(
        ValueError, match=r"lora; .*lora_A.* does not fit \(\d+ differ\); the rank and targets of training"
    ):
        load_adapters(Lora(rank=5).add_to(small_predictor()), adapter_state(predictor))
    folder = export_published(small_predictor(), tmp_path / "base")
    with pytest.raises(ValueError, match="it has adapters; weights first, adapters then"):
        load_published_into(predictor, folder)


@needs_peft
def test_a_bf16_base_learns_in_float32_adapters():
    predictor = Lora(is_base_bf16=True, rank=4).add_to(small_predictor())
    assert predictor.head_weight.dtype == torch.bfloat16
    assert {weight.dtype for weight in adapter_state(predictor).values()} == {torch.float32}
    losses = learn(predictor)
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    base = dict(small_predictor().bfloat16().named_parameters())
    exact = dict(merge(copy.deepcopy(predictor).float()).named_parameters())
    merged = dict(merge(predictor).named_parameters())
    assert list(merged) == list(exact) == list(base)
    # Weights, not logits: what they differ by behind all layers hangs on how a processor rounds products.
    for name, weight in merged.items():
        change = exact[name] - base[name].float()
        assert weight.dtype == torch.bfloat16
        assert bool(((weight.float() - exact[name]).abs() <= 2**-8 * (exact[name].abs() + change.abs())).all()), name
    assert any(bool((exact[name] != base[name].float()).any()) for name in merged)
