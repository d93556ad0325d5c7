"""Infilling, the end-of-thinking boost, revisiting, cut draws, live display."""

from dataclasses import replace

import pytest
import torch

from illada_lab.samplers import EndOfThinking, FixedLength, Infill, Threshold, VariableLength
from illada_lab.samplers.draw import draw
from illada_lab.tokens import ILLADA
from tests.scripted import Scripted
from tests.small import noise_of, small_predictor

PROMPT = torch.tensor([[0, 9, 10]])
MASK = ILLADA.mask


def test_infilling_fills_the_masks_and_nothing_else():
    text = [0, 9, 10, 11, 12, 13, 14]
    given = torch.tensor([[0, MASK, 10, MASK, MASK, 13, 14], [0, 9, 10, 11, MASK, 13, 14]])
    out = Infill(n_steps=3).sample(Scripted(text, order=[4, 1, 3]), given)
    assert out.tokens.tolist() == [text, text] and out.stop_reasons == ["filled", "filled"]
    assert out.nfe.tolist() == [3, 1]
    assert [(r["position"], r["token"]) for r in out.trace if r["row"] == 0] == [(4, 12), (1, 9), (3, 11)]
    with pytest.raises(ValueError, match="a row without .MASK. has nothing to fill in"):
        Infill().sample(Scripted(text), torch.tensor([text]))


def test_the_boost_ends_thinking_token_by_token_and_only_once():
    """A predictor that would go on for ever; the sequence has two tokens."""
    text = [0, 9, 10, *[11] * 8]
    boost = EndOfThinking(sequence=[20, 21], amount=100.0, power=3.0)
    sampler = VariableLength(max_length=8, block_length=2, remasking="left_to_right", end_of_thinking=boost)
    out = sampler.sample(Scripted(text), PROMPT)
    # 100 (r / 8)^3 passes the predictor's 8 logits at r = 4: 12.5. Then the sequence goes on, and is not said again.
    assert out.responses == [[11, 11, 11, 20, 21, 11, 11, 11]]


def test_the_boost_of_a_batch_is_each_rows_own():
    text = [0, 9, 10, *[11] * 4]
    boost = EndOfThinking(sequence=[20], amount=1e3, power=0.0)
    said = torch.tensor([[0, 9, 10], [0, 9, 20]])
    out = FixedLength(response_length=4, remasking="left_to_right", end_of_thinking=boost).sample(Scripted(text), said)
    # In the prompt it does not count: only the response is looked at.
    assert out.responses == [[20, 11, 11, 11]] * 2
    with pytest.raises(ValueError, match="sequence = ..; nothing to say"):
        EndOfThinking(sequence=[])


def test_the_boost_of_every_row_is_that_of_the_row_alone():
    """Against a search written row by row: random texts of few tokens, so that beginnings and whole sequences stand everywhere."""
    random, n_prompt, budget = torch.Generator().manual_seed(0), 3, 9
    boost = EndOfThinking(sequence=[7, 7, 8], amount=5.0, power=2.0)
    x = torch.randint(7, 9, (60, n_prompt + budget), generator=random)
    is_masked = torch.rand(x.shape, generator=random) < 0.3
    is_masked[:, : n_prompt + 1] = False
    is_masked[:9, n_prompt + 4 :] = False  # some rows have nothing to fill in, the last one too
    is_masked[-1] = False
    x[is_masked] = 4
    logits = torch.zeros(int(is_masked.sum()), 24)
    boost(logits, x, is_masked, n_prompt, budget)
    expected, first, sequence = torch.zeros_like(logits), 0, [7, 7, 8]
    for text, masked in zip(x.tolist(), is_masked.tolist(), strict=True):
        response = text[n_prompt:]
        if any(masked) and sequence not in [response[i : i + 3] for i in range(budget)]:
            place = masked.index(True) - n_prompt
            n = next(n for n in (2, 1, 0) if response[max(place - n, 0) : place] == sequence[:n])
            expected[first, sequence[n]] = 5.0 * ((place + 1) / budget) ** 2
        first += sum(masked)
    assert 10 < (expected > 0).sum() < 50
    torch.testing.assert_close(logits, expected)
    EndOfThinking(sequence=[7, 7, 8], amount=torch.inf, power=0.5)(logits, x, is_masked, n_prompt, budget)
    assert torch.equal(logits == torch.inf, expected > 0) and not logits.isnan().any()


def test_draws_in_parts_are_those_at_once(monkeypatch):
    """Where all logits of a large vocabulary would fill the memory several times over."""
    sampler = FixedLength(response_length=12, n_steps=4, temperature=1.0, top_p=0.9, remasking="random")
    made = []
    for limit in (2**25, 24 * 5, 1):
        monkeypatch.setattr("illada_lab.samplers.decode.MAX_DRAWN", limit)
        made.append(sampler.sample(small_predictor(), PROMPT.repeat(3, 1), generator=torch.Generator().manual_seed(1)))
    assert made[0].responses == made[1].responses == made[2].responses and made[0].trace == made[2].trace


@torch.no_grad()
@pytest.mark.parametrize("n_steps", [4, 6, 12])
def test_revisited_tokens_are_decided_anew_and_none_stays_masked(n_steps):
    predictor = small_predictor()
    out = FixedLength(response_length=12, n_steps=n_steps, n_revisited=2).sample(predictor, PROMPT)
    plain = FixedLength(response_length=12, n_steps=n_steps).sample(predictor, PROMPT)
    assert not (out.tokens == MASK).any() and out.nfe.tolist() == [n_steps] == plain.nfe.tolist()
    # Every step but the last takes two back, if there are two; all of them are revealed a second time.
    per_step = 12 // n_steps
    n_taken = sum(min(2, per_step * step) for step in range(1, n_steps))
    assert [r["token"] is None for r in out.trace].count(True) == n_taken and len(out.trace) == 12 + 2 * n_taken
    last = {r["position"]: r["token"] for r in out.trace}
    assert [last[i] for i in range(12)] == out.tokens[0, 3:].tolist()


def test_more_than_there_is_can_be_asked_to_be_revisited():
    out = FixedLength(response_length=6, n_steps=3, n_revisited=99).sample(small_predictor(), PROMPT)
    assert not (out.tokens == MASK).any()


def test_revisiting_mends_a_mistake():
    """At its first look the predictor is wrong about one position, and not very sure of it; later it knows."""

    class Learning(Scripted):
        def __call__(self, x, is_valid=None):
            logits = super().__call__(x, is_valid)
            if self.n_calls == 1:
                logits[:, 3] = 0.0
                logits[:, 3, 22] = 2.0
            return logits

    text = [0, 9, 10, 11, 12, 13, 14]
    wrong = FixedLength(response_length=4, n_steps=2, remasking="left_to_right").sample(Learning(text), PROMPT)
    assert wrong.tokens[0, 3] == 22
    mended = FixedLength(response_length=4, n_steps=1).sample(Learning(text), PROMPT)
    assert mended.tokens[0, 3] == 22
    mended = FixedLength(response_length=4, n_steps=4, n_revisited=1).sample(Learning(text), PROMPT)
    assert mended.tokens[0].tolist() == text


def test_cut_draws_come_from_the_likeliest_tokens_in_proportion():
    p = torch.tensor([0.4, 0.3, 0.2, 0.1])
    logits = p.log().expand(20_000, 4)
    for settings, kept in (({}, 4), ({"top_k": 2}, 2), ({"top_p": 0.7}, 2), ({"top_p": 0.75}, 3), ({"top_p": 0.1}, 1)):
        found = torch.bincount(draw(logits, 1.0, noise_of(20_000), **settings), minlength=4) / 20_000
        expected = torch.cat((p[:kept] / p[:kept].sum(), torch.zeros(4 - kept)))
        assert torch.allclose(found, expected, atol=0.015), settings


@pytest.mark.parametrize("k", [1, 2, 3])
def test_top_k_keeps_k_tokens_where_several_are_equally_likely(k):
    logits = torch.tensor([1.0, 2.0, 2.0, 2.0, 0.0]).expand(3000, 5)
    assert draw(logits, 1.0, noise_of(3000), top_k=k).unique().tolist() == [1, 2, 3][:k]


def test_top_k_draws_what_it_always_drew_where_all_are_different():
    logits = torch.randn(500, 30, generator=torch.Generator().manual_seed(0))
    noise = noise_of(500)(30)
    for k in (1, 4, 29, 30):
        scaled = logits.double() / 0.7
        kept = scaled.masked_fill(scaled < scaled.topk(k, dim=1).values[:, -1:], -torch.inf)
        expected = (kept - torch.log(-torch.log(noise))).argmax(1)
        assert torch.equal(draw(logits, 0.7, noise_of(500), top_k=k), expected)


def test_the_canvas_can_be_watched():
    seen = []
    FixedLength(response_length=4, n_steps=2).sample(
        Scripted([0, 9, 10, 11, 12, 13, 14]), PROMPT, on_step=lambda canvas: seen.append(canvas.x[0, 3:].tolist())
    )
    assert seen == [[11, 12, MASK, MASK], [11, 12, 13, 14]]


@pytest.mark.parametrize("settings", [{}, {"transfer": Threshold(threshold=0.5)}, {"n_steps": 3, "n_revisited": 1}])
def test_the_canvas_tells_how_sure_each_token_was_when_it_was_revealed(settings):
    """As the trace does, whatever decides how many are revealed; 0 where none was."""
    seen = []
    sampler = FixedLength(response_length=6, block_length=6, **settings)
    out = sampler.sample(small_predictor(), PROMPT, on_step=lambda canvas: seen.append(canvas.confidence[0].clone()))
    told = {record["position"]: record["confidence"] for record in out.trace if record["token"] is not None}
    assert seen[-1].tolist() == [0.0] * 3 + [pytest.approx(told[i]) for i in range(6)]
    assert len(seen) == 1 or not settings.get("n_steps", 6) or 0.0 in seen[0][3:]


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 1.0}, {"remasking": "random"}, {"transfer": Threshold(threshold=0.9)}]
)
def test_logits_that_are_no_numbers_are_refused(settings):
    """NaN is the largest of all to argmax: without a word it would be written as the first token."""
    predictor = small_predictor()
    with torch.no_grad():
        predictor.norm.weight[0] = torch.nan
    for sampler in (VariableLength(max_length=8, block_length=4, **settings), Infill(**settings)):
        prompt = torch.tensor([[0, 7, 5]] if isinstance(sampler, Infill) else [[0, 7]])
        with pytest.raises(ValueError, match="logits = NaN; what the predictor says at a mask is no distribution"):
            sampler.sample(predictor, prompt, generator=torch.Generator().manual_seed(0))


def test_guidance_by_what_is_no_number_is_refused():
    """What the model says of the prompt alone would be taken for what it says under guidance."""
    predictor = small_predictor()

    class Blind(Scripted):
        def __call__(self, x, is_valid=None):
            logits = predictor(x, is_valid)
            logits[(x[:, 0] == self.tokens.mask)] = torch.nan
            return logits

    for sampler in (FixedLength(response_length=4), VariableLength(max_length=8, block_length=4)):
        sampler.sample(Blind([0]), torch.tensor([[0, 7]]))
        with pytest.raises(ValueError, match="logits = NaN; what the predictor says at a mask is no distribution"):
            replace(sampler, guidance_scale=1.0).sample(Blind([0]), torch.tensor([[0, 7]]))


def test_masks_in_padding_are_not_filled_and_do_not_count():
    predictor = small_predictor()
    text, is_valid = torch.tensor([[0, 20, 5, 8, 5, 5]]), torch.tensor([[True] * 4 + [False] * 2])
    out = Infill().sample(predictor, text, is_valid)
    assert out.tokens[0, 4:].tolist() == [5, 5] and len(out.trace) == 1 and out.nfe.tolist() == [1]
    assert out.responses == Infill().sample(predictor, text[:, :4]).responses
    with pytest.raises(ValueError, match="a row without"):
        Infill().sample(predictor, torch.tensor([[0, 20, 5]]), torch.tensor([[True, True, False]]))
    assert Infill().sample(predictor, text[:0]).responses == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stop_ids": [-1]}, r"stop_ids = \[-1\]; -1 is not in the vocabulary; 0 to 23"),
        ({"end_of_thinking": EndOfThinking(sequence=[9999])}, "sequence = .*9999 is not in the vocabulary; 0 to 23"),
        ({"end_of_thinking": EndOfThinking(sequence=[-3])}, "sequence = .*-3 is not in the vocabulary; 0 to 23"),
        ({"stop_strings": "Question"}, r"stop_strings = 'Question'; a text, not several; \['Question'\]"),
    ],
)
def test_ids_and_strings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        VariableLength(max_length=8, block_length=4, **settings).sample(small_predictor(), torch.tensor([[0, 7]]))
