"""Our own chat format."""

import pytest

from illada_lab.data import ChatTemplate, byte_tokenizer, word_tokenizer
from illada_lab.tokens import ASSISTANT, ILLADA, USER

WORD = word_tokenizer(["who", "is", "she", "ada", "kind", "be", "?"])
CHAT = ChatTemplate(WORD)


def said(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def test_one_turn():
    ids, is_prompt = CHAT.render(said("who is she ?", "ada"))
    assert WORD.decode(ids, skip_special=False) == "<bos> <user> who is she ? <assistant> ada <eos>"
    assert is_prompt == [True] * 7 + [False] * 2


def test_every_answer_ends_in_eos_and_a_prompt_is_the_beginning_of_the_whole():
    messages = said("who is she ?", "ada", "is she kind ?", "kind")
    ids, is_prompt = CHAT.render(messages)
    assert ids.count(ILLADA.eos) == 2 and ids.count(USER) == ids.count(ASSISTANT) == 2 and ids.count(ILLADA.bos) == 1
    assert [i for i, p in zip(ids, is_prompt, strict=True) if not p] == [
        *WORD.encode("ada"),
        2,
        *WORD.encode("kind"),
        2,
    ]
    prompt = CHAT.prompt(messages[:3])
    assert prompt == ids[: len(prompt)] and prompt[-1] == ASSISTANT


def test_a_system_message_is_merged_into_the_first_turn():
    merged = CHAT.prompt([{"role": "system", "content": "be kind"}, *said("who is she ?")])
    assert WORD.decode(merged, skip_special=False) == "<bos> <user> be kind who is she ? <assistant>"


def test_training_text_may_spell_special_tokens_but_a_prompt_may_not():
    chat = ChatTemplate(byte_tokenizer())
    ids, _ = chat.render(said("what is <mask> ?", "a token"))
    assert ILLADA.mask not in ids
    with pytest.raises(ValueError, match="spells the mask token <mask>"):
        chat.prompt(said("what is <mask> ?"))


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], r"messages.role = \[\]; turns alternate"),
        ("hello", r"messages = 'hello'; not a conversation"),
        (["hello"], r"messages\[0\].role = 'hello'; not a role; system, user, assistant"),
        ([{"role": "robot", "content": "ada"}], r"messages\[0\].role = 'robot'; not a role"),
        (said("who", " "), r"messages\[1\].content = ' '; a turn needs text"),
        (said("who") * 2, r"messages.role = \['user', 'user'\]; turns alternate"),
        (said("who"), r"messages\[-1\].role = 'user'; there is no answer"),
        (said("who", "eve"), "text = 'eve'; not a word"),
    ],
)
def test_conversations_that_cannot_be_learnt(messages, message):
    with pytest.raises(ValueError, match=message) as caught:
        CHAT.render(messages)
    assert "\n" not in str(caught.value)


def test_a_prompt_ends_with_the_user():
    with pytest.raises(ValueError, match=r"messages\[-1\].role = 'assistant'; nothing was asked"):
        CHAT.prompt(said("who", "ada"))
