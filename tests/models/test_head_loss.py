"""The loss behind a large vocabulary, computed in slices, is the loss."""

import pytest
import torch
import torch.nn.functional as F

from illada_lab.models import mask_predictor
from illada_lab.models.head_loss import sliced_losses
from tests.small import small_predictor


def problem(n=11, vocab_size=50, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    h, weight = (torch.randn(size, width, generator=generator) for size in (n, vocab_size))
    targets = torch.randint(vocab_size, (n,), generator=generator)
    return h.requires_grad_(), (2 * weight).requires_grad_(), targets, torch.rand(n, generator=generator)


@pytest.mark.parametrize("size", [1, 7, 25, 50, 1000])
def test_values_and_gradients_for_any_slice(size):
    h, weight, targets, share = problem()
    found = sliced_losses(h, weight, targets, max_logits=size * len(targets))
    expected = F.cross_entropy(F.linear(h, weight), targets, reduction="none")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for a, b in zip(*(torch.autograd.grad((x * share).sum(), (h, weight)) for x in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_gradients_are_those_of_finite_differences():
    h, weight, targets, _ = problem(n=4, vocab_size=9, width=3)
    # float32 inside: wide steps and a tolerance to match.
    assert torch.autograd.gradcheck(lambda h, w: sliced_losses(h, w, targets, 12), (h, weight), eps=1e-2, atol=2e-3)


def test_far_logits_do_not_overflow():
    h, weight, targets, _ = problem()
    found = sliced_losses(1e3 * h, 1e3 * weight, targets, 70)
    torch.testing.assert_close(
        found, F.cross_entropy(1e6 * (h @ weight.T), targets, reduction="none"), rtol=1e-5, atol=1
    )
    assert found.isfinite().all()


def test_bf16_products_and_float32_sums():
    h, weight, targets, share = problem(n=64, vocab_size=400, width=32)
    results = []
    for is_bf16 in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bf16):
            losses = sliced_losses(h / 8, weight, targets, 64 * 50)
        assert losses.dtype == torch.float32
        results.append((losses.detach(), torch.autograd.grad((losses * share).sum(), (h, weight))))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=2e-2, atol=2e-2)
    for a, b in zip(results[1][1], results[0][1], strict=True):
        assert a.dtype == torch.float32 and float((a - b).norm() / b.norm()) < 1e-2


def test_no_position_is_no_loss():
    h, weight, targets, _ = problem()
    assert sliced_losses(h[:0], weight, targets[:0]).shape == (0,)


@pytest.mark.parametrize("is_tied", [False, True])
def test_a_predictor_slices_what_is_too_large(is_tied, monkeypatch):
    calls, results = [], []

    def spy(*args, is_compiled):
        calls.append(len(args[2]))
        return sliced_losses(*args, max_logits=40, is_compiled=is_compiled)

    monkeypatch.setattr(mask_predictor, "sliced_losses", spy)
    x = torch.randint(7, 24, (2, 10), generator=torch.Generator().manual_seed(0))
    for limit in (20 * 24, 20 * 24 - 1):
        monkeypatch.setattr(mask_predictor, "MAX_LOGITS", limit)
        predictor = small_predictor(is_tied=is_tied)
        losses = predictor.token_losses(predictor.hidden(x).flatten(0, 1), x.flatten())
        losses.sum().backward()
        results.append((losses.detach(), [p.grad for p in predictor.parameters()]))
    assert calls == [20]
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


def test_logits_of_all_positions_never_exist():
    """No tensor of a pass is as large as they would be."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        n = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(tensor, torch.Tensor):
                    self.n = max(self.n, tensor.numel())
            return out

    h, weight, targets, _ = problem(n=64, vocab_size=2000, width=4)
    with Largest() as mode:
        sliced_losses(h, weight, targets, 64 * 140).sum().backward()
    # 128 tokens a slice: rows of logits begin at addresses that products of a GPU want.
    assert mode.n == 64 * 128
