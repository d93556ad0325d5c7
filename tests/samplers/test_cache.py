"""Caches: exact where they must be, and as cheap as they should be."""

import pytest
import torch

from illada_lab.samplers import FixedLength, Threshold, VariableLength
from tests.scripted import Scripted
from tests.small import small_predictor

PROMPT = torch.tensor([[0, 9, 10], [0, 11, 12]])


@torch.no_grad()
@pytest.mark.parametrize("is_padded", [False, True])
def test_a_window_with_fresh_keys_equals_the_full_pass(is_padded):
    predictor = small_predictor()
    x = torch.randint(7, 24, (3, 14), generator=torch.Generator().manual_seed(0))
    is_valid = torch.ones(3, 14, dtype=torch.bool)
    is_valid[1, :4] = not is_padded
    full = predictor(x, is_valid if is_padded else None)
    cache = predictor.new_cache(*x.shape)
    first = predictor.head(predictor.hidden_window(x, 0, cache, is_valid))
    assert torch.allclose(first[is_valid], full[is_valid], atol=1e-5)
    window = predictor.head(predictor.hidden_window(x[:, 5:9], 5, cache, is_valid))
    assert torch.allclose(window, full[:, 5:9], atol=1e-5)
    part = predictor.head(predictor.hidden_window(x[:, 5:9], 5, cache, is_valid, slice(1, 3)))
    assert torch.allclose(part, full[:, 6:8], atol=1e-5)
    fewer = predictor.head(predictor.hidden_window(x[1:, 5:9], 5, cache.rows(torch.tensor([1, 2])), is_valid[1:]))
    assert torch.allclose(fewer, full[1:, 5:9], atol=1e-5)
    assert (
        cache.n_bytes == 2 * 2 * 3 * 2 * 14 * 8 * 4
    )  # layers, keys and values, rows, heads, positions, entries, bytes


@torch.no_grad()
@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize("guidance_scale", [0.0, 1.0])
def test_a_refresh_every_step_reproduces_the_uncached_sampler(cache, guidance_scale):
    predictor = small_predictor()
    settings = dict(response_length=12, block_length=6, guidance_scale=guidance_scale)
    plain = FixedLength(**settings).sample(predictor, PROMPT)
    cached = FixedLength(**settings, cache=cache, refresh_every=1).sample(predictor, PROMPT)
    assert torch.equal(plain.tokens, cached.tokens)
    assert torch.equal(plain.nfe, cached.nfe) and torch.equal(plain.token_forwards, cached.token_forwards)


@torch.no_grad()
def test_what_a_cache_computes():
    predictor = small_predictor()
    counts = {}
    for cache in ("prefix", "dual"):
        out = FixedLength(response_length=12, block_length=6, cache=cache).sample(predictor, PROMPT)
        assert out.nfe.tolist() == [12, 12] and not (out.tokens == predictor.tokens.mask).any()
        counts[cache] = out.token_forwards.tolist()
    # Two full passes of 15; five steps on the block and what stands behind it (12, then 6), or on the block (6).
    assert counts == {"prefix": [30 + 5 * 12 + 5 * 6] * 2, "dual": [30 + 10 * 6] * 2}
    half = FixedLength(response_length=12, block_length=6, cache="dual", refresh_every=3).sample(predictor, PROMPT)
    assert half.token_forwards.tolist() == [4 * 15 + 8 * 6] * 2


@torch.no_grad()
@pytest.mark.parametrize("transfer", [None, Threshold(threshold=0.3)])
@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_every_row_of_a_ragged_batch_equals_its_solo_run(cache, transfer):
    predictor = small_predictor()
    sampler = VariableLength(max_length=16, block_length=4, stop_ids=(9, 3), cache=cache, transfer=transfer)
    prompts = [[0, 8], [0, 8, 9, 10, 11], [0, 12, 13]]
    solo = [sampler.sample(predictor, torch.tensor([p])) for p in prompts]
    x, is_valid = torch.ones(3, 5, dtype=torch.long), torch.zeros(3, 5, dtype=torch.bool)
    for i, p in enumerate(prompts):
        x[i, 5 - len(p) :], is_valid[i, 5 - len(p) :] = torch.tensor(p), True
    together = sampler.sample(predictor, x, is_valid)
    assert together.responses == [s.responses[0] for s in solo]
    assert together.nfe.tolist() == [int(s.nfe) for s in solo]


def test_a_predictor_without_a_cache_is_told():
    with pytest.raises(ValueError, match="cache = dual; Scripted keeps no keys and values"):
        FixedLength(response_length=4, cache="dual").sample(Scripted([0, 9, 10, 11, 12, 13, 14]), PROMPT)
    with pytest.raises(ValueError, match="the autoregressive twin"):
        small_predictor(is_causal=True).new_cache(1, 3)
