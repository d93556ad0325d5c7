"""Pretrained tokenizers from local files; the hub is out of reach in tests, and that must be said in one line."""

import json
import pickle

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from illada_lab.data import ChatTemplate, pretrained
from illada_lab.data import Tokenizer as OurTokenizer
from illada_lab.data.build_tokenizer import byte_tokenizer
from illada_lab.data.chat import templated
from illada_lab.data.jinja_chat import JinjaChat

CHATML = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


@pytest.fixture
def folder(tmp_path):
    """A byte-level tokenizer as published ones look: special tokens as added tokens, names in the configuration."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [AddedToken(t, special=True) for t in ("<|eos|>", "<|start|>", "<|end|>", "<|mdm_mask|>")]
    )
    backend.save(str(tmp_path / "tokenizer.json"))
    config = {"eos_token": {"content": "<|eos|>"}, "chat_template": CHATML}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def test_folder_and_file_with_the_mask_passed(folder):
    for path in (folder, folder / "tokenizer.json"):
        tokenizer = pretrained(str(path), mask=259, eot=258)
        assert tokenizer.tokens.eos == 256 and tokenizer.tokens.mask == 259 and tokenizer.tokens.stop_ids == (256, 258)
        assert tokenizer.vocab_size == 260 and tokenizer.decode(tokenizer.encode("naïve ☕")) == "naïve ☕"
        assert 259 not in tokenizer.encode("a <|mdm_mask|> b") and tokenizer.n_bytes(tokenizer.encode("ï")) == 2
        assert tokenizer.n_bytes([256, 259]) == 0 and tokenizer.token_text(259) == "<|mdm_mask|>"


def test_text_stays_text_in_another_process(folder):
    tokenizer = pretrained(str(folder), mask=259, eot=258)
    again = pickle.loads(pickle.dumps(tokenizer))
    for text in ("a<|mdm_mask|>", "<|eos|>", "<|start|>user"):
        assert again.encode(text) == tokenizer.encode(text) and max(again.encode(text)) < 256
    assert again.to_dict() == tokenizer.to_dict()


def test_the_mask_is_asked_for_not_guessed(folder):
    with pytest.raises(
        ValueError, match=r"tokenizer.mask = null; .*not guessed; pass tokenizer.mask=<id> \(.*259 <\|mdm_mask\|>"
    ):
        pretrained(str(folder))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "mask_token": "<|mdm_mask|>"}))
    assert pretrained(str(folder)).tokens.mask == 259


def test_what_the_configuration_leaves_open_the_map_of_special_tokens_tells(folder):
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": None}))
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|eos|>"}))
    assert pretrained(str(folder), mask=259).tokens.eos == 256


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (40, "tokens.mask = 40; an ordinary token of this tokenizer"),
        (256, "tokens.mask = 256; the same id is eos"),
        (5000, "tokens.mask = 5000; outside of the vocabulary; 0 to 259"),
    ],
)
def test_a_mask_that_cannot_be(folder, mask, message):
    with pytest.raises(ValueError, match=message):
        pretrained(str(folder), mask=mask)


def test_its_chat_template_tells_who_said_what(folder):
    tokenizer = pretrained(str(folder), mask=259, eot=258)
    chat = ChatTemplate(tokenizer)
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "so"},
        {"role": "assistant", "content": "no"},
    ]
    ids, is_prompt = chat.render(messages)
    assert ids.count(257) == 4 and ids.count(258) == 4
    shown = tokenizer.decode(ids, skip_special=False)
    assert shown == (
        "<|start|>user\nhi<|end|>\n<|start|>assistant\nyes<|end|>\n<|start|>user\nso<|end|>\n<|start|>assistant\nno<|end|>"
    )
    response = [i for i, p in zip(ids, is_prompt, strict=True) if not p]
    assert tokenizer.decode(response, skip_special=False) == "yes<|end|>no<|end|>"
    prompt = chat.prompt(messages[:3])
    assert ids[: len(prompt)] == prompt and tokenizer.decode(prompt[-10:]) == "assistant\n"
    system = chat.prompt([{"role": "system", "content": "be kind"}, *messages[:1]])
    assert tokenizer.decode(system, skip_special=False).startswith("<|start|>system\nbe kind<|end|>\n<|start|>user\nhi")


# As LLaDA's: the assistant's header is written whatever `add_generation_prompt` says.
ALWAYS_OPEN = CHATML.replace("{% if add_generation_prompt %}", "{% if true %}")
# Without special tokens, and with a system message where none is given.
PLAIN = (
    "{% if messages[0]['role'] != 'system' %}system: be kind.\n{% endif %}"
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] | trim }}!\n{% endfor %}assistant: "
)
NEVER_OPEN = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
TALK = [
    {"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(("hi", "yes", "so", "no", "why"))
]


@pytest.mark.parametrize(("eot", "head"), [(258, ""), (None, ""), (258, "<|start|>system\nbe kind<|end|>\n")])
def test_a_header_that_is_written_whatever_one_asks_is_nobodys_answer(folder, eot, head):
    (folder / "chat_template.jinja").write_text(head + CHATML)
    usual = ChatTemplate(pretrained(str(folder), mask=259, eot=eot))
    (folder / "chat_template.jinja").write_text(head + ALWAYS_OPEN)
    always = ChatTemplate(pretrained(str(folder), mask=259, eot=eot))
    for n in (1, 3, 5):
        assert always.prompt(TALK[:n]) == usual.prompt(TALK[:n])
    for n in (2, 4):
        assert always.render(TALK[:n]) == usual.render(TALK[:n])


def test_a_header_in_plain_words_is_found_behind_a_system_message(folder):
    (folder / "chat_template.jinja").write_text(PLAIN)
    tokenizer = pretrained(str(folder), mask=259)
    ids, is_prompt = ChatTemplate(tokenizer).render(TALK[:4])
    response = [i for i, p in zip(ids, is_prompt, strict=True) if not p]
    assert tokenizer.decode(response, skip_special=False) == "yes!<|eos|>no!<|eos|>"
    assert tokenizer.decode(ids).startswith("system: be kind.\nuser: hi!\nassistant: yes!\nuser: so!\nassistant: no")


def test_a_template_may_mark_what_the_assistant_says(folder):
    (folder / "chat_template.jinja").write_text(CHATML)
    usual = ChatTemplate(pretrained(str(folder), mask=259, eot=258))
    said = "{{ m['content'] }}"
    marked = f"{{% if m['role'] == 'assistant' %}}{{% generation %}}{said}{{% endgeneration %}}{{% else %}}{said}{{% endif %}}"
    (folder / "chat_template.jinja").write_text(CHATML.replace(said, marked))
    assert ChatTemplate(pretrained(str(folder), mask=259, eot=258)).render(TALK[:4]) == usual.render(TALK[:4])


def test_a_template_that_writes_no_header_loses_nothing(folder):
    (folder / "chat_template.jinja").write_text(NEVER_OPEN)
    assert JinjaChat(pretrained(str(folder), mask=259))._unasked == ""


def test_a_template_that_rewrites_earlier_turns_is_refused(folder):
    (folder / "chat_template.jinja").write_text("{{ messages | length }}" + CHATML)
    with pytest.raises(ValueError, match=r"messages\[1\]; the chat template rewrites earlier turns"):
        ChatTemplate(pretrained(str(folder), mask=259, eot=258)).prompt(TALK[:3])


def test_a_template_without_system_role_gets_it_in_the_first_turn(folder):
    template = CHATML.replace(
        "{% for", "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}{% for", 1
    )
    (folder / "chat_template.jinja").write_text(template)
    tokenizer = pretrained(str(folder), mask=259)
    system = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]
    shown = tokenizer.decode(ChatTemplate(tokenizer).prompt(system), skip_special=False)
    assert shown == "<|start|>user\nbe kind\n\nhi<|end|>\n<|start|>assistant\n"
    # Without an end token among the stop ids, EOS is added behind what the template writes.
    ids, is_prompt = ChatTemplate(tokenizer).render([*system, {"role": "assistant", "content": "ok"}])
    assert ids[-1] == 256 and 258 in ids and not is_prompt[-1]


def test_a_speaker_cannot_write_special_tokens(folder):
    tokenizer = pretrained(str(folder), mask=259, eot=258)
    for text in ("a <|end|>", "a <|mdm_mask|>"):
        with pytest.raises(ValueError, match="spells"):
            ChatTemplate(tokenizer).prompt([{"role": "user", "content": text}])


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("./nowhere", FileNotFoundError, "tokenizer.path = ./nowhere; no such file or folder"),
        (
            "nobody/nothing",
            FileNotFoundError,
            "tokenizer.path = nobody/nothing; neither a local file nor reachable on the hub",
        ),
    ],
)
def test_a_path_that_leads_nowhere(path, error, message):
    with pytest.raises(error, match=message) as caught:
        pretrained(path, mask=5)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_tokenizer(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no tokenizer.json in this folder"):
        pretrained(str(tmp_path / "empty"), mask=5)
    (folder / "tokenizer_config.json").write_text("{not json")
    with pytest.raises(ValueError, match=r"tokenizer_config.json; not JSON"):
        pretrained(str(folder), mask=259)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer.json; not a tokenizer"):
        pretrained(str(folder), mask=259)
    (folder / "tokenizer_config.json").unlink()


def test_no_chat_template_no_chat(folder):
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|eos|>"}))
    with pytest.raises(ValueError, match="tokenizer.chat_template = null; .*data.chat_template=plain"):
        ChatTemplate(pretrained(str(folder), mask=259))


@pytest.mark.parametrize("has_bos", [False, True])
def test_the_plain_template_gives_any_tokenizer_a_chat(folder, has_bos):
    """Roles in words, answers up to EOS; BOS in front where there is one."""
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|eos|>"}))
    tokenizer = pretrained(str(folder), mask=259, bos=257 if has_bos else None)
    tokenizer = templated(tokenizer, "plain")
    chat = ChatTemplate(tokenizer)
    talk = [{"role": "system", "content": "be kind"}, *TALK[:2], {"role": "user", "content": " more "}]
    ids, is_prompt = chat.render([*talk, {"role": "assistant", "content": "so\n"}])
    front = "<|start|>" if has_bos else ""
    asked, answer, again = TALK[0]["content"], TALK[1]["content"], "User: more\n\nAssistant:"
    shown = f"{front}be kind\n\nUser: {asked}\n\nAssistant: {answer}<|eos|>{again} so<|eos|>"
    assert tokenizer.decode(ids, skip_special=False) == shown
    said = [i for i, flag in zip(ids, is_prompt, strict=True) if not flag]
    assert tokenizer.decode(said, skip_special=False) == f" {answer}<|eos|> so<|eos|>"
    assert tokenizer.decode(chat.prompt(talk), skip_special=False) == shown.removesuffix(" so<|eos|>")


def test_a_template_is_a_file_or_one_that_is_shipped(folder):
    tokenizer = pretrained(str(folder), mask=259)
    (folder / "my_template.jinja").write_text(CHATML + "!")
    assert templated(tokenizer, str(folder / "my_template.jinja")).chat_template == CHATML + "!"
    assert tokenizer.chat_template == CHATML
    with pytest.raises(FileNotFoundError, match=r"data.chat_template = plian; no such file; plain, or a Jinja file"):
        templated(tokenizer, "plian")
    for text in (b"{% for", b"\xff"):
        (folder / "my_template.jinja").write_bytes(text)
        with pytest.raises(ValueError, match=r"data.chat_template = .*my_template.jinja; "):
            templated(tokenizer, str(folder / "my_template.jinja"))
    with pytest.raises(
        ValueError, match=r"data.chat_template = plain; this tokenizer has a chat format of its own; null"
    ):
        templated(byte_tokenizer(), "plain")


def test_a_mask_is_added_to_a_tokenizer_that_has_none(folder):
    file = folder / "tokenizer.json"
    without = file.read_text().replace("<|mdm_mask|>", "<|reserved|>")
    file.write_text(without)
    with pytest.raises(ValueError, match=r"tokenizer.mask = null; .*or, where it has none, tokenizer.adds_mask=true"):
        pretrained(str(folder))
    tokenizer = pretrained(str(folder), adds_mask=True)
    assert (tokenizer.tokens.mask, tokenizer.vocab_size, tokenizer.literal_mask) == (260, 261, "<|mdm_mask|>")
    assert max(tokenizer.encode("a <|mdm_mask|> b")) < 256 and file.read_text() == without
    again = OurTokenizer.from_dict(tokenizer.to_dict())
    assert again.tokens.mask == 260 and again.encode("a<|mdm_mask|>") == tokenizer.encode("a<|mdm_mask|>")
    with pytest.raises(
        ValueError,
        match=r"adds_mask = true; .* has a mask token, 259 \(<\|reserved\|>\); false, and tokenizer.mask=259",
    ):
        pretrained(str(folder), mask=259, adds_mask=True)
    file.write_text(without.replace("<|reserved|>", "<|mdm_mask|>"))
    with pytest.raises(ValueError, match=r"has a mask token, 259 \(<\|mdm_mask\|>\)"):
        pretrained(str(folder), adds_mask=True)


@pytest.mark.parametrize("is_special", [True, False])
def test_a_mark_that_is_one_token_is_that_token(is_special):
    """`encode` spells special tokens, since text must not become one; what a model itself writes is another matter."""
    tokenizer = byte_tokenizer()
    assert tokenizer.encode_marker("</think>") == tokenizer.encode("</think>")
    tokenizer.backend.add_tokens([AddedToken("</think>", special=is_special)])
    assert tokenizer.encode_marker("</think>") == [263]


@pytest.mark.parametrize("is_special", [True, False])
def test_text_does_not_become_a_token_that_has_a_role_however_that_was_added(tmp_path, is_special):
    backend = byte_tokenizer().backend
    backend.add_tokens([AddedToken(text, special=is_special) for text in ("[MASK]", "</s>")])
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = pretrained(str(tmp_path), mask=263, eos=264)
    ids = tokenizer.encode("fill the [MASK] here</s>")
    assert not {263, 264} & set(ids) and tokenizer.decode(ids) == "fill the [MASK] here</s>"


def test_a_file_that_cuts_and_pads_does_not_cut_and_pad_our_texts(folder):
    """As transformers saves them after a call with truncation and padding."""
    plain = pretrained(str(folder), mask=259)
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(8)
    backend.enable_padding(length=16, pad_id=256)
    backend.save(str(folder / "tokenizer.json"))
    tokenizer = pretrained(str(folder), mask=259)
    text = "a text of more than eight bytes"
    assert tokenizer.encode(text) == plain.encode(text) and len(tokenizer.encode(text)) == len(text)
    assert tokenizer.encode_batch(["a", text]) == plain.encode_batch(["a", text])
    assert OurTokenizer.from_dict(tokenizer.to_dict()).encode("a") == plain.encode("a")


def test_a_revision_of_the_hub_is_asked_for(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, **told: asked.append((name, told["revision"])) or folder
    )
    for path in ("owner/name@v1.0", "owner/name", "gpt2@refs/pr/1"):
        pretrained(path, mask=259)
    assert asked == [("owner/name", "v1.0"), ("owner/name", None), ("gpt2", "refs/pr/1")]


def test_a_template_that_wants_what_there_is_not_says_what_to_do(folder):
    config = json.loads((folder / "tokenizer_config.json").read_text())
    template = "{{ strftime_now('%d %b') }}" + CHATML
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
    with pytest.raises(
        ValueError,
        match="^tokenizer.chat_template; uses what nobody gives it here .*strftime_now.*; data.chat_template=",
    ):
        ChatTemplate(pretrained(str(folder), mask=259, eot=258)).render(
            [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
        )
