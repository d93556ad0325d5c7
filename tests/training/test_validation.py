"""The bound on frozen masks, and what a run reports of it."""

import math

import numpy as np
import pytest
import torch

from illada_lab.config import build, compose
from illada_lab.training.checkpoint import load_run
from illada_lab.training.validation import FrozenMasks, _per_token
from tests.diffusion.test_nelbo import enumerated_nelbo
from tests.small import UniformPredictor, small_predictor
from tests.training.small_runs import SMALL, run


def documents(n: int = 40, seed: int = 0) -> list[dict]:
    random = np.random.default_rng(seed)
    return [
        {
            "ids": [0, *random.integers(7, 24, size=random.integers(3, 9)).tolist()],
            "kind": "ab"[i % 2],
            "log_prob": -5.0,
            "n_bytes": 10,
        }
        for i in range(n)
    ]


class Uniform(UniformPredictor):
    class spec:
        is_causal = False


class CountsPasses:
    """A predictor that counts how often it is asked."""

    def __init__(self, predictor):
        self.predictor, self.n_passes = predictor, 0

    def hidden(self, *args, **kwargs):
        self.n_passes += 1
        return self.predictor.hidden(*args, **kwargs)

    def __getattr__(self, name):
        return getattr(self.predictor, name)


def test_uniform_predictor_gives_log_vocabulary_per_token():
    summary = FrozenMasks(documents(), bos=0).evaluate(Uniform(24)).summary()
    for row in summary.values():
        assert row["nelbo_per_token"] == pytest.approx(math.log(24), rel=1e-6)
        assert row["stderr"] == pytest.approx(0, abs=1e-6)


def test_a_standard_error_by_hand():
    """Three documents of 1, 2 and 3 tokens with 1, 3 and 2 nats: 1 nat per token, residuals 0, 1 and -1."""
    assert _per_token(np.array([1.0, 3.0, 2.0]), np.array([1, 2, 3])) == pytest.approx((1.0, 3**0.5 / 6))


def test_the_ratio_of_a_row_is_what_is_masked_of_it():
    frozen = FrozenMasks(documents(), bos=0)
    expected = [len(row.masked) / (len(frozen.documents[row.document]["ids"]) - 1) for row in frozen.rows]
    assert frozen.evaluate(Uniform(24)).ratio.tolist() == pytest.approx(expected)


def test_rows_are_the_same_every_time_and_bos_is_never_masked():
    one, two = (FrozenMasks(documents(), bos=0) for _ in range(2))
    assert all(
        a.document == b.document and np.array_equal(a.masked, b.masked) for a, b in zip(one.rows, two.rows, strict=True)
    )
    assert all(0 not in row.masked and len(row.masked) for row in one.rows)


def test_masked_counts_are_spread_evenly():
    frozen = FrozenMasks([{"ids": [0, *range(7, 17)]}] * 100, bos=0, n_draws=10)
    counts = np.bincount([len(row.masked) for row in frozen.rows])[1:]
    assert counts.tolist() == [100] * 10


@torch.no_grad()
def test_mean_is_the_enumerated_bound_within_its_error():
    predictor = small_predictor()
    ids = [9, 12, 7, 20]
    result = FrozenMasks([{"ids": ids}], bos=None, n_draws=3000).evaluate(predictor)
    stderr = result.nelbo.std() / np.sqrt(len(result.nelbo))
    assert abs(result.nelbo.mean() - enumerated_nelbo(predictor, torch.tensor(ids))) < 4 * stderr


@pytest.mark.parametrize("n", [2, 3, 50])
def test_processes_share_the_batches(n):
    """What each computes adds up to the whole, to the bit; all make as many passes, whoever has no batch left one for nothing."""
    predictor, frozen = small_predictor(), FrozenMasks(documents(), bos=0, batch_tokens=64)
    alone = CountsPasses(predictor)
    whole = frozen.evaluate(alone).nelbo
    parts, passes = [], []
    for i in range(n):
        watched = CountsPasses(predictor)
        frozen.evaluate(watched, share=(i, n), add_up=lambda part: parts.append(part) or part)
        passes.append(watched.n_passes)
    assert set(passes) == {-(-alone.n_passes // n)} and alone.n_passes > 5
    assert bool(((torch.stack(parts) != 0).sum(0) == 1).all())
    result = frozen.evaluate(predictor, add_up=lambda _: torch.stack(parts).sum(0))
    assert np.array_equal(result.nelbo, whole)


@torch.no_grad()
def test_batches_and_padding_change_nothing():
    predictor = small_predictor()
    many = FrozenMasks(documents(), bos=0, batch_tokens=4096).evaluate(predictor)
    one = FrozenMasks(documents(), bos=0, batch_tokens=1).evaluate(predictor)
    np.testing.assert_allclose(many.nelbo, one.nelbo, rtol=1e-4)


@torch.no_grad()
def test_the_twin_is_exact():
    twin = small_predictor(is_causal=True)
    docs = documents(6)
    result = FrozenMasks(docs, bos=0).evaluate(twin)
    for document, value in zip(docs, result.nelbo, strict=True):
        x = torch.tensor(document["ids"])
        inputs = torch.cat(
            (x[:1], x[:-1])
        )  # the twin's input: BOS in front of everything, also of the document's own BOS
        log_p = twin(inputs[None])[0].log_softmax(-1)[1:].gather(1, x[1:, None]).sum()
        assert value == pytest.approx(-float(log_p), rel=1e-4)
    assert result.is_exact and result.bins() == []


def test_summary_compares_with_the_entropy():
    row = FrozenMasks(documents(), bos=0).evaluate(Uniform(24)).summary()["a"]
    n = row["n_tokens"] / row["n_documents"]
    assert row["entropy_per_token"] == pytest.approx(5.0 / n)
    assert row["over_entropy"] == pytest.approx(math.log(24) * n / 5.0 - 1, rel=1e-6)
    assert row["bits_per_byte"] == pytest.approx(math.log2(24) * n / 10, rel=1e-6)


def test_the_twin_is_compared_with_what_it_has_to_predict():
    """The length as well, which a mask predictor is shown."""
    twin = small_predictor(is_causal=True)
    told = [{**document, "log_prob_of_length": -2.0} for document in documents()]
    row = FrozenMasks(told, bos=0).evaluate(twin).summary()["a"]
    assert row["entropy_per_token"] == pytest.approx(7.0 * row["n_documents"] / row["n_tokens"])
    assert "entropy_per_token" not in FrozenMasks(documents(), bos=0).evaluate(twin).summary()["a"]


def test_bins_cover_the_rows():
    result = FrozenMasks(documents(), bos=0, n_draws=4).evaluate(Uniform(24))
    bins = result.bins()
    assert sum(b["n"] for b in bins) == len(result.nelbo)
    assert all(b["ci_low"] <= b["loss"] <= b["ci_high"] for b in bins)
    # Together they are the bound: what hides nothing costs nothing.
    n_tokens = result.n_tokens[result.document].sum()
    assert sum(b["loss"] * b["n_tokens"] for b in bins) / n_tokens == pytest.approx(result.nelbo.sum() / n_tokens)


@torch.no_grad()
@pytest.mark.parametrize("is_causal", [False, True])
def test_documents_of_a_row_that_are_isolated_do_not_see_each_other(is_causal):
    predictor = small_predictor(is_causal=is_causal)
    first, second = [9, 12, 7, 20], [13, 8, 21]
    frozen = FrozenMasks([{"ids": first + second, "segment_ids": [1] * 4 + [2] * 3}], bos=None, n_draws=1)
    (row,) = frozen.rows
    ids, where = torch.tensor([first + second]), torch.from_numpy(row.masked)
    tokens = predictor.tokens
    if is_causal:
        where = torch.arange(7)
        x = torch.tensor([[tokens.bos, *first[:-1], tokens.bos, *second[:-1]]])
    else:
        x = ids.clone()
        x[0, where] = tokens.mask
    log_p = torch.cat((predictor(x[:, :4]), predictor(x[:, 4:])), dim=1)[0].log_softmax(-1)
    expected = -log_p[where, ids[0, where]].sum() * 7 / len(where)
    assert frozen.evaluate(predictor).nelbo[0] == pytest.approx(float(expected), rel=1e-4)


def test_no_documents_is_refused():
    with pytest.raises(ValueError, match="validation documents = 0"):
        FrozenMasks([], bos=0)
    with pytest.raises(ValueError, match="none of them empty"):
        FrozenMasks([{"ids": [0]}], bos=0)


def test_of_response_only_runs_prompts_are_not_masked():
    document = {
        "ids": [0, 7, 8, 9, 10, 11],
        "is_prompt": [True, True, True, False, False, False],
        "log_prob": -4.0,
        "n_bytes": 9,
    }
    prompt = {"ids": [7, 8], "is_prompt": [True, True], "log_prob": None, "n_bytes": 2}
    frozen = FrozenMasks([document, prompt], bos=0, n_draws=20, is_response_only=True)
    assert {int(i) for row in frozen.rows for i in row.masked} == {3, 4, 5} and len(frozen.documents) == 1
    row = frozen.evaluate(Uniform(24)).summary()["all"]
    assert row["nelbo_per_token"] == pytest.approx(math.log(24), rel=1e-6) and row["n_tokens"] == 3
    assert "entropy_per_token" not in row and "bits_per_byte" not in row
    with pytest.raises(ValueError, match="validation documents = 0"):
        FrozenMasks([prompt], bos=0, is_response_only=True)


def test_no_predictor_without_context_is_below_the_frequencies():
    frozen = FrozenMasks(documents(), bos=0)
    ids = np.concatenate([document["ids"][1:] for document in frozen.documents])
    random = np.random.default_rng(1)
    for _ in range(50):
        fixed = random.dirichlet(np.bincount(ids, minlength=24) + 0.1)
        assert -np.log(fixed[ids]).mean() >= frozen.no_context_per_token
    counts = np.bincount(ids, minlength=24) / len(ids)
    assert -np.log(counts[ids]).mean() == pytest.approx(frozen.no_context_per_token)
    assert frozen.entropy_per_token() == pytest.approx(5.0 * 40 / len(ids))
    assert FrozenMasks([*documents(), {"ids": [0, 9]}], bos=0).entropy_per_token() is None


def test_what_is_validated_is_what_is_saved(tmp_path):
    """With an average of the weights, too: its bound, not that of the weights it is made of."""
    done = run(tmp_path / "ema", "trainer.ema_decay=0.9", "scale.n_steps=6", "trainer.validate_every=3")
    loaded = load_run(tmp_path / "ema")
    data = build(compose([*SMALL]).data)
    data.prepare(loaded.tokenizer)
    frozen = FrozenMasks(data.validation_documents(), bos=loaded.predictor.tokens.bos, n_draws=4)
    again = frozen.evaluate(loaded.predictor).summary()["all"]["nelbo_per_token"]
    assert done.history["validation"][-1]["kinds"]["all"]["nelbo_per_token"] == pytest.approx(again, abs=1e-6)


def test_response_only_runs_are_validated_on_responses(tmp_path):
    run(tmp_path / "base", "scale.n_steps=3")
    start = [f"init_from={tmp_path / 'base'}", "trainer.max_steps=3", "scale.n_warmup_steps=2"]
    done = run(tmp_path / "response", "experiment=sft_response_only", *start)
    data = build(compose([*SMALL, "experiment=sft_response_only", *start]).data)
    data.prepare(load_run(tmp_path / "response").tokenizer)
    documents = data.validation_documents()
    found = done.history["validation"][-1]["kinds"]["all"]
    n_prompt, n_all = (sum(map(count, documents)) for count in (lambda d: sum(d["is_prompt"]), lambda d: len(d["ids"])))
    assert found["n_documents"] == len(documents) and 0 < n_prompt < n_all
    assert found["n_tokens"] == n_all - n_prompt
