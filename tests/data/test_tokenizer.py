"""Tokenizers: round trips, no special token out of text, exact bytes, errors."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from illada_lab.data import Tokenizer, byte_tokenizer, train_bpe, word_tokenizer
from illada_lab.data.build_tokenizer import bpe, words
from illada_lab.tokens import ILLADA, OWN_SPECIAL_TEXT

CORPUS = ["the cat sees the dog. ", "the dog sees a cat, two cats. ", "naïve café ☕"] * 20
BYTE, BPE = byte_tokenizer(), train_bpe(CORPUS, 300)
WORD = word_tokenizer(["the", "cat", "sees", "dog", "."])
LAST_SPECIAL = len(OWN_SPECIAL_TEXT) - 1


@pytest.mark.parametrize("tokenizer", [BYTE, BPE], ids=["byte", "bpe"])
@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_survives_and_every_byte_is_counted(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.n_bytes(ids) == len(text.encode())
    assert all(LAST_SPECIAL < i < tokenizer.vocab_size for i in ids)
    # Parts of a text add up to the text, also where a cut goes through a character.
    assert sum(tokenizer.n_bytes([i]) for i in ids) == len(text.encode())


@pytest.mark.parametrize("tokenizer", [BYTE, BPE, WORD], ids=["byte", "bpe", "word"])
@pytest.mark.parametrize("text", [*OWN_SPECIAL_TEXT, "\ue000<mask>", "\ue000 <mask>", "x<mask>y"])
def test_text_never_becomes_a_special_token(tokenizer, text):
    special = set(range(LAST_SPECIAL + 1)) - {ILLADA.unk}
    assert not special & set(tokenizer.encode(text)) and not special & set(tokenizer.encode_batch([text])[0])


@pytest.mark.parametrize("tokenizer", [BYTE, BPE, WORD], ids=["byte", "bpe", "word"])
def test_bytes_that_are_no_text_are_told(tokenizer):
    with pytest.raises(ValueError, match=r"text = 'a.udcff'; not UTF-8; save or type it as UTF-8"):
        tokenizer.encode("a\udcff")


def test_ids_are_illadas_and_a_byte_is_a_token():
    assert BYTE.tokens == BPE.tokens == WORD.tokens == ILLADA
    assert BYTE.vocab_size == 256 + 7 and len(BYTE.encode("ab é")) == 5
    assert [BYTE.token_text(i) for i in range(7)] == list(OWN_SPECIAL_TEXT)


def test_bpe_learns_and_obeys_its_size():
    # A size is an upper limit: a small text runs out of pairs to merge.
    assert 263 < BPE.vocab_size <= 300 and train_bpe(CORPUS, 270).vocab_size == 270
    assert len(BPE.encode("the cat sees the dog.")) < len("the cat sees the dog.") / 2
    assert train_bpe(CORPUS, 300).to_dict() == BPE.to_dict()


def test_words():
    ids = WORD.encode("the cat sees\nthe  unicorn .")
    assert WORD.decode(ids) == "the cat sees the ." and ids[4] == ILLADA.unk
    assert WORD.n_bytes(WORD.encode("the cat .")) == len("the cat .")
    assert WORD.decode([0, 7, 5, 8, 2], skip_special=False) == "<bos> the <mask> cat <eos>"
    with pytest.raises(ValueError, match=r"text = 'catt'; not a word of this model's vocabulary; cat"):
        WORD.encode_known("the catt sees")
    with pytest.raises(ValueError, match=r"text = 'catt'; .* \(neither is 'dogg', 'zz'\); cat"):
        WORD.encode_known("the catt dogg catt zz")


@pytest.mark.parametrize("tokenizer", [BYTE, BPE, WORD], ids=["byte", "bpe", "word"])
def test_plain_data_and_back(tokenizer):
    again = Tokenizer.from_dict(tokenizer.to_dict())
    text = "the cat sees the dog ."
    assert again.encode(text) == tokenizer.encode(text) and again.decode(tokenizer.encode(text)) == text
    assert again.tokens == tokenizer.tokens and again.to_dict() == tokenizer.to_dict()


@pytest.mark.parametrize("tokenizer", [BYTE, BPE, WORD], ids=["byte", "bpe", "word"])
def test_a_prompt_that_spells_the_mask_is_refused(tokenizer):
    with pytest.raises(ValueError, match=r"prompt = 'the cat <mask>'; spells the mask token <mask>; leave it out"):
        tokenizer.encode_prompt("the cat <mask>")
    assert tokenizer.encode_prompt("the cat") == tokenizer.encode("the cat")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: train_bpe(CORPUS, 100), "vocab_size = 100; byte-level BPE starts from the bytes; 263 or more"),
        (lambda: word_tokenizer(["a", "a"]), "words = 2 entries, 1 of them different"),
        (lambda: word_tokenizer([]), "words = 0 entries"),
        (lambda: word_tokenizer(["a", "two words"]), "words = 'two words'; white space"),
        (lambda: words(object()), "tokenizer = word; this data has no word list"),
        (lambda: bpe(object(), vocab_size=300), "tokenizer = bpe; this data has no texts"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
