"""The ladder's arithmetic: sizes, fits whose answer is known, and larger scales as planned."""

import math

import pytest

from illada_lab.config import compose
from illada_lab.experiments.recipes import multi_head_ffn
from illada_lab.experiments.scaling import LARGER, PLANNED, Scaling, exponent, fit_sizes, planned, spec_of, widened


def rows(sizes, bound):
    return [
        {"budget": 0.5, "FLOPs": 1e9, "without embeddings": n, "bound": bound(n), "gap": bound(n) - 0.5} for n in sizes
    ]


def test_a_parabola_is_found_again():
    """bound = 1 + 0.3 / 2 * ln(N / 20000)^2: curvature 0.3, best size 20,000."""
    fit = fit_sizes(rows((5_000, 12_000, 30_000, 90_000), lambda n: 1 + 0.15 * math.log(n / 20_000) ** 2))
    assert fit["curvature"] == pytest.approx(0.3) and fit["best size"] == pytest.approx(20_000)
    assert fit["ends less middle"] == pytest.approx(0.15 * (math.log(4) ** 2 - math.log(1.5) ** 2))
    assert fit["is inside"] and fit["lowest gap"] == pytest.approx(fit["lowest bound"] - 0.5)


@pytest.mark.parametrize(("slope", "best"), [(-0.2, 90_000), (0.2, 5_000)])
def test_without_a_lowest_point_the_best_size_is_an_end_of_the_ladder(slope, best):
    """Concave on purpose: the lowest point of the parabola would be a highest."""
    fit = fit_sizes(rows((5_000, 20_000, 90_000), lambda n: slope * math.log(n) - 0.001 * math.log(n / 20_000) ** 2))
    assert (
        fit["ends less middle"] < 0
        and not fit["is inside"]
        and fit["best size"] == pytest.approx(best)
        and fit["curvature"] < 0
    )


def test_a_power_law_is_found_again():
    assert exponent([1e9, 4e9, 1e11], [2 * c**-0.3 for c in (1e9, 4e9, 1e11)]) == pytest.approx(0.3)
    assert math.isfinite(exponent([1e9, 4e9], [0.1, -0.02]))  # an estimate may fall below the entropy


def test_sizes_keep_heads_that_can_be_turned():
    model = compose(["scale=mini"]).model
    for factor in (0.1, 0.7, 1.0, 1.4, 2.0):
        spec = spec_of(widened(model, factor), 300)
        assert spec.n_layers == model.n_layers and spec.head_size % 2 == 0
        assert spec.d_ffn / spec.d_model == pytest.approx(model.d_ffn / model.d_model, rel=0.05)
    assert widened(model, 1.0) == dict(model)


def test_larger_scales_are_marked_and_counted():
    assert {planned(name)["status"] for name in LARGER} == {PLANNED}
    largest = planned("8b")
    assert largest["parameters"] == 7_615_025_152 and largest["tokens"] == pytest.approx(12e12, rel=1e-5)
    # 6 N D and, on top of it, attention at length 8192 and half of the head.
    assert 1.0 < largest["FLOPs"] / (6 * largest["without embeddings"] * largest["tokens"]) < 1.5


def test_multi_head_width_is_that_of_table_1():
    """iLLaDA 8B: 14,336 with 8 key/value heads; LLaDA 8B: 12,288 with 32; both 6.98 B without embeddings."""
    illada, llada = (compose([f"model={name}"]).model for name in ("illada_8b", "llada_8b"))
    assert multi_head_ffn(illada) == llada.d_ffn == 12_288
    for scale in ("smoke", "mini", "toy"):
        model = compose([f"scale={scale}"]).model
        own = spec_of(model, 300)
        multi_head = spec_of({**model, "n_kv_heads": model.n_heads, "d_ffn": multi_head_ffn(model)}, 300)
        assert multi_head.n_non_embedding_parameters == pytest.approx(own.n_non_embedding_parameters, rel=0.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"factors": [1.0, 2.0], "budgets": [0.1, 1.0]}, r"factors = \[1.0, 2.0\]; must rise above 0, 3 or more"),
        ({"factors": [1.0, 0.5, 2.0], "budgets": [0.1, 1.0]}, "factors = .* must rise"),
        ({"factors": [0.5, 1.0, 2.0], "budgets": [1.0]}, r"budgets = \[1.0\]; must rise above 0, 2 or more"),
        ({"factors": [0.5, 1.0, 2.0], "budgets": [0.0, 1.0]}, "budgets = .* above 0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Scaling(**settings)
