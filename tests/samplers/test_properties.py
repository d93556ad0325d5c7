"""What holds for every sampler and every setting."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from illada_lab.samplers import EntropyBound, Factor, FixedLength, Infill, Threshold, VariableLength
from illada_lab.samplers.confidence import unit_of
from illada_lab.tokens import ILLADA
from tests.small import small_predictor

PREDICTOR = small_predictor()
MASK, EOS = ILLADA.mask, ILLADA.eos


@st.composite
def rules(draw):
    """Any legal combination of the settings that all samplers share."""
    transfer = draw(st.sampled_from([None, Threshold(threshold=0.4), Factor(factor=1.0), EntropyBound(bound=0.5)]))
    remasking = ["low_confidence", "margin", "entropy", "random", "left_to_right"]
    readable = [name for name in remasking if transfer is None or unit_of(name) in transfer.needs]
    temperature = draw(st.sampled_from([0.0, 0.8]))
    cache = draw(st.sampled_from([None, "prefix", "dual"]))
    return dict(
        transfer=transfer,
        remasking=draw(st.sampled_from(readable)),
        temperature=temperature,
        top_k=draw(st.sampled_from([None, 3])) if temperature else None,
        cache=cache,
        refresh_every=draw(st.sampled_from([None, 1, 2])) if cache else None,
        guidance_scale=draw(st.sampled_from([0.0, 1.5])),
        n_revisited=draw(st.sampled_from([0, 1])) if transfer is None else 0,
        ban_eos=draw(st.booleans()),
        defer_eos=draw(st.booleans()),
    )


class Watch:
    """Counts masks after each step, row by row, and copies the prompt."""

    def __init__(self):
        self.masks, self.prompts = [], []

    def __call__(self, canvas):
        self.masks.append((canvas.x == MASK).sum(1).tolist())
        self.prompts.append(canvas.x[canvas.is_prompt].clone())


def prompt_of(data, n_rows):
    n_prompt = data.draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    prompt = torch.randint(7, 24, (n_rows, n_prompt), generator=generator)
    if n_prompt == 1 or not data.draw(st.booleans()):
        return prompt, None
    is_valid = torch.ones_like(prompt, dtype=torch.bool)
    is_valid[0, : data.draw(st.integers(1, n_prompt - 1))] = False
    return prompt, is_valid


@settings(max_examples=60, deadline=None)
@given(data=st.data(), shared=rules())
def test_fixed_length(data, shared):
    n_blocks, block_length = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 5))
    steps = data.draw(st.integers(1, block_length)) if shared["transfer"] is None else None
    shared |= {"n_revisited": 0} if steps == 1 else {}  # refused: a block's last step takes nothing back
    sampler = FixedLength(
        response_length=n_blocks * block_length,
        block_length=block_length,
        n_steps=None if steps is None else n_blocks * steps,
        **shared,
    )
    prompt, is_valid = prompt_of(data, 2)
    watch = Watch()
    out = sampler.sample(PREDICTOR, prompt, is_valid, torch.Generator().manual_seed(0), watch)
    assert torch.equal(out.tokens[:, : prompt.shape[1]], prompt) and not bool((out.tokens == MASK).any())
    assert all(torch.equal(seen, prompt.flatten()) for seen in watch.prompts)
    per_row = list(zip(*watch.masks, strict=True))
    if steps is None:
        assert all(n_blocks <= int(n) <= n_blocks * block_length * 2 for n in out.nfe)
    else:
        assert out.nfe.tolist() == [n_blocks * steps * (2 if shared["guidance_scale"] else 1)] * 2
    if not shared["n_revisited"]:
        # Masks only ever fall, and the batch never waits for nothing.
        assert all(a >= b for row in per_row for a, b in zip(row, row[1:], strict=False))
        assert all(sum(a) > sum(b) for a, b in zip(watch.masks, watch.masks[1:], strict=False))
    last = {(r["row"], r["position"]): r["token"] for r in out.trace}
    assert [[last[row, i] for i in range(n_blocks * block_length)] for row in range(2)] == out.tokens[
        :, prompt.shape[1] :
    ].tolist()
    if shared["ban_eos"]:
        assert EOS not in out.tokens[:, prompt.shape[1] :].flatten().tolist()


@settings(max_examples=40, deadline=None)
@given(data=st.data(), shared=rules())
def test_variable_length(data, shared):
    block_length = data.draw(st.integers(1, 5))
    budget = data.draw(st.integers(block_length, 12))
    shared |= {"n_revisited": 0} if block_length == 1 else {}
    stop_ids = data.draw(st.sampled_from([(EOS,), (9, 3), tuple(range(7, 24))]))
    sampler = VariableLength(max_length=budget, block_length=block_length, stop_ids=stop_ids, **shared)
    prompt, is_valid = prompt_of(data, 3)
    out = sampler.sample(PREDICTOR, prompt, is_valid, torch.Generator().manual_seed(0))
    assert torch.equal(out.tokens[:, : prompt.shape[1]], prompt) and not bool((out.tokens == MASK).any())
    for response, reason, nfe in zip(out.responses, out.stop_reasons, out.nfe.tolist(), strict=True):
        assert not set(response) & set(stop_ids) and len(response) <= budget // block_length * block_length
        assert reason == "eos" or len(response) == budget // block_length * block_length
        # Blocks behind the one that holds the end were never asked for.
        n_blocks = min(len(response) // block_length + (reason == "eos"), budget // block_length)
        most = n_blocks * block_length * (2 if shared["guidance_scale"] else 1)
        assert n_blocks <= nfe <= most and (shared["transfer"] is not None or nfe == most)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), shared=rules())
def test_infill(data, shared):
    length = data.draw(st.integers(2, 12))
    text = torch.randint(7, 24, (2, length), generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    is_hole = torch.tensor(data.draw(st.lists(st.booleans(), min_size=2 * length, max_size=2 * length))).view(2, length)
    is_hole[:, data.draw(st.integers(0, length - 1))] = True
    given_text = text.masked_fill(is_hole, MASK)
    shared |= {"cache": None, "refresh_every": None}  # refused: every pass is a full one
    out = Infill(**shared).sample(PREDICTOR, given_text, generator=torch.Generator().manual_seed(0))
    assert torch.equal(out.tokens[~is_hole], text[~is_hole]) and not bool((out.tokens == MASK).any())
    assert {(r["row"], r["position"]) for r in out.trace} == {tuple(where) for where in is_hole.nonzero().tolist()}


@pytest.mark.parametrize("settings", [{"temperature": 1.0}, {"remasking": "random"}])
def test_draws_of_an_infilled_row_do_not_depend_on_padding_at_its_left(settings):
    text = torch.tensor([[0, 7, 5, 9, 5, 5, 8, 5]])
    padded = torch.cat((torch.ones(1, 3, dtype=torch.long), text), 1)
    is_valid = torch.tensor([[False] * 3 + [True] * 8])
    alone, beside = (
        Infill(**settings).sample(PREDICTOR, *given, generator=torch.Generator().manual_seed(1))
        for given in ((text,), (padded, is_valid))
    )
    assert alone.responses == beside.responses
