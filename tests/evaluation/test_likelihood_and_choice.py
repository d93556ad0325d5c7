import math

import pytest
import torch

from illada_lab.evaluation import (
    ChoiceItem,
    any_order_log_likelihood,
    choose,
    confidence_score,
    confidence_scores,
    exact_log_likelihood,
    monte_carlo_log_likelihood,
    monte_carlo_log_likelihoods,
)
from illada_lab.evaluation.generation import is_right
from illada_lab.evaluation.intervals import wilson
from illada_lab.evaluation.likelihood import stratified_counts
from illada_lab.tokens import ILLADA
from tests.diffusion.test_nelbo import any_order_nelbo, enumerated_nelbo
from tests.small import UniformPredictor, small_predictor

NOTHING = torch.empty(0, dtype=torch.long)


@torch.no_grad()
def test_the_error_of_a_monte_carlo_estimate_falls_with_the_root_of_its_samples():
    predictor, prompt, response = small_predictor(), torch.tensor([8, 11]), torch.tensor([9, 12, 7, 20])
    generator = torch.Generator().manual_seed(0)
    few, many = (monte_carlo_log_likelihood(predictor, prompt, response, n, generator=generator)[1] for n in (64, 1024))
    assert 3 < few / many < 5


@torch.no_grad()
def test_exact_value_is_the_enumeration_and_the_any_order_value():
    predictor, response = small_predictor(), torch.tensor([9, 12, 7, 20])
    exact = exact_log_likelihood(predictor, NOTHING, response)
    assert exact == pytest.approx(-enumerated_nelbo(predictor, response), abs=1e-6)
    assert exact == pytest.approx(-any_order_nelbo(predictor, response), abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("guidance_scale", [0.0, 1.5])
def test_the_any_order_value_is_the_same_number(guidance_scale):
    generator = torch.Generator().manual_seed(1)
    for seed, length in enumerate((1, 2, 5, 6, 7)):
        predictor = small_predictor(seed=seed)
        prompt, response = (torch.randint(7, 24, (n,), generator=generator) for n in (3, length))
        exact = exact_log_likelihood(predictor, prompt, response, guidance_scale)
        assert any_order_log_likelihood(predictor, prompt, response, guidance_scale) == pytest.approx(exact, abs=1e-6)


def test_uniform_predictor_gives_exactly_minus_length_log_vocabulary():
    predictor, prompt, response = UniformPredictor(24), torch.tensor([0, 8]), torch.tensor([9, 12, 7, 20, 11])
    expected = -5 * math.log(24)
    assert exact_log_likelihood(predictor, prompt, response) == pytest.approx(expected, rel=1e-9)
    assert any_order_log_likelihood(predictor, prompt, response) == pytest.approx(expected, rel=1e-9)
    for rule in ("most_confident", "least_confident", "random", "left_to_right"):
        assert confidence_score(predictor, prompt, response, rule=rule)[0] == pytest.approx(expected, rel=1e-9)
    value, stderr = monte_carlo_log_likelihood(predictor, prompt, response, n_samples=7)
    assert value == pytest.approx(expected, rel=1e-9) and stderr == pytest.approx(0, abs=1e-9)
    assert confidence_score(predictor, prompt, response)[0] == pytest.approx(expected, rel=1e-6)


@torch.no_grad()
def test_monte_carlo_is_within_four_standard_errors_in_many_cases():
    generator = torch.Generator().manual_seed(0)
    for case in range(200):
        predictor = small_predictor(seed=case, d_model=16, n_layers=1, n_heads=2, d_ffn=16)
        response = torch.randint(7, 24, (3 + case % 4,), generator=generator)
        prompt = torch.randint(7, 24, (case % 3,), generator=generator)
        value, stderr = monte_carlo_log_likelihood(predictor, prompt, response, n_samples=200, generator=generator)
        assert abs(value - exact_log_likelihood(predictor, prompt, response)) < 4 * stderr + 1e-9


@torch.no_grad()
@pytest.mark.parametrize(("length", "n"), [(5, 3), (7, 4), (3, 8)])
def test_no_bias_where_the_length_is_no_multiple_of_the_number_of_samples(length, n):
    """The mean of 3000 independent estimates; by rounding, as published, they would be wrong by tenths of a nat."""
    predictor, generator = small_predictor(), torch.Generator().manual_seed(0)
    prompt, response = (torch.randint(7, 24, (k,), generator=generator) for k in (2, length))
    pairs = [(prompt.tolist(), response.tolist())] * 3000
    found = monte_carlo_log_likelihoods(predictor, pairs, n_samples=n, generator=generator)
    values = torch.tensor([value for value, _ in found], dtype=torch.float64)
    exact = exact_log_likelihood(predictor, prompt, response)
    assert abs(float(values.mean()) - exact) < 4 * float(values.std()) / 3000**0.5


@torch.no_grad()
@pytest.mark.parametrize("guidance_scale", [0.0, 1.0])
def test_many_likelihoods_are_those_of_single_calls(guidance_scale):
    predictor = small_predictor()
    pairs = [([0, 8, 9], [10, 11, 9]), ([0], [12, 13, 14, 15]), ([0, 7, 7, 7, 9], [20]), ([], [20, 21])]
    together = monte_carlo_log_likelihoods(predictor, pairs, 9, guidance_scale, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    for (prompt, response), found in zip(pairs, together, strict=True):
        alone = monte_carlo_log_likelihood(
            predictor, torch.tensor(prompt).long(), torch.tensor(response), 9, guidance_scale, generator
        )
        assert found == pytest.approx(alone, abs=1e-4)


@torch.no_grad()
def test_monte_carlo_sees_what_stands_behind_and_does_not_score_it():
    """One token has one mask set, so its value is the model's own; of several, rows of every length see the same EOS."""
    predictor = small_predictor()
    x = torch.tensor([[0, 8, predictor.tokens.mask, 2]])
    alone = float(predictor(x)[0, 2].double().log_softmax(0)[9])
    pairs = [([0, 8], [9]), ([0], [12, 13, 14])]
    found = monte_carlo_log_likelihoods(predictor, pairs, 4, generator=torch.Generator().manual_seed(1), append=[2])
    assert found[0] == (pytest.approx(alone, abs=1e-4), 0.0)
    bare = monte_carlo_log_likelihoods(predictor, pairs, 4, generator=torch.Generator().manual_seed(1))
    assert all(abs(a - b) > 1e-3 for (a, _), (b, _) in zip(found, bare, strict=True))
    item = [ChoiceItem([0, 8], [[t] for t in range(7, 24)], 0)]
    behind = [float(predictor(x)[0, 2, t]) for t in range(7, 24)]
    assert choose(predictor, item, "monte_carlo", append=[2]) == [behind.index(max(behind))]


@pytest.mark.parametrize(("length", "n"), [(8, 16), (10, 4), (7, 5), (3, 128)])
def test_mask_counts_are_uniform_whatever_the_length_and_the_number_of_samples(length, n):
    """The published estimator rounds, which is biased where L is no multiple of n."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.cat([stratified_counts(length, n, generator) for _ in range(3000)])
    share = torch.bincount(counts, minlength=length + 1)[1:] / len(counts)
    assert counts.min() == 1 and counts.max() == length
    torch.testing.assert_close(share, torch.full((length,), 1 / length), atol=0.01, rtol=0)


@torch.no_grad()
def test_guidance_changes_the_likelihood_and_follows_the_convention():
    predictor, prompt, response = small_predictor(), torch.tensor([0, 8]), torch.tensor([9])
    x, blind = torch.tensor([[0, 8, 5]]), torch.tensor([[5, 5, 5]])
    cond, uncond = predictor(x)[0, -1].double(), predictor(blind)[0, -1].double()
    expected = (uncond + 3 * (cond - uncond)).log_softmax(0)[9]
    assert exact_log_likelihood(predictor, prompt, response, guidance_scale=2.0) == pytest.approx(
        float(expected), abs=1e-5
    )


@torch.no_grad()
def test_confidence_score_equals_one_at_a_time():
    for seed in range(10):
        predictor = small_predictor(seed=seed)
        generator = torch.Generator().manual_seed(seed)
        prompt, response = (torch.randint(7, 24, (n,), generator=generator) for n in (3, 6))
        x = torch.cat((prompt, torch.full((6,), 5), torch.tensor([2])))
        masked, total, order = set(range(6)), 0.0, []
        while masked:
            log_p = predictor(x[None])[0].double().log_softmax(-1)
            best = max(masked, key=lambda i: float(log_p[3 + i, response[i]]))
            total += float(log_p[3 + best, response[best]])
            x[3 + best] = response[best]
            masked.remove(best)
            order.append(best)
        score, got = confidence_score(predictor, prompt, response, append=torch.tensor([2]))
        assert score == pytest.approx(total, abs=1e-4) and got == order


@torch.no_grad()
@pytest.mark.parametrize("rule", ["most_confident", "left_to_right", "random", "least_confident"])
@pytest.mark.parametrize("guidance_scale", [0.0, 1.0])
def test_batched_scores_equal_single_ones(rule, guidance_scale):
    predictor = small_predictor()
    # The last two share their first pass, and two candidates of a question every one.
    pairs = [([0, 8, 9], [10, 11]), ([0], [12, 13, 14, 15]), ([0, 7, 7, 7, 9], [20]), ([0, 8, 9], [11, 10]), ([0], [9])]
    together, orders = confidence_scores(
        predictor,
        pairs,
        append=[2],
        rule=rule,
        guidance_scale=guidance_scale,
        generator=torch.Generator().manual_seed(1),
    )
    generator = torch.Generator().manual_seed(1)
    for (prompt, response), score, order in zip(pairs, together, orders, strict=True):
        alone = confidence_score(
            predictor, torch.tensor(prompt), torch.tensor(response), append=torch.tensor([2]), rule=rule,
            guidance_scale=guidance_scale, generator=generator,
        )  # fmt: skip
        assert alone[0] == pytest.approx(score, abs=1e-4) and alone[1] == order


@torch.no_grad()
def test_control_orders():
    """Left to right is the chain rule of the masked model; least confident first takes what the score takes last."""
    predictor, prompt, response = small_predictor(), torch.tensor([0, 8]), torch.tensor([9, 12, 7, 20])
    x, total = torch.cat((prompt, torch.full((4,), 5))), 0.0
    for i in range(4):
        total += float(predictor(x[None])[0, 2 + i].double().log_softmax(-1)[response[i]])
        x[2 + i] = response[i]
    score, order = confidence_score(predictor, prompt, response, rule="left_to_right")
    assert score == pytest.approx(total, abs=1e-4) and order == [0, 1, 2, 3]
    first = predictor(torch.tensor([[0, 8, 5, 5, 5, 5]]))[0, 2:].log_softmax(-1).gather(1, response[:, None])[:, 0]
    assert confidence_score(predictor, prompt, response)[1][0] == int(first.argmax())
    assert confidence_score(predictor, prompt, response, rule="least_confident")[1][0] == int(first.argmin())
    orders = {
        tuple(
            confidence_score(predictor, prompt, response, rule="random", generator=torch.Generator().manual_seed(s))[1]
        )
        for s in range(60)
    }
    assert len(orders) > 15


@torch.no_grad()
def test_bos_in_front_and_eos_behind_are_seen_and_not_scored():
    predictor, prompt, response = small_predictor(), torch.tensor([8, 9]), torch.tensor([12, 7])
    front, behind = torch.tensor([0]), torch.tensor([2])
    inside = confidence_score(predictor, torch.tensor([0, 8, 9]), response, append=behind)
    assert confidence_score(predictor, prompt, response, prepend=front, append=behind) == inside
    assert confidence_score(predictor, prompt, response)[0] != pytest.approx(inside[0], abs=1e-3)


@torch.no_grad()
def test_equal_passes_are_asked_once_and_the_head_sees_masks_only():
    """Four candidates of one length: the first pass of all is one row."""

    class Counting:
        tokens, n_rows, n_predictions = small_predictor().tokens, 0, 0

        def logits_at(self, x, is_wanted, is_valid=None):
            self.n_rows, self.n_predictions = self.n_rows + len(x), self.n_predictions + int(is_wanted.sum())
            return torch.zeros(int(is_wanted.sum()), 24)

        def __call__(self, x, is_valid=None):
            raise AssertionError("the head at every position")

    counting = Counting()
    pairs = [([0, 8, 9], [10 + i, 15 + i]) for i in range(4)]
    confidence_scores(counting, pairs)
    assert (counting.n_rows, counting.n_predictions) == (1 + 4, 2 + 4)
    counting = Counting()
    # A response of two tokens has three mask sets, however many are drawn.
    monte_carlo_log_likelihoods(counting, pairs[:1], n_samples=128)
    assert (counting.n_rows, counting.n_predictions) == (3, 4)


@torch.no_grad()
@pytest.mark.parametrize("rule", ["monte_carlo", "confidence"])
def test_choose_takes_the_likelier_candidate(rule):
    predictor = small_predictor()
    prompt = [0, 8]
    ranked = predictor(torch.tensor([[*prompt, 5]]))[0, -1].argsort(descending=True)
    ranked = ranked[ranked != predictor.tokens.mask]
    items = [ChoiceItem(prompt, [[int(ranked[k])] for k in (9, 1, 15, 4)], 1)]
    assert choose(predictor, items, rule, n_samples=8 if rule == "monte_carlo" else None) == [1]


@torch.no_grad()
@pytest.mark.parametrize("rule", ["monte_carlo", "confidence"])
def test_guidance_decides_a_choice(rule):
    """Without it the likelier token, with much of it the token that the prompt makes likelier than nothing does."""
    predictor, prompt = small_predictor(), [0, 8]
    cond, uncond = (predictor(torch.tensor([x]))[0, -1].double() for x in ([0, 8, 5], [5, 5, 5]))
    cond[5] = -torch.inf
    likeliest, lifted = int(cond.argmax()), int((cond - uncond).argmax())
    assert likeliest != lifted
    item = ChoiceItem(prompt, [[likeliest], [lifted]], 0)
    assert choose(predictor, [item], rule) == [0]
    assert choose(predictor, [item], rule, guidance_scale=100.0) == [1]


def test_bad_input_is_named():
    predictor = small_predictor()
    with pytest.raises(ValueError, match=r"response = \[\]"):
        monte_carlo_log_likelihood(predictor, NOTHING, NOTHING)
    with pytest.raises(ValueError, match=r"response = \[\]"):
        confidence_score(predictor, torch.tensor([0]), NOTHING)
    with pytest.raises(ValueError, match="13 tokens.*at most 12"):
        exact_log_likelihood(predictor, NOTHING, torch.full((13,), 9))
    with pytest.raises(ValueError, match="n_samples = 0"):
        monte_carlo_log_likelihood(predictor, NOTHING, torch.tensor([9]), n_samples=0)
    with pytest.raises(ValueError, match="rule = 'guess'"):
        choose(predictor, [], "guess")
    with pytest.raises(ValueError, match="9 tokens; 9! orders are too many; at most 8"):
        any_order_log_likelihood(predictor, NOTHING, torch.full((9,), 9))
    with pytest.raises(ValueError, match="rule = 'left'; not an order; left_to_right"):
        confidence_score(predictor, torch.tensor([0]), torch.tensor([9]), rule="left")
    with pytest.raises(ValueError, match="65 tokens; pair 1 is longer than the model's context; at most 64"):
        choose(predictor, [ChoiceItem([0], [[9], [9] * 64], 0)], "confidence")
    with pytest.raises(ValueError, match="66 tokens; pair 0 is longer"):
        confidence_score(predictor, torch.tensor([0]), torch.full((64,), 9), append=torch.tensor([2]))
    with pytest.raises(ValueError, match=r"append = \[2\]; has no effect on rule = chain_rule"):
        choose(predictor, [], "chain_rule", append=[2])
    with pytest.raises(ValueError, match="65 tokens; pair 0 is longer"):
        monte_carlo_log_likelihoods(predictor, [([], [9] * 64)], 1, append=[2])
    with pytest.raises(ValueError, match="n_samples = 8; has no effect on rule = confidence"):
        choose(predictor, [], "confidence", n_samples=8)
    with pytest.raises(ValueError, match="token = -1 in pair 0; not in the vocabulary; 0 to"):
        exact_log_likelihood(predictor, NOTHING, torch.tensor([9, -1]))
    for scale in (math.nan, math.inf, -1.0):
        with pytest.raises(ValueError, match=f"guidance_scale = {scale}; must be finite"):
            exact_log_likelihood(predictor, torch.tensor([0]), torch.tensor([9]), guidance_scale=scale)
    with pytest.raises(ValueError, match="guidance_scale = 1.0; has no effect on rule = chain_rule"):
        choose(predictor, [], "chain_rule", guidance_scale=1.0)
    with pytest.raises(ValueError, match="is_causal = true"):
        choose(small_predictor(is_causal=True), [ChoiceItem([0], [[9]], 0)], "confidence")


@pytest.mark.parametrize(
    ("prompt", "response", "behind"),
    [([0, ILLADA.mask], [9], []), ([0], [9, ILLADA.mask], []), ([0], [9], [ILLADA.mask])],
)
def test_masks_are_not_scored(prompt, response, behind):
    """A [MASK] that is given would be one that nobody counts; one that is scored has no likelihood of its own."""
    pairs = [([0], [9]), (prompt, response)] if not behind else [(prompt, response)]
    message = (
        f"token = {ILLADA.mask} in pair {len(pairs) - 1}; the id of .MASK., which hides a token and is none itself"
    )
    with pytest.raises(ValueError, match=message):
        monte_carlo_log_likelihoods(small_predictor(), pairs, append=behind)
    with pytest.raises(ValueError, match=message):
        confidence_scores(small_predictor(), pairs, behind)
    with pytest.raises(ValueError, match=message):
        choose(small_predictor(), [ChoiceItem(p, [r], 0) for p, r in pairs], "confidence", append=behind)


def test_generators_are_one_or_as_many_as_pairs():
    own = [torch.Generator()] * 2
    with pytest.raises(ValueError, match="generator = 2 of them; one for all pairs or one per pair; 1 or 3"):
        monte_carlo_log_likelihoods(small_predictor(), [([0], [9, 10])] * 3, 2, 0.0, own)
    assert len(monte_carlo_log_likelihoods(small_predictor(), [([0], [9, 10])] * 2, 2, 0.0, own)) == 2


def test_a_question_has_candidates():
    items = [ChoiceItem([0], [[9]], 0), ChoiceItem([0], [], 0)]
    for rule in ("confidence", "monte_carlo"):
        with pytest.raises(ValueError, match=r"items\[1\].candidates = \[\]; nothing to choose from; at least one"):
            choose(small_predictor(), items, rule)


class Odd:
    """A predictor with one logit for every token, and another for token 9."""

    tokens = ILLADA

    def __init__(self, other, of_nine):
        self.other, self.of_nine = other, of_nine

    def __call__(self, x, is_valid=None):
        logits = torch.full((*x.shape, 16), self.other)
        logits[..., 9] = self.of_nine
        return logits


def test_what_is_ruled_out_has_no_likelihood_and_what_is_no_number_is_refused():
    prompt, response = torch.tensor([0]), torch.tensor([9, 10, 9])
    certain = Odd(-math.inf, 0.0)
    assert exact_log_likelihood(certain, prompt, response) == -math.inf
    score, order = confidence_score(certain, prompt, response)
    assert score == -math.inf and order == [0, 2, 1]
    assert confidence_score(certain, prompt, torch.tensor([9, 9])) == (0.0, [0, 1])
    for ask in (exact_log_likelihood, any_order_log_likelihood, confidence_score, monte_carlo_log_likelihood):
        with pytest.raises(ValueError, match="logits = NaN"):
            ask(Odd(math.nan, math.nan), prompt, response)


def test_a_single_sample_does_not_know_its_error():
    predictor, prompt = small_predictor(), torch.tensor([0])
    assert monte_carlo_log_likelihood(predictor, prompt, torch.tensor([9, 10]), n_samples=1)[1] == math.inf
    assert monte_carlo_log_likelihood(predictor, prompt, torch.tensor([9]), n_samples=1)[1] == 0.0


def test_wilson_interval():
    low, high = wilson(95, 100)
    assert (low, high) == (pytest.approx(0.8882, abs=1e-3), pytest.approx(0.9785, abs=1e-3))
    assert wilson(10, 10)[1] == 1.0 and wilson(0, 10)[0] == 0.0
    with pytest.raises(ValueError, match="n_correct = 3, n = 2"):
        wilson(3, 2)


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("rome", "rome", True),
        (" rome .", "rome", True),
        ("3 + 2 = 5 . the answer is 5", "5", True),
        ("3 + 2 = 6 . the answer is 6", "5", False),
        ("rome rome", "rome", False),
        ("", "rome", False),
        ("15", "5", False),
    ],
)
def test_answers_are_compared_whole(text, answer, right):
    assert is_right(text, answer) is right
