"""What is kept and what is computed again, by the operations that the kernels of attention and the linear maps really are."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils.checkpoint import CheckpointPolicy

from illada_lab.training.distributed.sharding import _Keep

varlen = pytest.importorskip("torch.nn.attention.varlen")
KEPT, AGAIN = CheckpointPolicy.MUST_SAVE, CheckpointPolicy.PREFER_RECOMPUTE


@pytest.mark.parametrize(
    "name",
    [
        "aten._scaled_dot_product_flash_attention_for_cpu",
        "aten._scaled_dot_product_flash_attention",
        "aten._scaled_dot_product_cudnn_attention",
        "aten._scaled_dot_product_efficient_attention",
        "torch_attn._varlen_attn",
    ],
)
def test_the_outcome_of_attention_is_kept(name):
    assert _policies(name, 2) == [KEPT, KEPT]


@pytest.mark.parametrize("name", ["aten.mm", "aten.addmm", "mkldnn._linear_pointwise", "illada_lab.onednn_product"])
def test_of_products_every_second_one_is_kept(name):
    assert _policies(name, 4) == [KEPT, AGAIN, KEPT, AGAIN]


def test_all_else_is_computed_again():
    assert _policies("aten.mul", 2, "Tensor") == [AGAIN, AGAIN]


def _policies(name: str, n: int, overload: str = "default") -> list[CheckpointPolicy]:
    """Verdicts on an operation that comes up so many times, equal in the forward pass and in its repetition."""
    namespace, _, op = name.partition(".")
    found = getattr(getattr(getattr(torch.ops, namespace), op), overload)
    keep = _Keep()
    forward, again = ([keep(SimpleNamespace(is_recompute=r), found) for _ in range(n)] for r in (False, True))
    assert forward == again
    return forward
