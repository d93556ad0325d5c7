"""Encoding: what the tokenizer gets at once is bounded, and nothing depends on it."""

import numpy as np

from illada_lab.data import byte_tokenizer, encode
from illada_lab.data.encode import Encoder
from illada_lab.data.tokenizer import Tokenizer

BYTE = byte_tokenizer()


def test_bos_stands_in_front_and_eos_behind():
    found = Encoder(tokenizer=BYTE, adds_bos=True).encode({"text": ["ab", ""]}, 0)
    bos, eos = BYTE.tokens.bos, BYTE.tokens.eos
    assert found.tokens.tolist() == [bos, *BYTE.encode("ab"), eos, bos, eos] and found.offsets.tolist() == [0, 4, 6]
    assert not found.is_prompt.any()


def test_extra_ends_belong_to_the_answer():
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    found = Encoder(tokenizer=BYTE, max_extra_eos=3).encode({"messages": [talk] * 50}, 0)
    is_end = found.tokens == BYTE.tokens.eos
    assert is_end.sum() > 60 and not found.is_prompt[is_end].any()


def test_the_tokenizer_gets_some_text_at_a_time(monkeypatch):
    texts = ["a", "b" * 300, "", *("c" * (7 * i % 60) for i in range(50)), ""]
    whole = Encoder(tokenizer=BYTE, adds_bos=True).encode({"text": texts}, 0)
    asked, original = [], Tokenizer.encode_batch
    monkeypatch.setattr(Tokenizer, "encode_batch", lambda self, some: asked.append(some) or original(self, some))
    monkeypatch.setattr(encode, "CHARACTERS_PER_CALL", 100)
    parts = Encoder(tokenizer=BYTE, adds_bos=True).encode({"text": texts}, 0)
    for name in ("tokens", "is_prompt", "offsets"):
        assert np.array_equal(getattr(parts, name), getattr(whole, name))
    assert sum(asked, []) == texts and all(sum(map(len, some[:-1])) < 100 for some in asked)
    assert Encoder(tokenizer=BYTE).encode({"text": []}, 0).offsets.tolist() == [0]
