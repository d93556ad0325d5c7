"""Linear maps by oneDNN: the same numbers and gradients as PyTorch's own, and only where they belong."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from illada_lab.models import linear as module
from illada_lab.models.linear import (
    MIN_OPERATIONS,
    USES_BEFORE_PACKING,
    Linear,
    linear,
    onednn_pays,
    packed_weights,
    torch_products,
)

has_op = pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this torch has no oneDNN")


@pytest.fixture
def chosen(monkeypatch):
    """oneDNN for everything, whatever this processor is; counts its products."""
    calls, product = [], module._product
    monkeypatch.setattr(module, "onednn_pays", lambda: True)
    monkeypatch.setattr(module, "MIN_OPERATIONS", 0)
    monkeypatch.setattr(module, "_product", lambda x, weight: calls.append(x.shape) or product(x, weight))
    return calls


def operands(*shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*shape, 48, generator=generator, dtype=dtype).requires_grad_()
    weight = nn.Parameter(torch.randn(32, 48, generator=generator, dtype=dtype))
    return x, weight


@has_op
@pytest.mark.parametrize("shape", [(5,), (2, 7), (2, 3, 4), (1,)])
def test_values_and_gradients_are_those_of_torch(shape, chosen):
    x, weight = operands(*shape)
    ours, theirs = linear(x, weight), F.linear(x, weight)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    upstream = torch.randn_like(theirs)
    found = torch.autograd.grad(ours, (x, weight), upstream)
    expected = torch.autograd.grad(theirs, (x, weight), upstream)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert len(chosen) == 3


@has_op
def test_a_part_of_a_matrix_stays_with_torch(chosen):
    """oneDNN has no fast kernel for it."""
    x, whole = operands(5)[0], torch.randn(64, 96)
    for weight, n in ((whole[:32, :48], 0), (whole[:48, :32].t(), 0), (whole[:32, :48].contiguous(), 1)):
        chosen.clear()
        torch.testing.assert_close(linear(x.detach(), weight), F.linear(x.detach(), weight), rtol=1e-5, atol=1e-5)
        assert len(chosen) == n


@has_op
def test_gradients_only_where_they_are_asked_for(chosen):
    x, weight = operands(5)
    linear(x.detach(), weight).sum().backward()
    assert len(chosen) == 2 and weight.grad is not None
    with torch.no_grad():
        assert not linear(x, weight).requires_grad


@has_op
def test_what_is_not_plain_float32_stays_with_torch(chosen):
    x, weight = operands(5, dtype=torch.float64)
    linear(x, weight)
    x, weight = operands(5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
    linear(x.to("meta"), nn.Parameter(weight.to("meta")))
    with torch_products():
        linear(x, weight)
    assert not chosen
    linear(x, weight)
    assert chosen


@has_op
def test_small_products_stay_with_torch(chosen, monkeypatch):
    monkeypatch.setattr(module, "MIN_OPERATIONS", MIN_OPERATIONS)
    linear(*operands(5))
    assert not chosen
    linear(*operands(MIN_OPERATIONS // (2 * 48 * 32) + 1))
    assert chosen


@pytest.mark.parametrize(
    ("has_wide_onednn", "is_intel", "pays"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_the_choice_is_one_of_the_processor(monkeypatch, has_wide_onednn, is_intel, pays):
    monkeypatch.setattr(module, "_has_wide_onednn", lambda: has_wide_onednn)
    monkeypatch.setattr(module, "_is_intel", lambda: is_intel)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    assert onednn_pays.__wrapped__() is pays


def test_it_is_a_linear_layer_to_everyone_else():
    layer = Linear(48, 32)
    assert isinstance(layer, nn.Linear) and layer.bias is None and list(layer.state_dict()) == ["weight"]


@pytest.fixture
def packing(monkeypatch):
    """Weights are packed at their second use, whatever this processor is; counts what is packed."""
    packed, reorder = [], torch.ops.mkldnn._reorder_linear_weight
    monkeypatch.setattr(module, "_has_wide_onednn", lambda: True)
    monkeypatch.setattr(module, "onednn_pays", lambda: False)
    monkeypatch.setattr(module, "MIN_OPERATIONS", 0)
    monkeypatch.setattr(module, "USES_BEFORE_PACKING", 1)
    monkeypatch.setattr(module, "_packed_by_onednn", lambda weight: packed.append(weight) or reorder(weight, None))
    return packed


@has_op
@torch.no_grad()
def test_packed_weights_give_the_same_products(packing):
    x, weight = operands(2, 7)
    with packed_weights():
        for _ in range(3):
            torch.testing.assert_close(linear(x, weight), F.linear(x, weight), rtol=1e-5, atol=1e-5)
    assert len(packing) == 1


@has_op
@torch.no_grad()
def test_packed_copies_go_with_the_outermost_context(packing):
    """So that a weight that has changed since is not answered for with its former values."""
    x, weight = operands(5)
    with packed_weights():
        with packed_weights():
            linear(x, weight), linear(x, weight)
        linear(x, weight)
    assert len(packing) == 1
    weight.data.mul_(2)
    with packed_weights():
        for _ in range(2):
            torch.testing.assert_close(linear(x, weight), F.linear(x, weight), rtol=1e-5, atol=1e-5)
    assert len(packing) == 2


@has_op
def test_only_parameters_are_packed_without_gradients_and_up_to_a_limit(packing, monkeypatch):
    x, weight = operands(5)
    with packed_weights():
        for _ in range(3):
            linear(x, weight)
        with torch.no_grad(), torch_products():
            linear(x, weight), linear(x, weight)
        with torch.no_grad():
            for _ in range(3):
                linear(x, weight.detach())
            monkeypatch.setattr(module, "MAX_PACKED_BYTES", weight.nbytes - 1)
            for _ in range(3):
                linear(x, weight)
    assert not packing
    with torch.no_grad():
        for _ in range(USES_BEFORE_PACKING):
            linear(x, weight)
    assert not packing
