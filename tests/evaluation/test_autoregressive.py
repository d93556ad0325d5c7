"""The twin: chain rule and greedy answers against the plain way."""

import pytest
import torch

from illada_lab.evaluation import ChoiceItem, Greedy, chain_rule_log_likelihoods, choose
from illada_lab.evaluation.generation import generate
from illada_lab.objectives.autoregressive import shift_right
from illada_lab.samplers import VariableLength
from tests.small import small_predictor

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
def test_chain_rule_sums_to_one_over_all_responses():
    predictor = small_predictor(**TWIN)
    pairs = [([0, 9], [a, b]) for a in range(24) for b in range(24)]
    total = torch.tensor(chain_rule_log_likelihoods(predictor, pairs)).double().exp().sum()
    assert float(total) == pytest.approx(1.0, abs=1e-5)


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
    with pytest.raises(ValueError, match="leaves no room"):
        Greedy(max_length=3).sample(predictor, torch.full((1, 64), 9))
    with pytest.raises(ValueError, match="max_length = 0"):
        Greedy(max_length=0)


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
