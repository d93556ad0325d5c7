"""Compiled parts give the numbers of eager ones."""

import warnings
from contextlib import nullcontext

import pytest
import torch
from torch._dynamo import config as dynamo_config
from torch._dynamo.exc import FailOnRecompileLimitHit
from torch._dynamo.utils import counters

from illada_lab.diffusion import RowRandom
from illada_lab.models.head_loss import sliced_losses
from illada_lab.models.kernels import KERNELS, Sight
from illada_lab.models.kernels.say import say_once
from illada_lab.models.kernels.varlen import OnCuda
from illada_lab.models.lora import Lora
from illada_lab.objectives import Pretrain
from illada_lab.training.distributed.sharding import recompute
from illada_lab.training.machine import can_compile
from tests.models.kernels.test_kernels import loop
from tests.small import random_batch, small_predictor

pytestmark = [pytest.mark.compiled, pytest.mark.skipif(not can_compile("cpu"), reason="no C++ compiler")]


@pytest.mark.parametrize("is_bf16", [False, True], ids=["float32", "bf16"])
def test_compiled_loss_and_gradients_are_the_eager_ones(is_bf16):
    """A head large enough to be compiled with its loss; two batches, whose numbers of masks differ."""
    losses, gradients = [], []
    for is_compiled in (False, True):
        predictor = small_predictor(vocab_size=2048, init_std=0.05).train()
        if is_compiled:
            predictor.compile_parts()
        for seed in (0, 1):
            batch = random_batch(seed=seed, vocab_size=2048)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bf16):
                loss = Pretrain()(predictor, batch, RowRandom(seed, batch.index)).value
            loss.backward()
            losses.append(loss.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in predictor.parameters() if p.grad is not None]))
    tolerance = 2e-2 if is_bf16 else 1e-5
    assert torch.allclose(torch.stack(losses[:2]), torch.stack(losses[2:]), rtol=tolerance)
    assert float((gradients[0] - gradients[1]).norm() / gradients[0].norm()) < 3 * tolerance
    assert float(gradients[0].norm()) > 0.1


@pytest.mark.parametrize("has_fixed_length", [False, True])
def test_rows_of_many_lengths_stay_compiled(has_fixed_length):
    """Steps that are padded to their longest row: more lengths than torch compiles one by one, which is why it must be told."""
    torch.compiler.reset()
    compiled, eager = (small_predictor(n_layers=2).train() for _ in range(2))
    compiled.compile_parts(has_fixed_length=has_fixed_length)
    limit = pytest.raises(FailOnRecompileLimitHit) if has_fixed_length else nullcontext()
    with dynamo_config.patch(recompile_limit=4, fail_on_recompile_limit_hit=True), limit:
        for length in (12, 20, 9, 31, 14, 25, 17):
            x = torch.randint(8, 20, (3, length), generator=torch.Generator().manual_seed(length))
            logits = compiled(x)
            torch.testing.assert_close(logits, eager(x), rtol=1e-4, atol=1e-4)
            logits.square().mean().backward()


@pytest.mark.parametrize("is_bf16", [False, True], ids=["float32", "bf16"])
@pytest.mark.parametrize("which", [None, 1, "ops"])
def test_masked_rows_of_plain_attention_may_be_compiled_and_computed_again(which, is_bf16):
    """Its mask is added in place where nothing is compiled; the gradients are those of an eager pass that keeps everything."""
    gradients = []
    for is_compiled, again in ((False, None), (False, which), (True, which)):
        torch.compiler.reset()
        predictor = small_predictor(n_layers=2, init_std=0.05).train()
        predictor.use_attention("plain")
        if is_compiled:
            predictor.compile_parts()
        recompute(predictor, again, has_dropout=False, is_sharded=False)
        batch = random_batch()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bf16):
            h = predictor.hidden(batch.tokens, segment_ids=batch.segment_ids)
        loss = h.float().square().mean() + h.float()[..., 0].mean()
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in predictor.parameters() if p.grad is not None]))
    assert torch.equal(gradients[0], gradients[1]) and float(gradients[0].norm()) > 1e-3
    tolerance = 2e-2 if is_bf16 else 1e-5
    assert float((gradients[0] - gradients[2]).norm() / gradients[0].norm()) < tolerance


@pytest.mark.parametrize(("which", "is_sharded"), [(1, False), (1, True), ("ops", False)])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_layers_that_are_computed_again_are_compiled_all_the_same(which, is_sharded, dropout):
    """With the gradients of compiled layers that keep everything, dropout of adapters included; without it those of eager ones."""
    if dropout:
        pytest.importorskip("peft")
    losses, gradients, graphs = [], [], []
    for is_compiled, again in ((False, None), (True, None), (True, which)):
        torch.compiler.reset()
        counters.clear()
        predictor = small_predictor(n_layers=2, init_std=0.05).train()
        if is_compiled:
            predictor.compile_parts()
        recompute(predictor, again, has_dropout=dropout > 0, is_sharded=is_sharded)
        if dropout:
            Lora(rank=4, dropout=dropout).add_to(predictor, seed=1)
            with torch.no_grad():
                for name, p in predictor.named_parameters():
                    if "lora_B" in name:
                        p.fill_(0.1)  # at zero, where they start, nothing reaches A
        torch.manual_seed(5)
        loss = predictor(random_batch().tokens).square().mean()
        loss.backward()
        losses.append(loss.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in predictor.parameters() if p.grad is not None]))
        graphs.append(counters["aot_autograd"]["ok"])
    assert graphs[0] == 0 and graphs[1] > 0 and graphs[2] > 0
    # Dropout is drawn otherwise where it is compiled.
    for expected in (1,) if dropout else (0, 1):
        torch.testing.assert_close(losses[2], losses[expected], rtol=1e-5, atol=1e-6)
        assert float((gradients[2] - gradients[expected]).norm() / gradients[expected].norm()) < 1e-4


@pytest.mark.parametrize(("which", "is_sharded"), [(1, False), (1, True), ("ops", False)])
@pytest.mark.parametrize("attention", ["varlen", "sdpa"])
def test_layers_that_stay_uncompiled_say_so(which, is_sharded, attention, monkeypatch):
    monkeypatch.setitem(KERNELS, "varlen", (ByLoop(),))
    say_once.cache_clear()
    torch.compiler.reset()
    counters.clear()
    predictor = small_predictor(n_layers=2).train()
    predictor.compile_parts()
    predictor.use_attention(attention)
    recompute(predictor, which, is_sharded=is_sharded)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        predictor(random_batch().tokens).square().mean().backward()
    messages = [str(warning.message) for warning in said if "run uncompiled" in str(warning.message)]
    is_left_out = which == "ops" and attention == "varlen"
    assert bool(counters["aot_autograd"]["ok"]) == (not is_left_out)
    assert len(messages) == is_left_out
    assert all(f"trainer.activation_checkpointing = {which}" in message for message in messages)


@torch.no_grad()
def test_compiled_flex_attention_keeps_segments_apart():
    """Rows and packed segments; more positions than one of its blocks holds."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, 200, 16, generator=generator) for heads in (4, 2, 2))
    ids = (torch.arange(200) // 70 + 1).expand(2, 200).contiguous()
    for causal_block in (None, 1):
        sight = Sight(ids, causal_block)
        expected = KERNELS["plain"][0].view(sight)(q, k, v)
        torch.testing.assert_close(KERNELS["flex"][0].view(sight)(q, k, v), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_flex_attention_says_when_it_is_no_longer_compiled(monkeypatch):
    monkeypatch.setattr("illada_lab.models.kernels.flex.MAX_SHAPES", 1)
    torch.compiler.reset()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for length in (16, 24):
            q, k, v = torch.randn(3, 1, 2, length, 16, generator=torch.Generator().manual_seed(length))
            sight = Sight(torch.ones(1, length, dtype=torch.long), 1)
            expected = KERNELS["plain"][0].view(sight)(q, k, v)
            torch.testing.assert_close(KERNELS["flex"][0].view(sight)(q, k, v), expected, rtol=1e-5, atol=1e-5)
    (message,) = {str(warning.message) for warning in said if "attention = flex" in str(warning.message)}
    assert "batches of more than 1 shapes; further ones run uncompiled" in message


class ByLoop(OnCuda):
    """A variable-length kernel that runs here."""

    name = "by loop"

    def problem(self, need):
        return None

    def run(self, *args):
        return loop(*args)


def test_other_segments_do_not_compile_layers_again(monkeypatch):
    """Batches differ in their number of segments; the variable-length kernel stands outside of what is compiled."""
    monkeypatch.setitem(KERNELS, "varlen", (ByLoop(),))
    compiled, eager = small_predictor().train(), small_predictor().train()
    compiled.compile_parts()
    compiled.use_attention("varlen")
    found = []
    for ids in ([1] * 16, [1] * 4 + [2] * 12, [1, 2, 3, 4] + [5] * 9 + [0] * 3, [1] * 15 + [2]):
        x, segment_ids = random_batch().tokens, torch.tensor(ids).expand(4, 16).contiguous()
        with torch.compiler.set_stance("fail_on_recompile" if found else "default"):
            found.append(compiled.hidden(x, segment_ids=segment_ids))
        torch.testing.assert_close(found[-1], eager.hidden(x, segment_ids=segment_ids), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bf16"])
def test_compiled_slices_of_the_vocabulary_are_the_eager_ones(dtype):
    """For several numbers of positions, one of them compiled for none in particular; gradients of h and of the weight."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(0)
    options = {"generator": generator, "device": device}
    weight = torch.randn(50, 16, **options).to(dtype).requires_grad_()
    for n in (9, 12, 20):
        h = torch.randn(n, 16, **options).to(dtype).requires_grad_()
        targets, share = torch.randint(50, (n,), **options), torch.rand(n, **options)
        outs = []
        for is_compiled in (False, True):
            losses = sliced_losses(h, weight, targets, max_logits=n * 14, is_compiled=is_compiled)
            outs.append([losses.detach(), *torch.autograd.grad((losses * share).sum(), (h, weight))])
        tolerance = 1e-5 if dtype == torch.float32 else 3e-2
        torch.testing.assert_close(outs[1], outs[0], rtol=tolerance, atol=tolerance)
