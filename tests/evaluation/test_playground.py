"""The playground's tables add up to the numbers they explain."""

import io

import pytest
import torch

from illada_lab.evaluation import confidence_score, exact_log_likelihood
from illada_lab.evaluation.playground import explore, plot
from tests.small import small_predictor

PROMPT, RESPONSE = torch.tensor([0, 8]), torch.tensor([9, 12, 7, 20])


@pytest.fixture(scope="module")
def found():
    return explore(small_predictor(), PROMPT, RESPONSE, sample_counts=(1, 16), text=["a", "b", "c", "d"])


def test_values_are_those_of_the_functions(found):
    predictor = small_predictor()
    value = {row["quantity"]: row["value"] for row in found.values}
    exact = exact_log_likelihood(predictor, PROMPT, RESPONSE)
    assert value["exact bound"] == exact and value["any-order value"] == pytest.approx(exact, abs=1e-6)
    score, order = confidence_score(predictor, PROMPT, RESPONSE)
    assert value["confidence score"] == score and found.order == order
    note = next(row["note"] for row in found.values if row["quantity"] == "confidence score")
    assert note == " ".join("abcd"[i] for i in order)
    one, many = found.spread
    assert one["std"] > many["std"] > 0 and abs(many["error"]) < 4 * many["std"] / 50**0.5 + 1e-9


def test_breakdowns_add_up_to_the_bound(found):
    exact = exact_log_likelihood(small_predictor(), PROMPT, RESPONSE)
    for table in (found.by_position, found.by_mask_count):
        assert sum(row["share"] for row in table) == pytest.approx(1)
    assert sum(row["mean"] for row in found.by_position) == pytest.approx(exact)
    # Sizes are uniform and every masked token of a set counts L / l, so each size's mean counts once.
    assert sum(row["mean_log_p"] for row in found.by_mask_count) == pytest.approx(exact)
    assert [row["n_sets"] for row in found.by_mask_count] == [4, 6, 4, 1]


@torch.no_grad()
def test_first_and_last_column_are_single_passes(found):
    predictor = small_predictor()
    everything = predictor(torch.tensor([[0, 8, 5, 5, 5, 5]]))[0, 2:].log_softmax(-1).gather(1, RESPONSE[:, None])
    for row, log_p in zip(found.by_position, everything[:, 0].tolist(), strict=True):
        assert row["all_masked"] == pytest.approx(log_p, abs=1e-4)
    only = predictor(torch.tensor([[0, 8, 9, 5, 7, 20]]))[0, 3].log_softmax(-1)[12]
    assert found.by_position[1]["last"] == pytest.approx(float(only), abs=1e-4)


def test_the_plot_is_drawn(found):
    file = io.BytesIO()
    figure = plot(found)
    figure.savefig(file, format="png")
    assert len(figure.axes) == 3 and len(file.getvalue()) > 5000
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == ["a", "b", "c", "d"]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="n_repeats = 1"):
        explore(small_predictor(), PROMPT, RESPONSE, n_repeats=1)
    with pytest.raises(ValueError, match="text = 1 pieces; .*; 4"):
        explore(small_predictor(), PROMPT, RESPONSE, text=["a"])
    with pytest.raises(ValueError, match="13 tokens"):
        explore(small_predictor(), PROMPT, torch.full((13,), 9))
