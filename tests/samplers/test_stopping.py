"""Where responses end."""

import jaxtyping
import pytest
import torch

from illada_lab.data.build_tokenizer import word_tokenizer
from illada_lab.evaluation.generation import generate
from illada_lab.samplers import FixedLength, VariableLength
from illada_lab.samplers.stopping import find_end, response_text
from illada_lab.tokens import ILLADA
from tests.scripted import Scripted

PROMPT = torch.tensor([[0, 9, 10]])
LETTERS = {i: letter for i, letter in enumerate("abcdefghijklm", 7)} | {20: "\n", 21: "no ", 22: "x\ny", 2: ""}


class Letters:
    """A token is a letter, but for a few that are more."""

    def decode(self, ids, *, skip_special=True):
        return "".join(LETTERS.get(i, "?") for i in ids)

    def encode_known(self, text):
        if "z" in text:
            raise ValueError("text = 'z'; not a word of this model's vocabulary; y")
        return [i for i, shown in LETTERS.items() if shown and shown in text]


@pytest.mark.parametrize(
    ("response", "strings", "expected"),
    [
        ([7, 8, 9, 10], ["cd"], (2, "stop")),
        ([7, 8, 9, 10], ["d", "b"], (1, "stop")),
        ([7, 8], ["z"], None),
        ([7, 2, 8, 9], ["c"], (1, "eos")),
        ([7, 8, 2], ["b"], (1, "stop")),
        ([7, 22, 8], ["\n"], (2, "stop")),  # a token that begins before the string belongs to the response
        ([7, 22, 8, 2], ["\nyb"], (2, "stop")),
        ([7, 22, 2], ["\n"], (2, "stop")),
        ([7, 7, 7, 8], ["aab"], (3, "stop")),  # "a" alone would look like its beginning
        ([20, 20, 8], ["\n\n"], (0, "stop")),
        ([], ["a"], None),
    ],
)
def test_strings_are_looked_for_in_the_text(response, strings, expected):
    assert find_end(response, stop_ids=(2,), strings=strings, tokenizer=Letters()) == expected


@pytest.mark.parametrize(
    ("response", "strings", "text"),
    [
        ([7, 8, 9, 10], ["cd"], "ab"),
        ([7, 22, 8, 9], ["\nyb", "\nyx"], "ax"),
        ([7, 22, 8], ["\n"], "ax"),
        ([21, 21], ["o n"], "n"),
        ([7, 7, 7, 8], ["aab"], "a"),
        ([7, 8, 2, 9], ["c"], "ab"),
        ([8, 9, 7], ["\n", "ab"], "bca"),  # its end is no part of what was not written
    ],
)
def test_a_text_goes_up_to_the_stop_string(response, strings, text):
    """As the published evaluation cuts it, whatever tokens the string is made of."""
    n, reason = find_end(response, stop_ids=(2,), strings=strings, tokenizer=Letters()) or (len(response), "length")
    assert response_text(response[:n], reason, strings, Letters()) == text


def test_words_in_front_of_a_stop_string():
    """Between them and the string is a space that is no token's."""
    tokenizer = word_tokenizer(["ada", "wrote", "sunrise", "."])
    response = tokenizer.encode("ada wrote sunrise .")
    assert find_end(response, stop_ids=(2,), strings=["wrote sun"], tokenizer=tokenizer) == (1, "stop")
    assert response_text(response[:1], "stop", ["wrote sun"], tokenizer) == "ada"


def test_what_stands_behind_the_end_completes_no_string():
    response = [8, 9, 2, 10, 11]  # "bc", EOS, "de"
    assert find_end(response, stop_ids=(2,), strings=["cd"], tokenizer=Letters()) == (2, "eos")
    assert find_end(response, stop_ids=(2,), strings=["bc"], tokenizer=Letters()) == (0, "stop")


def test_variable_length_stops_at_a_string_that_crosses_blocks():
    text = [0, 9, 10, 7, 8, 9, 10, 11, 12, 13]
    sampler = VariableLength(max_length=6, block_length=3, stop_strings=["cd"], tokenizer=Letters())
    out = sampler.sample(Scripted(text), PROMPT)
    assert out.responses == [[7, 8]] and out.stop_reasons == ["stop"] and out.nfe.tolist() == [6]
    assert out.tokens.tolist() == [[*text[:5], *[ILLADA.pad] * 4]]


def test_a_fixed_length_is_cut_at_a_string_when_it_has_been_written():
    text = [0, 9, 10, 7, 8, 9, 10, 11, 12, 13]
    sampler = FixedLength(response_length=6, block_length=3, stop_strings=["cd"], tokenizer=Letters())
    out = sampler.sample(Scripted(text), PROMPT)
    assert out.responses == [[7, 8]] and out.stop_reasons == ["stop"]
    assert out.nfe.tolist() == [6] and out.tokens.tolist() == [text[:-1]]  # all of it is computed, and stays to be seen
    (made,), _ = generate(Scripted(text), Letters(), PROMPT.tolist(), sampler)
    assert made.text == "ab" and made.n_tokens == 2
    ended = FixedLength(response_length=6, stop_strings=["ef"], tokenizer=Letters()).sample(Scripted(text), PROMPT)
    assert ended.stop_reasons == ["stop"] and ended.responses == [[7, 8, 9, 10]]


@pytest.mark.parametrize("strings", [[""], ["zz"]])
def test_a_fixed_length_refuses_strings_that_never_come(strings):
    with pytest.raises(ValueError, match="an empty string would stop everything|so it never comes"):
        FixedLength(response_length=6, stop_strings=strings, tokenizer=Letters())
    with pytest.raises(ValueError, match="text can be looked for with a tokenizer only"):
        FixedLength(response_length=6, stop_strings=["a"]).sample(Scripted([0, 9, 10, *range(7, 13)]), PROMPT)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stop_strings": [""], "tokenizer": Letters()}, "an empty string would stop everything"),
        ({"stop_strings": ["zz"], "tokenizer": Letters()}, "'zz'; cannot be tokenised, so it never comes; text = 'z'"),
        ({"stop_strings": ["#"], "tokenizer": Letters()}, "'#'; has no token, so it never comes"),
        ({"stop_strings": ["a"]}, "text can be looked for with a tokenizer only"),
        ({"stop_sequences": [[]]}, "an empty sequence would stop everything"),
    ],
)
def test_what_can_never_stop_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        VariableLength(max_length=6, block_length=3, **settings).sample(Scripted([0, 9, 10, *range(7, 13)]), PROMPT)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stop_ids": 3}, r"stop_ids = 3; one id, not several; \[3\]"),
        (
            {"stop_sequences": [3, 4]},
            r"stop_sequences = \[3, 4\]; not sequences of token ids; \[\[id, id, ...\], ...\]",
        ),
        ({"stop_sequences": 3}, r"stop_sequences = 3; not sequences of token ids"),
        ({"stop_sequences": "ab"}, r"stop_sequences = 'ab'; not sequences of token ids"),
        (
            {"stop_sequences": ["ab"]},
            r"stop_sequences = \['ab'\]; not sequences of token ids; .* stop_strings for text",
        ),
    ],
)
def test_what_is_not_several_is_named_at_once(monkeypatch, settings, message):
    """Not first when something is to be sampled."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as a user runs it
    with pytest.raises(ValueError, match=message):
        VariableLength(max_length=6, block_length=3, **settings)
