"""The ways to compute attention agree."""

import pytest
import torch

from illada_lab.models.attention import _attend_plainly, attend
from illada_lab.models.segments import visibility


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("has_segments", [False, True])
def test_plain_attention_equals_the_fused_one(is_causal, has_segments):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, heads, 10, 8, generator=generator) for heads in (4, 2, 2))
    segment_ids = torch.tensor([1] * 4 + [2] * 5 + [0]).expand(3, 10)
    is_visible = visibility(segment_ids, is_causal) if has_segments else None
    # A mask already says what is causal.
    is_causal = is_causal and not has_segments
    expected = attend(q, k, v, is_visible, is_causal)
    assert torch.allclose(_attend_plainly(q, k, v, is_visible, is_causal), expected, atol=1e-6)
    half = [x.bfloat16() for x in (q, k, v)]
    for found in (attend(*half, is_visible, is_causal), _attend_plainly(*half, is_visible, is_causal)):
        assert found.dtype == torch.bfloat16 and torch.allclose(found.float(), expected, atol=3e-2)
