"""The twin: chain rule and greedy answers against the plain way."""

import jaxtyping
import pytest
import torch

from illada_lab.evaluation import ChoiceItem, Greedy, autoregressive, chain_rule_log_likelihoods, choose, masked
from illada_lab.evaluation.generation import generate
from illada_lab.objectives.autoregressive import shift_right
from illada_lab.samplers import VariableLength
from illada_lab.tokens import ILLADA
from tests.small import UniformPredictor, small_predictor

TWIN = {"is_causal": True}


@torch.no_grad()
def test_chain_rule_is_what_training_minimises():
    predictor = small_predictor(**TWIN)
    pairs = [([0, 8, 9], [10, 11]), ([0], [12, 13, 14, 15]), ([0, 7, 7, 7, 9], [20])]
    for (prompt, response), value in zip(pairs, chain_rule_log_likelihoods(predictor, pairs), strict=True):
        x = torch.tensor([[*prompt, *response]])
        log_p = predictor(shift_right(x, torch.ones_like(x), 0))[0].double().log_softmax(-1)
        own = log_p.gather(1, x[0][:, None])[len(prompt) :]
        assert value == pytest.approx(float(own.sum()), abs=1e-4)


@torch.no_grad()
def test_a_large_vocabulary_is_scored_in_parts(monkeypatch):
    """10 predictions of 24 tokens at once, whatever the pairs; the longest response is more than that."""
    predictor, asked = small_predictor(**TWIN), []
    pairs = [([0, 8], [9 + i] * n) for i, n in enumerate((3, 1, 12, 4, 6, 2))]
    whole = chain_rule_log_likelihoods(predictor, pairs)
    logits_at = predictor.logits_at
    predictor.logits_at = lambda x, is_wanted: asked.append(int(is_wanted.sum())) or logits_at(x, is_wanted)  # type: ignore[method-assign]
    for module in (masked, autoregressive):
        monkeypatch.setattr(module, "BATCH_LOGITS", 240)
    assert chain_rule_log_likelihoods(predictor, pairs) == pytest.approx(whole, abs=1e-4)
    assert asked == [12, 10, 6]


@torch.no_grad()
def test_chain_rule_sums_to_one_over_all_responses():
    predictor, mask = small_predictor(**TWIN), ILLADA.mask
    words = [i for i in range(24) if i != mask]
    pairs = [([0, 9], [a, b]) for a in words for b in words]
    total = torch.tensor(chain_rule_log_likelihoods(predictor, pairs)).double().exp().sum()
    # [MASK] is not scored, and has the rest: this twin has not learnt that it never comes.
    first = predictor(torch.tensor([[0, 0, 9]]))[0, -1].softmax(-1)
    second = predictor(torch.tensor([[0, 0, 9, a] for a in words]))[:, -1].softmax(-1)
    rest = first[mask] + (first[words] * second[:, mask]).sum()
    assert float(total + rest) == pytest.approx(1.0, abs=1e-5) and float(rest) > 1e-4


@torch.no_grad()
def test_greedy_with_cache_is_greedy_without_and_rows_do_not_depend_on_their_batch():
    predictor, eos = small_predictor(**TWIN), 2
    prompts = [[0, 8, 9], [0, 12], [0, 7, 7, 20, 9]]
    x = torch.tensor([[1] * (5 - len(p)) + p for p in prompts])
    out = Greedy(max_length=6).sample(predictor, x, x != 1)
    for n, prompt in enumerate(prompts):
        written: list[int] = []
        while len(written) < 6:
            inputs = torch.tensor([[0, *prompt, *written]])
            token = int(predictor(inputs)[0, -1].argmax())
            if token == eos:
                break
            written.append(token)
        assert out.responses[n] == written
        assert out.stop_reasons[n] == ("length" if len(written) == 6 else "eos")
        assert int(out.nfe[n]) == len(written) + (out.stop_reasons[n] == "eos")


@torch.no_grad()
def test_the_twin_chooses_and_says_what_it_cannot():
    predictor = small_predictor(**TWIN)
    ranked = predictor(torch.tensor([[0, 0, 8]]))[0, -1].argsort(descending=True)
    item = ChoiceItem([0, 8], [[int(ranked[k])] for k in (9, 1, 15, 4)], 1)
    assert choose(predictor, [item], "chain_rule") == [1]
    with pytest.raises(ValueError, match="is_causal = false"):
        chain_rule_log_likelihoods(small_predictor(), [([0], [9])])
    with pytest.raises(ValueError, match="is_causal = false"):
        Greedy(max_length=3).sample(small_predictor(), torch.tensor([[0]]))
    with pytest.raises(ValueError, match=r"response = \[\]"):
        chain_rule_log_likelihoods(predictor, [([0], [])])
    with pytest.raises(ValueError, match="at most 64"):
        chain_rule_log_likelihoods(predictor, [([0], [9] * 64)])
    with pytest.raises(ValueError, match="token = 24 in pair 1; not in the vocabulary; 0 to 23"):
        chain_rule_log_likelihoods(predictor, [([0], [9]), ([0], [24])])
    with pytest.raises(ValueError, match=f"token = {ILLADA.mask} in pair 0; the id of .MASK., which hides a token"):
        chain_rule_log_likelihoods(predictor, [([0, ILLADA.mask], [9])])
    for other in (small_predictor(), UniformPredictor(24)):
        with pytest.raises(
            ValueError, match="is_causal = false; a mask predictor has no chain rule; monte_carlo, conf"
        ):
            choose(other, [item], "chain_rule")
    other = UniformPredictor(24)
    other.spec = predictor.spec  # type: ignore[assignment]
    with pytest.raises(ValueError, match="predictor = UniformPredictor; the chain rule is the twin's; a MaskPredictor"):
        choose(other, [item], "chain_rule")
    with pytest.raises(ValueError, match="leaves no room"):
        Greedy(max_length=3).sample(predictor, torch.full((1, 64), 9))
    with pytest.raises(ValueError, match="max_length = 0"):
        Greedy(max_length=0)


@pytest.mark.parametrize(
    ("prompt", "is_valid", "message"),
    [
        (torch.empty(1, 0, dtype=torch.long), None, "prompt = shape .1, 0.; needs at least one token per row"),
        ([[]], None, "prompt = shape .1, 0.; needs at least one token per row"),
        ([[0, 9, 1]], [[True, True, False]], "is_valid; a prompt's padding stands on its left, .*; left-pad"),
        ([[0, 9, 1]], torch.tensor([[0, 1, 1]]), "is_valid = torch.int64; flags; is_valid.bool"),
        ([[0, 9, 1]], [[True, True]], "is_valid = shape .1, 2.; one flag per token of the prompt; .1, 3."),
        ([[0, 9, 24]], None, "token = 24; not in the vocabulary; 0 to 23"),
        ([[0, -1, 9]], None, "token = -1; not in the vocabulary; 0 to 23"),
        (torch.tensor([[0.0, 9.0]]), None, "tokens = torch.float32; ids are whole numbers of 64 bits"),
    ],
)
@pytest.mark.parametrize("max_length", [3, 62])  # where the context cuts the budget, and where it does not
def test_prompts_that_are_none_are_named(monkeypatch, prompt, is_valid, message, max_length):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as a user runs it
    with pytest.raises(ValueError, match=message):
        Greedy(max_length=max_length).sample(small_predictor(**TWIN), prompt, is_valid)


def test_an_empty_batch_has_no_answers():
    out = Greedy(max_length=3).sample(small_predictor(**TWIN), torch.empty(0, 2, dtype=torch.long))
    assert (out.responses, out.stop_reasons, out.trace, out.n_steps) == ([], [], [], 0)
    assert out.tokens.shape == (0, 2) and len(out.nfe) == len(out.token_forwards) == 0


@torch.no_grad()
def test_an_answer_has_the_room_that_its_own_prompt_leaves():
    """The context holds 64 tokens; the twin is made to go on for ever."""
    predictor, greedy = small_predictor(**TWIN), Greedy(max_length=50)
    prompts = [[0, 9, 10], [0, *[11] * 30]]
    x, is_valid = torch.ones(2, 31, dtype=torch.long), torch.zeros(2, 31, dtype=torch.bool)
    for i, p in enumerate(prompts):
        x[i, 31 - len(p) :], is_valid[i, 31 - len(p) :] = torch.tensor(p), True
    solo = [greedy.sample(predictor, torch.tensor([p])) for p in prompts]
    together = greedy.sample(predictor, x, is_valid)
    assert together.responses == [s.responses[0] for s in solo]
    assert together.stop_reasons == [s.stop_reasons[0] for s in solo]
    assert len(together.responses[1]) <= 33


class Marks:
    """Every token is written as a letter and the beginning of a new line."""

    def decode(self, ids, *, skip_special=True):
        return "".join(f"{chr(97 + i)}.\n" for i in ids)

    def encode_known(self, text):
        return list(text.encode())


@pytest.mark.parametrize("is_causal", [True, False])
def test_an_answer_keeps_all_that_stands_in_front_of_its_stop_string(is_causal):
    """Where a token holds its end and the beginning of the string, as ".\n\n" in front of "Q:" does."""
    predictor = small_predictor(is_causal=is_causal)
    settings = {"max_length": 6, "tokenizer": Marks()}
    if not is_causal:
        settings |= {"block_length": 6, "ban_eos": True}
    kind = Greedy if is_causal else VariableLength
    (free,), _ = generate(predictor, Marks(), [[0, 9]], kind(**settings))
    letters = free.text.split(".\n")[:-1]
    assert len(letters) > 2, "it goes on"
    (found,), _ = generate(predictor, Marks(), [[0, 9]], kind(**settings, stop_strings=[f"\n{letters[2]}."]))
    place = free.text.index(f"\n{letters[2]}.")
    assert (found.text, found.stop_reason) == (free.text[:place], "stop") and found.text.endswith(".")
    assert found.n_tokens == found.text.count(".")
