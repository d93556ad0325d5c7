import pytest
import torch

from illada_lab.training.distributed import named_state
from illada_lab.training.optim import adamw, muon
from tests.small import small_predictor


def test_weight_decay_is_on_matrices_only():
    groups = adamw(small_predictor(), lr=1e-3, weight_decay=0.1).param_groups
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0]
    assert all(p.ndim == 2 for p in groups[0]["params"]) and all(p.ndim == 1 for p in groups[1]["params"])


def test_muon_takes_the_matrices_inside_the_layers():
    predictor = small_predictor(is_tied=False)
    optimizer = muon(predictor, lr=0.02, adamw_lr=3e-3)
    hidden = {id(p) for p in optimizer.named_parts["muon"].param_groups[0]["params"]}
    expected = {id(p) for n, p in predictor.named_parameters() if n.startswith("layers.") and p.ndim == 2}
    assert hidden == expected and len(hidden) == 14
    everything = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(everything) == sorted(id(p) for p in predictor.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -0.01}, "^lr = -0.01; would lead uphill; 0 or more$"),
        ({"momentum": 1.5}, "^momentum = 1.5; the share of a running mean that is kept; 0 to below 1$"),
        ({"betas": [0.9, 1.0]}, r"^betas = \[0.9, 1.0\]; "),
    ],
)
def test_numbers_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        muon(small_predictor(), **{"lr": 0.02, "adamw_lr": 3e-3, **settings})


def test_a_schedule_reaches_both_parts_also_after_loading():
    predictor = small_predictor()
    optimizer = muon(predictor, lr=0.02, adamw_lr=3e-3)
    for p in predictor.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = [p.clone() for p in predictor.parameters()]
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, predictor.parameters(), strict=True))


def test_state_restores_the_next_step_exactly():
    results = []
    state = weights = None
    for is_restored in (False, True):
        predictor = small_predictor()
        optimizer = muon(predictor, lr=0.02, adamw_lr=3e-3)
        generator = torch.Generator().manual_seed(0)
        gradients = [[torch.randn(p.shape, generator=generator) for p in predictor.parameters()] for _ in range(3)]
        if is_restored:
            predictor.load_state_dict(weights)
            optimizer.load_state_dict(state)
        for step in range(2 if is_restored else 0, 3):
            for p, g in zip(predictor.parameters(), gradients[step], strict=True):
                p.grad = g
            optimizer.step()
            if step == 1:
                import copy

                state, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(predictor.state_dict())
        results.append([p.detach().clone() for p in predictor.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("is_sharded", [False, True])
def test_loading_brings_the_state_and_leaves_the_settings(is_sharded):
    """Moments are the saved run's; rates and decay are what this run was told, on the way of plain and of sharded checkpoints."""
    predictor = small_predictor()
    names = {p: name for name, p in predictor.named_parameters()}
    old = muon(predictor, lr=0.02, adamw_lr=3e-3)
    for p in predictor.parameters():
        p.grad = torch.ones_like(p)
    old.step()
    new = muon(predictor, lr=0.5, adamw_lr=0.25, weight_decay=0.0, momentum=0.5)
    if is_sharded:
        named_state.restore(new, names, named_state.tensors(old, names), named_state.groups(old, names))
    else:
        named_state.keep_settings(new)
        new.load_state_dict(old.state_dict())
    told = [(group["lr"], group["weight_decay"], group.get("momentum")) for group in new.param_groups]
    assert told == [(0.5, 0.0, 0.5), (0.25, 0.0, None), (0.25, 0.0, None)]
    before, after = named_state.tensors(old, names), named_state.tensors(new, names)
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
