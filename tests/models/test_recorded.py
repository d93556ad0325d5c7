"""Recorded passes decode the same tokens; what is recorded reads its own memory only."""

import pytest
import torch

from illada_lab.evaluation.masked import batches_by_length, device_of
from illada_lab.models.recorded import MAX_SHAPES, USES_BEFORE_RECORDING, RecordedPredictor, cuda_graph
from illada_lab.samplers import FixedLength, Threshold, VariableLength
from tests.small import small_predictor

PROMPT = torch.tensor([[9, 10, 11, 12, 13], [14, 15, 16, 17, 18]])
IS_VALID = torch.tensor([[False, False, True, True, True], [True] * 5])
SAMPLERS = {
    "no cache": FixedLength(response_length=16, block_length=8),
    "dual": FixedLength(response_length=16, block_length=8, cache="dual"),
    "dual, refreshed": FixedLength(response_length=16, block_length=8, cache="dual", refresh_every=3),
    "prefix, guided": FixedLength(response_length=16, block_length=8, cache="prefix", guidance_scale=1.5),
    "threshold": FixedLength(response_length=16, block_length=8, cache="dual", transfer=Threshold(threshold=0.6)),
    "variable": VariableLength(max_length=16, block_length=8, stop_ids=(2,), cache="dual"),
}


class Tape:
    """Stands for a graph: runs the function again, counts, and lets nothing in but what a recording holds."""

    def __init__(self):
        self.n_recorded = self.n_replayed = 0

    def __call__(self, run):
        self.n_recorded += 1

        def replay():
            self.n_replayed += 1
            return run()

        return replay


@pytest.mark.parametrize("is_ragged", [False, True])
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_same_tokens(name, is_ragged):
    sampler, plain, tape = SAMPLERS[name], small_predictor(), Tape()
    recorded = RecordedPredictor(plain, tape)
    is_valid = IS_VALID if is_ragged else None
    for n in range(3):  # later canvases are given the memory of earlier ones
        prompt = PROMPT.roll(n, 1)
        expected, found = (sampler.sample(model, prompt, is_valid) for model in (plain, recorded))
        assert torch.equal(found.tokens, expected.tokens)
        assert torch.equal(found.nfe, expected.nfe)
    assert tape.n_replayed > tape.n_recorded > 0


def test_only_what_comes_again_is_recorded():
    tape = Tape()
    recorded = RecordedPredictor(small_predictor(), tape)
    is_wanted = torch.zeros_like(PROMPT, dtype=torch.bool).index_fill_(1, torch.tensor([2]), True)
    for n in range(USES_BEFORE_RECORDING):
        recorded.logits_at(PROMPT, is_wanted)
        assert tape.n_recorded == 0, n
    recorded.logits_at(PROMPT, is_wanted)
    recorded.logits_at(PROMPT, is_wanted)
    assert (tape.n_recorded, tape.n_replayed) == (1, 2)
    # Rows that were taken out of a cache are not given out: nothing is recorded on them.
    cache = recorded.new_cache(2, 5)
    some = cache.rows(torch.tensor([1]))
    for _ in range(2 * USES_BEFORE_RECORDING):
        recorded.hidden_window(PROMPT[1:], 0, some)
    assert tape.n_recorded == 1


def test_two_caches_at_a_time_are_two_memories():
    recorded = RecordedPredictor(small_predictor(), Tape())
    one, two = recorded.new_cache(1, 5), recorded.new_cache(1, 5)
    assert one.layers[0].keys.data_ptr() != two.layers[0].keys.data_ptr()
    memory = one.layers[0].keys.data_ptr()
    del one
    assert recorded.new_cache(1, 5).layers[0].keys.data_ptr() == memory


def test_it_is_where_its_model_is_and_knows_as_many_tokens():
    """What scoring and generation ask for: without it they took it for a model on the CPU with no vocabulary."""
    plain = small_predictor(vocab_size=50_000, d_model=4, n_heads=2, n_kv_heads=1, d_ffn=4).to("meta")
    recorded = RecordedPredictor(plain, Tape())
    assert recorded.head_weight is plain.head_weight and device_of(recorded).type == "meta"
    found = [list(batches_by_length(model, [64] * 64, [32] * 64)) for model in (plain, recorded)]
    assert found[0] == found[1] and len(found[1]) > 1


def test_many_shapes_do_not_pile_up():
    recorded = RecordedPredictor(small_predictor(), Tape())
    for length in range(1, 4 * MAX_SHAPES):
        recorded.new_cache(1, length)
    assert len(recorded._free) == MAX_SHAPES


def test_what_is_handed_out_is_not_overwritten():
    recorded = RecordedPredictor(small_predictor(), Tape())
    cache = recorded.new_cache(2, 5)
    outs = [recorded.hidden_window(PROMPT.roll(n, 1), 0, cache) for n in range(8)]
    expected = [small_predictor().hidden(PROMPT.roll(n, 1)) for n in range(8)]
    torch.testing.assert_close(outs, expected)


def test_graphs_need_cuda():
    with pytest.raises(ValueError, match=r"recorded; the predictor is on cpu, and graphs are CUDA's"):
        RecordedPredictor(small_predictor())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_real_graph_decodes_the_same_tokens():
    plain = small_predictor(d_model=64).cuda()
    recorded = RecordedPredictor(plain, cuda_graph)
    for sampler in SAMPLERS.values():
        for is_valid in (None, IS_VALID.cuda()):
            for n in range(3):
                prompt = PROMPT.roll(n, 1).cuda()
                expected, found = (sampler.sample(model, prompt, is_valid) for model in (plain, recorded))
                assert torch.equal(found.tokens, expected.tokens)
