"""At temperature 0 the tokens are the published algorithms', whatever the setting."""

import itertools

import pytest
import torch

from illada_lab.samplers import FixedLength, VariableLength
from illada_lab.tokens import SpecialTokens
from tests.samplers.published import generate, var_generate
from tests.small import small_predictor

PROMPTS = torch.tensor([[0, 9, 10, 11], [0, 12, 13, 14], [0, 15, 16, 17]])
PADDING = torch.tensor([[True] * 4, [False, True, True, True], [False, False, True, True]])
TOKENS = SpecialTokens(mask=5, bos=0, eos=2, pad=1, eot=20)
SETTINGS = list(
    itertools.product(
        [(12, 1), (6, 1), (4, 1), (3, 2), (1, 1)], [0.0, 1.5], [False, True], [False, True], [None, PADDING]
    )
)


def eager_for_eos(seed):
    """A random model that likes to end: EOS, end of turn and [MASK] have logits of the size of the others'."""
    predictor = small_predictor(seed=seed, is_tied=False)
    predictor.tokens = TOKENS
    with torch.no_grad():
        for token in (TOKENS.eos, TOKENS.eot):
            predictor.head_weight[token] *= 1.5
    return predictor


@pytest.mark.parametrize(("blocks", "guidance", "ban_eos", "defer_eos", "is_valid"), SETTINGS)
def test_fixed_length(blocks, guidance, ban_eos, defer_eos, is_valid):
    block_length, per_step = blocks
    n_steps = 12 // block_length * -(-block_length // per_step)
    for seed in range(4):
        predictor = eager_for_eos(seed)
        rules = dict(ban_eos=ban_eos, defer_eos=defer_eos)
        expected = generate(
            predictor, PROMPTS, TOKENS, 12, n_steps, block_length,
            is_valid=is_valid, guidance=guidance, keep_masks=False, **rules,
        )  # fmt: skip
        sampler = FixedLength(
            response_length=12, n_steps=n_steps, block_length=block_length, guidance_scale=guidance, **rules
        )
        assert torch.equal(sampler.sample(predictor, PROMPTS, is_valid).tokens, expected)


@pytest.mark.parametrize("seed", range(8))
def test_a_model_that_is_nearly_certain(seed):
    """Confidences within a few units of the last digit of 1: the softmax itself decides the order."""
    predictor = small_predictor(seed=seed, is_tied=False)
    predictor.tokens = TOKENS
    with torch.no_grad():
        predictor.head_weight.mul_(16)
    for block_length in (8, 24):
        expected = generate(predictor, PROMPTS, TOKENS, 24, 24, block_length, keep_masks=False)
        sampler = FixedLength(response_length=24, block_length=block_length)
        assert torch.equal(sampler.sample(predictor, PROMPTS).tokens, expected)


@pytest.mark.parametrize("n_steps", [1, 2, 3, 5, 7, 12])
def test_the_remainder_of_a_quota(n_steps):
    predictor = eager_for_eos(1)
    expected = generate(predictor, PROMPTS, TOKENS, 12, n_steps, 12, keep_masks=False)
    assert torch.equal(FixedLength(response_length=12, n_steps=n_steps).sample(predictor, PROMPTS).tokens, expected)


def test_where_the_published_code_never_says_mask_nothing_was_mended():
    """The published algorithm as it is: equal wherever it leaves no mask behind."""
    n_equal = 0
    for seed in range(12):
        predictor = eager_for_eos(seed)
        as_published = generate(predictor, PROMPTS, TOKENS, 12, 12, 4)
        if not bool((as_published == TOKENS.mask).any()):
            n_equal += 1
            ours = FixedLength(response_length=12, n_steps=12, block_length=4).sample(predictor, PROMPTS).tokens
            assert torch.equal(ours, as_published)
    assert n_equal >= 3


@pytest.mark.parametrize("guidance", [0.0, 1.5])
@pytest.mark.parametrize(("block_length", "n_steps"), [(4, 4), (4, 2), (3, 3), (16, 16)])
def test_variable_length(block_length, n_steps, guidance):
    for seed in range(6):
        predictor = eager_for_eos(seed)
        how = {"block_length": block_length, "steps_per_block": n_steps, "guidance_scale": guidance}
        sampler = VariableLength(max_length=16, stop_ids=(2, 20), **how)
        together = sampler.sample(predictor, PROMPTS).responses
        alone = [
            var_generate(predictor, p[None], TOKENS, 16, block_length, n_steps, (2, 20), guidance) for p in PROMPTS
        ]
        assert together == alone
