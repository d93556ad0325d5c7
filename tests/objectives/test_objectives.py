import math
import re
from dataclasses import replace

import pytest
import torch

from illada_lab.diffusion import (
    AntitheticTimes,
    CosineSchedule,
    LinearSchedule,
    RowRandom,
    StratifiedTimes,
    UniformTimes,
)
from illada_lab.objectives import Autoregressive, Pretrain, RandomCut, RandomLength, ResponseOnly, cross_entropy_at
from illada_lab.objectives.autoregressive import shift_right
from illada_lab.objectives.corruption import corrupt
from illada_lab.tokens import ILLADA
from tests.small import UniformPredictor, random_batch, small_predictor


def test_the_same_rows_give_the_same_loss_in_any_batch():
    """Masks belong to samples: two half batches give what the whole gives."""
    predictor, batch = small_predictor(), random_batch(n_rows=8)
    objective = Pretrain(shorten=RandomCut(probability=0.5))
    whole = objective(predictor, batch, RowRandom(1, batch.index)).value
    halves = []
    for rows in (slice(0, 4), slice(4, 8)):
        half = type(batch)(**{k: v[rows] for k, v in vars(batch).items()})
        halves.append(objective(predictor, half, RowRandom(1, half.index)).value)
    torch.testing.assert_close(whole, torch.stack(halves).mean())


@torch.no_grad()
def test_the_loss_of_a_cut_row_by_hand():
    """Each piece has its own t, sees itself alone, and weighs 1 / t; the sum is over all tokens."""
    predictor, batch = small_predictor(), random_batch(n_rows=1)
    batch.segment_ids[:] = 1
    is_first = torch.arange(16) < 6
    objective = Pretrain(
        shorten=lambda segment_ids, random: torch.where(is_first, 1, 2)[None],
        times=lambda random, n: torch.tensor([[1.0, 0.5]], dtype=torch.float64)[:, :n],
    )
    found = objective(predictor, batch, RowRandom(0, batch.index)).value
    t = torch.where(is_first, 1.0, 0.5)
    is_masked = RowRandom(0, batch.index).uniform(16) < t
    x = torch.where(is_masked, predictor.tokens.mask, batch.tokens)
    log_p = torch.cat((predictor(x[:, :6]), predictor(x[:, 6:])), 1).log_softmax(-1)
    log_p = log_p.gather(-1, batch.tokens[..., None])[..., 0]
    assert float(found) == pytest.approx(float(-(log_p / t)[is_masked].sum() / 16), rel=1e-5)


def test_bos_and_padding_are_not_in_the_denominator():
    """Where everything that can be masked is, an ignorant predictor has the logarithm of the vocabulary per token."""
    batch = random_batch()
    batch.tokens[:, [0, 8]] = ILLADA.anchor
    objective = Pretrain(times=lambda random, n: torch.ones(4, n, dtype=torch.float64))
    loss = objective(UniformPredictor(24), batch, RowRandom(0, batch.index))
    assert float(loss.value) == pytest.approx(math.log(24), rel=1e-6) and loss.n_tokens == 4 * 12


def test_the_twin_can_learn_responses_alone():
    batch = random_batch()
    loss = Autoregressive(is_response_only=True)(small_predictor(is_causal=True), batch, RowRandom(0, batch.index))
    assert loss.n_predicted == int((batch.is_valid & ~batch.is_prompt).sum())


def test_where_a_row_is_cut_has_nothing_to_do_with_whether():
    segment_ids = torch.ones(200, 16, dtype=torch.long)
    lengths = (RandomCut(probability=0.3)(segment_ids, RowRandom(0, torch.arange(200))) == 1).sum(1)
    # Of about 60 cuts half lie behind the middle.
    assert ((lengths > 8) & (lengths < 16)).sum() > 10


@pytest.mark.parametrize("times", [UniformTimes(), StratifiedTimes(), AntitheticTimes()])
def test_masks_of_a_row_do_not_depend_on_its_neighbours(times):
    """Nor on how many segments they have."""
    index, x0 = torch.arange(4), torch.full((4, 12), 9)
    segment_ids = torch.ones_like(x0)
    segment_ids[2] = torch.arange(12) // 2 + 1
    masks = [
        corrupt(
            x0[rows],
            segment_ids[rows],
            torch.ones_like(x0[rows], dtype=torch.bool),
            mask=5,
            schedule=LinearSchedule(),
            times=times,
            random=RowRandom(0, index[rows]),
        ).is_masked
        for rows in (slice(0, 4), slice(0, 2), slice(2, 4))
    ]
    assert torch.equal(masks[0], torch.cat(masks[1:]))


@pytest.mark.parametrize("times", [UniformTimes(), StratifiedTimes(), AntitheticTimes()])
def test_what_a_row_draws_does_not_depend_on_the_longest_of_its_batch(times):
    """One example per row: the batch is as long as its longest."""

    def drawn(length):
        x0 = torch.full((4, length), 9)
        return corrupt(
            x0,
            torch.ones_like(x0),
            torch.ones_like(x0, dtype=torch.bool),
            mask=5,
            schedule=LinearSchedule(),
            times=times,
            random=RowRandom(0, torch.arange(4)),
        )

    short, long = drawn(10), drawn(13)
    assert torch.equal(short.is_masked, long.is_masked[:, :10]) and torch.equal(short.weight, long.weight[:, :10])


def test_random_cut_adds_one_boundary_and_loses_nothing():
    ids = random_batch(n_rows=400).segment_ids
    cut = RandomCut(probability=0.3)(ids, RowRandom(0, torch.arange(400)))
    torch.testing.assert_close(cut > 0, ids > 0)
    added = (cut.diff() > 0).sum(1) - (ids.diff() > 0).sum(1)
    is_cut = (cut != ids).any(1)
    # A cut exactly at an existing boundary shifts ids but adds no boundary.
    assert set(added.tolist()) <= {0, 1}
    assert abs(is_cut.double().mean() - 0.3) < 0.07


def test_random_cut_leaves_two_pieces_of_a_whole_row():
    ids = torch.ones(200, 16, dtype=torch.long)
    cut = RandomCut(probability=1.0)(ids, RowRandom(0, torch.arange(200)))
    lengths = (cut == 1).sum(1)
    assert lengths.min() >= 1 and lengths.max() <= 15 and len(lengths.unique()) > 10


def test_random_length_cuts_rows_short():
    ids = torch.ones(2000, 16, dtype=torch.long)
    short = RandomLength(probability=0.5)(ids, RowRandom(0, torch.arange(2000)))
    lengths = (short > 0).sum(1)
    assert abs((lengths < 16).double().mean() - 0.5 * 15 / 16) < 0.04
    assert lengths.min() == 1


def test_random_length_goes_by_the_width_as_in_the_recorded_results():
    """8 tokens among 16 positions: half of the draws lie behind them."""
    ids = torch.zeros(2000, 16, dtype=torch.long)
    ids[:, :8] = 1
    short = RandomLength(probability=1.0)(ids, RowRandom(0, torch.arange(2000)))
    assert abs(((short > 0).sum(1) < 8).double().mean() - 7 / 16) < 0.04


def test_response_only_never_masks_the_prompt_and_divides_by_the_response(monkeypatch):
    from illada_lab.objectives import sft_response_only

    predictor, batch = small_predictor(), random_batch()
    seen = []

    def spy(predictor, x, targets, is_wanted, segment_ids):
        seen.append((x, is_wanted))
        return torch.full((int(is_wanted.sum()),), math.log(2.0))

    monkeypatch.setattr(sft_response_only, "cross_entropy_at", spy)
    batch.is_prompt[0, :7] = True  # one response shorter than the others
    objective = ResponseOnly(times=lambda random, n: torch.full((4, n), 0.5, dtype=torch.float64))
    loss = objective(predictor, batch, RowRandom(0, batch.index))
    x, is_wanted = seen[0]
    assert not (is_wanted & batch.is_prompt).any()
    torch.testing.assert_close(x[batch.is_prompt], batch.tokens[batch.is_prompt])
    assert (x[is_wanted] == predictor.tokens.mask).all()
    n_response = (batch.is_valid & ~batch.is_prompt).sum(1)
    assert len(n_response.unique()) > 1 and loss.weight == len(n_response) and 0 < is_wanted.sum() < n_response.sum()
    # 1/t = 2 for each mask; each row over its own length, then the mean of the rows.
    rows = 2 * math.log(2.0) * is_wanted.sum(1) / n_response
    assert float(loss.value) == pytest.approx(float(rows.mean()))
    assert float(loss.value) != pytest.approx(float(2 * math.log(2.0) * is_wanted.sum() / n_response.sum()), rel=1e-3)


def test_response_only_refuses_a_row_without_response():
    batch = random_batch()
    batch.is_prompt[2] = True
    with pytest.raises(ValueError, match="sample = 2"):
        ResponseOnly()(small_predictor(), batch, RowRandom(0, batch.index))


def test_shift_right_starts_every_segment_with_bos():
    ids = torch.tensor([[1, 1, 1, 2, 2, 0]])
    x = torch.tensor([[10, 11, 12, 13, 14, 1]])
    assert shift_right(x, ids, bos=0).tolist() == [[0, 10, 11, 0, 13, 0]]


@torch.no_grad()
def test_autoregressive_loss_is_the_chain_rule():
    twin, batch = small_predictor(is_causal=True), random_batch(n_rows=1)
    loss = Autoregressive()(twin, batch, RowRandom(0, batch.index))
    total, n = 0.0, 0
    for segment in (1, 2):
        tokens = batch.tokens[batch.segment_ids == segment]
        for i in range(len(tokens)):
            inputs = torch.cat((torch.tensor([0]), tokens[:i]))
            total -= float(twin(inputs[None])[0, -1].log_softmax(-1)[tokens[i]])
            n += 1
    assert float(loss.value) == pytest.approx(total / n, rel=1e-5)


@torch.no_grad()
def test_masked_inputs_are_hidden_and_still_predicted():
    """The same draws by hand; BOS, and with it the first token of each segment, is always seen."""
    twin, batch = small_predictor(is_causal=True), random_batch(n_rows=3)
    loss = Autoregressive(input_mask_probability=0.4)(twin, batch, RowRandom(2, batch.index))
    clean = shift_right(batch.tokens, batch.segment_ids, twin.tokens.bos)
    hidden = (RowRandom(2, batch.index).uniform(clean.shape[1]) < 0.4) & (clean != twin.tokens.bos)
    assert 0.2 < float(hidden.double().mean()) < 0.6
    inputs = torch.where(hidden, twin.tokens.mask, clean)
    ce = cross_entropy_at(twin, inputs, batch.tokens, batch.is_valid, batch.segment_ids)
    assert float(loss.value) == pytest.approx(float(ce.mean()), rel=1e-6) and loss.n_predicted == int(
        batch.is_valid.sum()
    )
    assert float(Autoregressive()(twin, batch, RowRandom(2, batch.index)).value) != pytest.approx(float(loss.value))


def test_autoregressive_refuses_a_share_of_inputs_out_of_range():
    with pytest.raises(
        ValueError, match="input_mask_probability = 1.0; the share of the inputs that is hidden; 0 to below 1"
    ):
        Autoregressive(input_mask_probability=1.0)


def test_autoregressive_refuses_a_model_that_sees_its_targets():
    batch = random_batch()
    with pytest.raises(ValueError, match="is_causal"):
        Autoregressive()(small_predictor(), batch, RowRandom(0, batch.index))


def test_no_masked_position_gives_zero_loss_and_no_gradient():
    predictor, batch = small_predictor(), random_batch()
    objective = Pretrain(times=lambda random, n: torch.full((4, n), 1e-12, dtype=torch.float64))
    loss = objective(predictor, batch, RowRandom(0, batch.index))
    loss.value.backward()
    assert float(loss.value.detach()) == 0
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in predictor.parameters())


def overfit(has_bos: bool, n_steps: int = 240) -> list[float]:
    """Losses of fitting one row of two segments, with or without BOS at their heads."""
    predictor, batch = small_predictor(init_std=0.02).train(), random_batch(n_rows=1)
    if has_bos:
        batch.tokens[:, [0, 8]] = predictor.tokens.bos
    optimizer = torch.optim.AdamW(predictor.parameters(), lr=3e-3)
    losses = []
    for step in range(n_steps):
        loss = Pretrain()(predictor, batch, RowRandom(0, batch.index + 64 * step))
        loss.value.backward()
        torch.nn.utils.clip_grad_norm_(predictor.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.value.detach()))
    return losses


def test_pretraining_overfits_a_row_that_has_an_anchor():
    losses = overfit(has_bos=True)
    assert sum(losses[:10]) / 10 > 2.0  # near log 24 = 3.18 at the start
    assert sum(losses[-30:]) / 30 < 0.15


def test_without_an_anchor_a_short_row_cannot_be_learnt():
    """Why BOS is never masked: where all is masked every position sees the same, so the loss keeps a floor."""
    losses = overfit(has_bos=False)
    assert sum(losses[-60:]) / 60 > 1.0


def test_a_bos_that_is_eos_as_well_is_learnt():
    """GPT-2's tokenizer has one token for both: kept out like a BOS, no model would ever learn to end."""
    tokens = replace(small_predictor().tokens, bos=3, eos=3)
    batch, ones = random_batch(), lambda random, n: torch.ones(4, n, dtype=torch.float64)
    batch.tokens[:, 7] = 3
    for predictor, objective in (
        (small_predictor(), Pretrain(times=ones)),
        (small_predictor(is_causal=True), Autoregressive()),
    ):
        predictor.tokens = tokens
        with_end = objective(predictor, batch, RowRandom(0, batch.index)).n_predicted
        assert with_end == int(batch.is_valid.sum())


def test_bos_is_not_masked_and_not_counted():
    predictor, batch = small_predictor(), random_batch()
    batch.tokens[:, [0, 8]] = predictor.tokens.bos
    ones = lambda random, n: torch.ones(4, n, dtype=torch.float64)  # noqa: E731
    kept = Pretrain(times=ones)(predictor, batch, RowRandom(0, batch.index))
    masked = Pretrain(times=ones, is_bos_maskable=True)(predictor, batch, RowRandom(0, batch.index))
    assert masked.n_tokens - kept.n_tokens == masked.n_predicted - kept.n_predicted == 8


class Halves:
    """Times of one's own, which are not uniform."""

    def __call__(self, random, n_segments):
        return torch.full((len(random.index), n_segments), 0.5, dtype=torch.float64)


@pytest.mark.parametrize(
    ("objective", "meaning"),
    [
        (Pretrain(), "a bound on -log p, nats per token"),
        (Pretrain(schedule=CosineSchedule(), times=UniformTimes()), "a bound on -log p, nats per token"),
        (
            Pretrain(schedule=LinearSchedule(min_probability=0.001)),
            "a bound on -log p without its share of t below 0.001, nats",
        ),
        (Pretrain(times=Halves()), "a bound on -log p if Halves draws every t uniformly, nats"),
        (ResponseOnly(), "a bound on -log p of each response, nats per token of it .*, as a mean over rows"),
        (Autoregressive(), "-log p, exact, nats per token"),
        (
            Autoregressive(input_mask_probability=0.1),
            "-log p with 10% of what is read hidden, .* above that of clean texts",
        ),
    ],
)
def test_an_objective_says_what_its_loss_is(objective, meaning):
    assert re.match(meaning, objective.meaning)
