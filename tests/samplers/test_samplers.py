import math

import hypothesis.strategies as st
import jaxtyping
import pytest
import torch
from hypothesis import given, settings

from illada_lab.samplers import EndOfThinking, EntropyBound, FixedLength, Infill, Threshold, VariableLength
from illada_lab.samplers.canvas import _tensor
from illada_lab.samplers.draw import draw
from illada_lab.samplers.room import write_by_room
from illada_lab.samplers.trace import trace_of
from illada_lab.samplers.transfer import most_confident, transfer_counts
from illada_lab.tokens import ILLADA
from tests.scripted import Scripted
from tests.small import noise_of, small_predictor

PROMPT = torch.tensor([[0, 9, 10]])
MASK = ILLADA.mask


def test_fixed_length_says_what_the_predictor_wants_at_the_expected_cost():
    text = [0, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18]
    predictor = Scripted(text)
    out = FixedLength(response_length=8, n_steps=4, block_length=4).sample(predictor, PROMPT)
    assert out.tokens[0].tolist() == text
    assert out.nfe.tolist() == [4] and predictor.n_calls == 4
    assert out.token_forwards.tolist() == [4 * 11]
    assert predictor.n_masks_seen == [8, 6, 4, 2]


def test_reveals_the_surest_first_but_stays_inside_the_block():
    order = [8, 7, 6, 5, 4, 3]  # surest at the end of the canvas
    out = FixedLength(response_length=6, n_steps=6, block_length=3).sample(
        Scripted([0, 9, 10, 11, 12, 13, 14, 15, 16], order), PROMPT
    )
    assert [record["position"] for record in out.trace] == [2, 1, 0, 5, 4, 3]
    one_block = FixedLength(response_length=6, n_steps=6).sample(
        Scripted([0, 9, 10, 11, 12, 13, 14, 15, 16], order), PROMPT
    )
    assert [record["position"] for record in one_block.trace] == [5, 4, 3, 2, 1, 0]


def test_quota_gives_the_remainder_to_the_first_steps():
    assert transfer_counts(torch.tensor([10, 7, 2]), 4).tolist() == [[3, 3, 2, 2], [2, 2, 2, 1], [1, 1, 0, 0]]


def test_most_confident_takes_so_many_of_each_row_and_never_what_is_not_eligible():
    confidence = torch.tensor(
        [[0.5, 0.9, 0.8, -torch.inf], [-torch.inf, 0.1, -torch.inf, -torch.inf], [0.1, 0.2, 0.3, 0.4]]
    )
    chosen = most_confident(confidence, torch.tensor([2, 3, 0]))
    assert chosen.tolist() == [[False, True, True, False], [False, True, False, False], [False] * 4]


def test_variable_length_stops_at_eos_and_shows_no_masks_behind_the_block():
    text = [0, 9, 10, 11, 12, 13, 14, 2, 15, 16, 17, 18, 19, 20, 21]
    predictor = Scripted(text)
    out = VariableLength(max_length=12, block_length=4).sample(predictor, PROMPT)
    assert out.responses == [[11, 12, 13, 14]] and out.stop_reasons == ["eos"]
    assert out.nfe.tolist() == [8]
    assert predictor.n_masks_seen == [4, 3, 2, 1, 4, 3, 2, 1]
    assert out.tokens[0].tolist() == [*text[:8], *[ILLADA.pad] * 3]


def test_variable_length_rounds_the_budget_down_and_reports_length():
    out = VariableLength(max_length=11, block_length=4).sample(Scripted([0, 9, 10, *range(11, 22)]), PROMPT)
    assert len(out.responses[0]) == 8 and out.stop_reasons == ["length"]


def test_variable_length_stops_at_a_sequence():
    out = VariableLength(max_length=8, block_length=4, stop_sequences=[[12, 13]]).sample(
        Scripted([0, 9, 10, *range(11, 22)]), PROMPT
    )
    assert out.responses == [[11]] and out.nfe.tolist() == [4]
    # Of the sequence nothing stays, of which the trace tells all the same.
    assert out.tokens.tolist() == [[0, 9, 10, 11, *[ILLADA.pad] * 3]] and len(out.trace) == 4


@torch.no_grad()
@pytest.mark.parametrize(
    "sampler",
    [
        FixedLength(response_length=12, n_steps=6, block_length=6),
        FixedLength(response_length=12, n_steps=12, guidance_scale=1.0),
        VariableLength(max_length=16, block_length=4, steps_per_block=2, stop_ids=(9, 3)),
        VariableLength(max_length=16, block_length=4, stop_ids=(9, 3), cache="dual"),
        VariableLength(max_length=16, block_length=4, stop_ids=(9, 3), cache="prefix", refresh_every=2),
        VariableLength(max_length=16, block_length=4, stop_ids=(9, 3), temperature=1.0, remasking="random"),
        FixedLength(response_length=12, block_length=4, temperature=0.7, top_k=5, transfer=Threshold(threshold=0.3)),
    ],
)
def test_every_row_of_a_ragged_batch_equals_its_solo_run(sampler):
    """Also where tokens are drawn: each row has a generator of its own."""
    predictor = small_predictor()
    prompts = [[0, 8], [0, 8, 9, 10, 11], [0, 12, 13]]

    def own(row):
        return torch.Generator().manual_seed(10 + row)

    solo = [sampler.sample(predictor, torch.tensor([p]), generator=own(i)) for i, p in enumerate(prompts)]
    x, is_valid = torch.ones(3, 5, dtype=torch.long), torch.zeros(3, 5, dtype=torch.bool)
    for i, p in enumerate(prompts):
        x[i, 5 - len(p) :], is_valid[i, 5 - len(p) :] = torch.tensor(p), True
    together = sampler.sample(predictor, x, is_valid, generator=[own(i) for i in range(3)])
    assert together.responses == [s.responses[0] for s in solo]
    assert together.nfe.tolist() == [int(s.nfe) for s in solo]
    assert together.stop_reasons == [s.stop_reasons[0] for s in solo]


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_whatever_the_setting_masks_only_fall_and_none_is_left(data):
    n_blocks = data.draw(st.integers(1, 3))
    block_length = data.draw(st.integers(1, 5))
    steps = data.draw(st.integers(1, block_length))
    remasking = data.draw(st.sampled_from(["low_confidence", "random"]))
    temperature = data.draw(st.sampled_from([0.0, 1.0]))
    sampler = FixedLength(
        response_length=n_blocks * block_length,
        n_steps=n_blocks * steps,
        block_length=block_length,
        remasking=remasking,
        temperature=temperature,
    )
    prompt = torch.tensor([[0, 9, 10], [0, 11, 12]])
    out = sampler.sample(small_predictor(), prompt, generator=torch.Generator().manual_seed(0))
    assert not (out.tokens == ILLADA.mask).any()
    torch.testing.assert_close(out.tokens[:, :3], prompt)
    assert out.nfe.tolist() == [n_blocks * steps] * 2
    for row in range(2):
        steps_of_row = [r["step"] for r in out.trace if r["row"] == row]
        assert steps_of_row == sorted(steps_of_row) and len(steps_of_row) == n_blocks * block_length


@torch.no_grad()
def test_the_fast_head_changes_nothing():
    predictor = small_predictor()

    class Slow:
        tokens = predictor.tokens

        def __call__(self, x, is_valid=None):
            return predictor(x, is_valid)

    sampler = FixedLength(response_length=12, n_steps=12, block_length=4)
    assert torch.equal(sampler.sample(predictor, PROMPT).tokens, sampler.sample(Slow(), PROMPT).tokens)


@torch.no_grad()
def test_guidance_follows_the_published_convention():
    predictor = small_predictor()
    scale = 1.5
    out = FixedLength(response_length=1, n_steps=1, guidance_scale=scale).sample(predictor, PROMPT)
    x = torch.cat((PROMPT, torch.tensor([[5]])), 1)
    cond, uncond = predictor(x)[0, -1], predictor(torch.full_like(x, 5))[0, -1]
    logits = uncond + (1 + scale) * (cond - uncond)
    logits[5] = -torch.inf
    assert int(out.tokens[0, -1]) == int(logits.argmax()) and out.nfe.tolist() == [2]


@pytest.mark.parametrize("remasking", ["low_confidence", "margin", "entropy", "left_to_right", "random"])
def test_deferred_ends_are_revealed_last(remasking):
    text = [0, 9, 10, 2, 2, 11, 12]
    sampler = FixedLength(response_length=4, n_steps=4, defer_eos=True, remasking=remasking)
    positions = [step["position"] for step in sampler.sample(Scripted(text, [3, 4, 5, 6]), PROMPT).trace]
    first = sorted(positions[:2]) if remasking == "random" else positions[:2]
    assert first == [2, 3] and set(positions[2:]) == {0, 1}


def test_banned_ends_do_not_come():
    text = [0, 9, 10, 2, 2, 11, 12]
    order = [3, 4, 5, 6]
    banned = FixedLength(response_length=4, n_steps=4, ban_eos=True).sample(Scripted(text, order), PROMPT)
    assert 2 not in banned.tokens[0, 3:].tolist() and banned.stop_reasons == ["length"]


def test_temperature_draws_follow_the_distribution():
    logits = torch.tensor([[0.0, 1.0, 2.0]]).expand(20_000, 3)
    drawn = draw(logits, 1.0, noise_of(20_000))
    share = torch.bincount(drawn, minlength=3) / 20_000
    # The standard error of a share is at most 0.0035.
    torch.testing.assert_close(share, logits[0].softmax(0), atol=0.014, rtol=0)


def test_seeds_make_draws_repeatable():
    sampler = FixedLength(response_length=8, n_steps=8, remasking="random", temperature=1.0)
    one, two, other = (
        sampler.sample(small_predictor(), PROMPT, generator=torch.Generator().manual_seed(seed)).tokens
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_trace_tells_every_token_once():
    out = FixedLength(response_length=6, n_steps=3).sample(small_predictor(), torch.tensor([[0, 9], [0, 10]]))
    for row in range(2):
        mine = {r["position"]: r for r in out.trace if r["row"] == row}
        assert sorted(mine) == list(range(6))
        assert [mine[i]["token"] for i in range(6)] == out.tokens[row, 2:].tolist()
        assert all(
            0 < r["runner_up_confidence"] <= r["confidence"] <= 1 and r["runner_up"] != r["token"]
            for r in mine.values()
        )


@pytest.fixture
def has_no_shape_checks(monkeypatch):
    """As a user runs it: the checks of shapes, which are on in tests only, would see a wrong type first."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FixedLength(response_length=8, n_steps=8, block_length=3), r"block_length = 3.*nearest: \[2, 4"),
        (lambda: FixedLength(response_length=8, n_steps=3, block_length=4), "n_steps = 3.*nearest: 4"),
        (lambda: FixedLength(response_length=8, n_steps=16), "n_steps = 16.*nearest: 8"),
        (
            lambda: FixedLength(response_length=8, n_steps=8, remasking="low_confidense"),
            "'low_confidense'.*low_confidence",
        ),
        (lambda: FixedLength(response_length=8, n_steps=8, temperature=-1.0), "temperature = -1.0"),
        (lambda: FixedLength(response_length=8, temperature=math.nan), "temperature = nan; must be finite"),
        (lambda: FixedLength(response_length=8, temperature=math.inf), "temperature = inf; must be finite"),
        (lambda: VariableLength(max_length=8, block_length=4, guidance_scale=math.inf), "guidance_scale = inf"),
        (lambda: FixedLength(response_length=0), "response_length = 0; tokens; 1 or more"),
        (lambda: FixedLength(response_length=8, block_length=0), "block_length = 0.*nearest"),
        (lambda: EntropyBound(bound=math.nan), "bound = nan"),
        (lambda: VariableLength(max_length=3, block_length=4), "max_length = 3; less than one block of 4; 4 or more"),
        (lambda: VariableLength(max_length=8, block_length=0), "^block_length = 0; tokens per block; 1 or more"),
        (lambda: VariableLength(max_length=8, block_length=4, steps_per_block=5), "steps_per_block = 5.*1 to 4"),
        (
            lambda: FixedLength(response_length=8, n_steps=1, n_revisited=2),
            "n_revisited = 2; has no effect with one step",
        ),
        (lambda: FixedLength(response_length=4, block_length=1, n_revisited=1), "n_revisited = 1; has no effect"),
        (lambda: VariableLength(max_length=8, block_length=4, steps_per_block=1, n_revisited=1), "n_revisited = 1"),
        (lambda: VariableLength(max_length=8, block_length=1, n_revisited=1), "n_revisited = 1; has no effect"),
        (lambda: Infill(n_steps=1, n_revisited=1), "n_revisited = 1; has no effect with one step"),
        (lambda: Infill(cache="dual"), "cache = dual; has no effect on infilling.*null"),
        (lambda: Infill(cache="prefix", refresh_every=1), "cache = prefix; has no effect on infilling"),
        # It would count the width of the batch and take the given text for a response.
        (
            lambda: Infill(end_of_thinking=EndOfThinking(sequence=[20])),
            "end_of_thinking; has no place in infilling.*null",
        ),
        (lambda: EndOfThinking(sequence=[20], amount=math.nan), "amount = nan, power = 3.0; 0 or more each; 100 and 3"),
        (lambda: EndOfThinking(sequence=[20], power=math.nan), "amount = 100.0, power = nan; 0 or more each"),
        (lambda: EndOfThinking(sequence=[20], amount=-1.0), "amount = -1.0, power = 3.0; 0 or more each"),
        (lambda: EndOfThinking(sequence=5), "end_of_thinking.sequence = 5; not token ids; the ids of </think>"),  # type: ignore[arg-type]
        (
            lambda: EndOfThinking(sequence="</think>"),  # type: ignore[arg-type]
            "end_of_thinking.sequence = '</think>'; not token ids; the ids of",
        ),
        (lambda: EndOfThinking(sequence=[]), r"end_of_thinking.sequence = \[\]; nothing to say"),
    ],
)
def test_bad_settings_are_named(has_no_shape_checks, make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("prompt", "is_valid", "message"),
    [
        (torch.empty(1, 0, dtype=torch.long), None, "prompt = shape"),
        (torch.tensor([[0, 5, 9]]), None, r"prompt\[0, 1\] = 5.*MASK"),
        (torch.full((1, 60), 9), None, "60 [+] 8 tokens.*at most 64"),
        (torch.tensor([[0, 9, 1]]), torch.tensor([[True, True, False]]), "left-pad"),
        (torch.tensor([[0, 9, 1]], dtype=torch.int32), None, "tokens = torch.int32; ids are whole numbers of 64 bits"),
        (torch.tensor([[0, 9, 64]]), None, "token = 64; not in the vocabulary; 0 to"),
        (torch.tensor([[0, -9, 9]]), None, "token = -9; not in the vocabulary"),
    ],
)
def test_bad_prompts_are_named(prompt, is_valid, message):
    with pytest.raises(ValueError, match=message):
        FixedLength(response_length=8, n_steps=8).sample(small_predictor(), prompt, is_valid)


@pytest.mark.parametrize(
    ("sampler", "prompt"),
    [
        (FixedLength(response_length=4), [[9, 0, 9]]),
        (VariableLength(max_length=4, block_length=4), [[9, 0, 9]]),
        (VariableLength(max_length=64, block_length=4), [[9, 0, 9]]),  # where a row's own prompt cuts its budget
        (Infill(), [[9, 0, MASK]]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_flags_of_another_type_are_named(has_no_shape_checks, sampler, prompt, dtype):
    """Hugging Face's tokenizers return int64."""
    is_valid = torch.tensor([[0, 1, 1]], dtype=dtype)
    with pytest.raises(ValueError, match=f"^is_valid = {dtype}; flags; is_valid.bool..$"):
        sampler.sample(small_predictor(), torch.tensor(prompt), is_valid)


def test_an_autoregressive_model_is_not_asked_to_fill_in_masks():
    twin, prompt = small_predictor(is_causal=True), torch.tensor([[0, 9]])
    for sampler in (FixedLength(response_length=4), VariableLength(max_length=4, block_length=4)):
        with pytest.raises(ValueError, match="model.is_causal = true"):
            sampler.sample(twin, prompt)
    with pytest.raises(ValueError, match="model.is_causal = true"):
        Infill().sample(twin, torch.tensor([[0, MASK, 9]]))


def test_the_mask_id_may_stand_in_the_padding():
    predictor = small_predictor()
    sampler = FixedLength(response_length=4)
    is_valid = torch.tensor([[False, True, True]])
    one, other = (sampler.sample(predictor, torch.tensor([[pad, 0, 9]]), is_valid) for pad in (MASK, 1))
    assert one.responses == other.responses


@torch.no_grad()
def test_a_row_has_the_budget_that_its_own_prompt_leaves():
    """The context holds 64: a prompt of 31 beside it does not take room from one of 3."""
    predictor = small_predictor()
    sampler = VariableLength(max_length=56, block_length=8, steps_per_block=2, stop_ids=(), temperature=1.0)
    prompts = [[0, 9, 10], [0, *[11] * 30], [0, 12, 13, 14]]

    def own(row):
        return torch.Generator().manual_seed(row)

    solo = [sampler.sample(predictor, torch.tensor([p]), generator=own(i)) for i, p in enumerate(prompts)]
    assert [len(s.responses[0]) for s in solo] == [56, 32, 56]
    x, is_valid = torch.ones(3, 31, dtype=torch.long), torch.zeros(3, 31, dtype=torch.bool)
    for i, p in enumerate(prompts):
        x[i, 31 - len(p) :], is_valid[i, 31 - len(p) :] = torch.tensor(p), True
    together = sampler.sample(predictor, x, is_valid, generator=[own(i) for i in range(3)])
    assert together.responses == [s.responses[0] for s in solo]
    assert together.nfe.tolist() == [int(s.nfe) for s in solo]
    assert together.tokens.shape == (3, 31 + 56) and torch.equal(together.tokens[:, :31], x)
    for row, alone in enumerate(solo):
        told = {record["position"]: record["token"] for record in together.trace if record["row"] == row}
        assert [told[i] for i in range(len(told))] == alone.responses[0]
        assert together.tokens[row, 31 : 31 + len(told)].tolist() == alone.responses[0]
    steps = [record["step"] for record in together.trace]
    assert steps == sorted(steps) and max(steps) == together.n_steps


def test_padding_inside_a_prompt_is_refused_where_room_is_short_too():
    x, is_valid = torch.full((2, 40), 9), torch.ones(2, 40, dtype=torch.bool)
    is_valid[1, 20:30] = False
    with pytest.raises(ValueError, match="left-pad"):
        VariableLength(max_length=56, block_length=8).sample(small_predictor(), x, is_valid)


def test_a_prompt_without_room_is_refused_before_anything_is_written():
    """The longest prompt is written last: the others' passes would be for nothing."""
    predictor = small_predictor()

    class Counting:
        tokens, spec, n_passes = predictor.tokens, predictor.spec, 0

        def __call__(self, x, is_valid=None):
            self.n_passes += 1
            return predictor(x, is_valid)

    counting, lengths = Counting(), torch.tensor([3, 62])
    x, is_valid = torch.full((2, 62), 9), torch.arange(62)[None] >= 62 - lengths[:, None]
    with pytest.raises(ValueError, match=r"62 [+] 4 tokens; longer than the model's context; at most 64"):
        VariableLength(max_length=56, block_length=4).sample(counting, x, is_valid)
    assert counting.n_passes == 0
    VariableLength(max_length=56, block_length=4).sample(counting, x[:1], is_valid[:1])
    assert counting.n_passes


def test_an_empty_batch_has_no_responses_whatever_its_room():
    for sampler in (FixedLength(response_length=4), VariableLength(max_length=64, block_length=4)):
        for is_valid in (None, torch.ones(0, 4, dtype=torch.bool)):
            out = sampler.sample(small_predictor(), torch.zeros(0, 4, dtype=torch.long), is_valid)
            assert out.responses == [] and out.tokens.shape == (0, 8) and out.nfe.shape == (0,)


def test_the_budget_of_the_push_does_not_depend_on_others_in_the_batch():
    """Whole blocks, in every case: the paper rounds down."""
    budgets = []

    def write(rows, prompt, is_valid, budget):
        budgets.append(budget)
        raise KeyboardInterrupt

    predictor, short = small_predictor(), torch.zeros(1, 10, dtype=torch.long)
    alone = (short, None)
    beside = (torch.zeros(2, 40, dtype=torch.long), torch.arange(40)[None] >= torch.tensor([[30], [0]]))
    for prompt, is_valid in (alone, beside):
        for wanted in (30, 7):
            with pytest.raises(KeyboardInterrupt):
                write_by_room(write, predictor, prompt, is_valid, wanted=wanted, unit=8)
    assert budgets == [24, 8, 24, 8]


class RulesOut:
    """Gives everything but one token per position the logit -inf."""

    tokens = ILLADA

    def __init__(self, wanted):
        self.wanted = torch.tensor(wanted)

    def __call__(self, x, is_valid=None):
        logits = torch.full((*x.shape, 24), -torch.inf)
        return logits.scatter(2, self.wanted[: x.shape[1]].expand(len(x), -1)[..., None], 0.0)


@pytest.mark.parametrize("guidance_scale", [0.0, 1.0])
@pytest.mark.parametrize("transfer", [None, Threshold()])
def test_no_mask_is_left_where_a_predictor_rules_everything_out(transfer, guidance_scale):
    predictor, prompt = RulesOut([0, 9, 11, ILLADA.eos, 12, 13]), torch.tensor([[0, 9]])
    free = FixedLength(response_length=4, block_length=2, transfer=transfer, guidance_scale=guidance_scale)
    assert free.sample(predictor, prompt).tokens.tolist() == [[0, 9, 11, ILLADA.eos, 12, 13]]
    banned = FixedLength(
        response_length=4, block_length=2, transfer=transfer, guidance_scale=guidance_scale, ban_eos=True
    )
    out = banned.sample(predictor, prompt).tokens[0].tolist()
    assert MASK not in out and out[4:] == [12, 13] and out[2] == 11


HOLES = [[0, MASK, 10, MASK]]


@pytest.mark.parametrize(
    ("sampler", "rows"),
    [
        (FixedLength(response_length=8, n_steps=4), [[0, 9, 10], [0, 11, 12]]),
        (VariableLength(max_length=8, block_length=4), [[0, 9, 10], [0, 11, 12]]),
        (Infill(), HOLES),
    ],
)
def test_lists_of_ids_are_prompts_too(sampler, rows):
    predictor, flags = small_predictor(), [[True] * len(rows[0])] * len(rows)
    flags[0] = [False, *flags[0][1:]]
    for is_valid in (None, flags):
        tensor = None if is_valid is None else torch.tensor(is_valid)
        out = sampler.sample(predictor, rows, is_valid)
        assert torch.equal(out.tokens, sampler.sample(predictor, torch.tensor(rows), tensor).tokens)
        one, other = (
            trace_of(out, predictor, x, flags) for x, flags in ((rows, is_valid), (torch.tensor(rows), tensor))
        )
        assert (one.rows, one.records) == (other.rows, other.records)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[0, 9, 10], [0, 9]], "prompt = rows of 2 to 3 tokens; a batch has rows of one length; pad on the left"),
        ([[]], r"prompt = shape \[1, 0\]; needs at least one token per row"),
        ([], r"prompt = shape \[0\]; one list per row; \[\[id, id, ...\], ...\]"),
    ],
)
@pytest.mark.parametrize("sampler", [FixedLength(response_length=8), VariableLength(max_length=8, block_length=4)])
def test_lists_that_are_no_prompts_are_named(sampler, rows, message):
    with pytest.raises(ValueError, match=message) as caught:
        sampler.sample(small_predictor(), rows)
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_no_list_of_ids_is_named():
    with pytest.raises(ValueError, match="text = str; not token ids .*; ..id, id, ...., ...."):
        _tensor("ada ___ .", "text", None)
