"""Muon against torch's own, which computes in bf16, and against an exact orthogonalisation."""

import pytest
import torch

from illada_lab.training.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(3, 16, 40), (2, 40, 16), (1, 8, 8)])
def test_orthogonalised_matrices_keep_their_singular_vectors(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, vt = torch.linalg.svd(x, full_matrices=False)
    # In the basis of its own singular vectors the result is diagonal, with entries about one.
    inner = u.mT @ orthogonalise(x) @ vt.mT
    diagonal = inner.diagonal(dim1=1, dim2=2)
    assert (inner - torch.diag_embed(diagonal)).abs().max() < 1e-4
    assert diagonal.min() > 0.3 and diagonal.max() < 1.3


def test_steps_equal_torchs_within_its_bf16():
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(s, generator=generator) for s in ((12, 20), (20, 12), (12, 20))]
    results = []
    for make in (Muon, torch.optim.Muon):
        generator = torch.Generator().manual_seed(2)
        parameters = [torch.nn.Parameter(w.clone()) for w in weights]
        optimizer = make(parameters, lr=0.02, momentum=0.9, weight_decay=0.1)
        for _ in range(3):
            for p in parameters:
                p.grad = torch.randn(p.shape, generator=generator)
            optimizer.step()
        results.append([p.detach() for p in parameters])
    for ours, theirs, start in zip(*results, weights, strict=True):
        # bf16 has three digits; three steps of 0.02 move a weight by up to 0.06.
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)
        assert (ours - start).abs().max() > 5e-3


def test_only_matrices():
    with pytest.raises(ValueError, match=r"parameter = shape \[3\]; Muon is for matrices"):
        Muon([torch.nn.Parameter(torch.zeros(3))], lr=0.1)
