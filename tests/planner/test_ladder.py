"""Sizes at equal FLOPs."""

import pytest

from illada_lab.models import ModelSpec
from illada_lab.planner import Device, flops_per_token, in_proportion, ladder
from illada_lab.planner.compute import PAPER

GPU = Device(name="test", bf16_tflops=100.0, float32_tflops=10.0, memory_gib=80.0, has_bf16=True)


def test_the_papers_width_gives_the_papers_shape():
    sizes = in_proportion(4096, vocab_size=155_136, length=8192)
    assert ModelSpec(**sizes) == PAPER


@pytest.mark.parametrize("d_model", [32, 64, 96, 128, 160, 256, 320, 768, 2048])
def test_every_width_is_a_legal_model(d_model):
    spec = ModelSpec(**in_proportion(d_model, vocab_size=512, length=64))
    assert spec.n_heads == 4 * spec.n_kv_heads and spec.d_ffn == 3.5 * d_model


def test_a_width_out_of_proportion_names_the_nearest():
    with pytest.raises(ValueError, match="d_model = 100; .* nearest: 96"):
        in_proportion(100, vocab_size=512, length=64)


def test_every_rung_spends_its_budget():
    specs = {str(d): ModelSpec(**in_proportion(d, vocab_size=512, length=64)) for d in (64, 128, 256)}
    rows = ladder(specs, flops=(1e15, 1e18), length=64, device=GPU, precision="bf16-mixed", mfu=0.5)
    assert [(row.name, row.flops) for row in rows] == [(n, f) for f in (1e15, 1e18) for n in specs]
    for row in rows:
        spec = specs[row.name]
        assert row.tokens * flops_per_token(spec, 64).total == pytest.approx(row.flops)
        assert row.device_hours == pytest.approx(row.flops / (0.5 * 100e12) / 3600)
        assert row.kind == "planned" and row.parameters == spec.n_parameters
    tokens = [row.tokens for row in rows[:3]]
    assert tokens == sorted(tokens, reverse=True)


@pytest.mark.parametrize(("flops", "mfu"), [((0.0,), 0.5), ((1e15,), 0.0)])
def test_budgets_are_positive(flops, mfu):
    specs = {"a": ModelSpec(**in_proportion(64, vocab_size=512, length=64))}
    with pytest.raises(ValueError, match="must be positive"):
        ladder(specs, flops=flops, length=64, device=GPU, precision="32-true", mfu=mfu)
