"""Compiled parts give the numbers of eager ones."""

import pytest
import torch

from illada_lab.diffusion import RowRandom
from illada_lab.objectives import Pretrain
from illada_lab.training.machine import can_compile
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
