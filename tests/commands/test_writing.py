"""sample, infill, chat and trace on the command line."""

import io
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, pre_tokenizers
from tokenizers import models as models_of

import illada_lab.commands.writing
import illada_lab.samplers.fixed_length
import illada_lab.samplers.infill
from illada_lab.cli import _free_text, main
from illada_lab.commands import writing
from illada_lab.commands.chat import _all_that_fit, _fitting, _remembered, _room
from illada_lab.commands.infill import text_ids
from illada_lab.commands.sample import prompt_ids
from illada_lab.config import compose_and_check
from illada_lab.data.build_tokenizer import byte_tokenizer, train_bpe, word_tokenizer
from illada_lab.data.chat import ChatTemplate
from illada_lab.data.tokenizer import Tokenizer
from illada_lab.evaluation.answerer import Answerer
from illada_lab.samplers import FixedLength, VariableLength
from illada_lab.samplers.result import Sampled
from illada_lab.tokens import ASSISTANT, ILLADA, SpecialTokens
from illada_lab.training.checkpoint import LoadedRun, load_run
from tests.small import small_predictor

SHORT = ["sampler.response_length=6", "sampler.block_length=3"]


def said(capsys):
    captured = capsys.readouterr()
    return captured.out, captured.err


def sampled(capsys, *words):
    assert main(["sample", *words, "--json"]) == 0
    out, _ = said(capsys)
    assert out.count("\n") == 1
    return json.loads(out)


def test_sample_prints_text_or_one_json_object(models, capsys):
    assert main(["sample", models["base"], *SHORT, "n_samples=4", "prompt=ada lives in"]) == 0
    out, err = said(capsys)
    assert out.startswith("ada lives in | ") and "(6 passes," in out and "n_samples = 4; has no effect" in err
    found = sampled(capsys, models["base"], *SHORT, "n_samples=3", "sampler.temperature=1.0", "seed=2")
    assert len(found["samples"]) == 3 and {s["nfe"] for s in found["samples"]} == {6}
    assert found["sampler"]["temperature"] == 1 and found["seed"] == 2 and found["prompt"] is None
    assert len({s["text"] for s in found["samples"]}) == 3


def test_seeds_make_samples_repeatable(models, capsys):
    words = [models["base"], *SHORT, "n_samples=2", "sampler.temperature=1.0"]
    one, two, other = (sampled(capsys, *words, f"seed={seed}")["samples"] for seed in (1, 1, 2))
    assert one == two and one != other


def test_infill_fills_the_holes_and_leaves_the_rest(models, capsys):
    assert main(["infill", models["base"], "text=ada ___ in ___*2 .", "sampler.ban_eos=true", "--json"]) == 0
    found = json.loads(said(capsys)[0])
    words = found["samples"][0]["text"].split()
    assert (
        len(words) == 6
        and words[0] == "ada"
        and words[2] == "in"
        and words[5] == "."
        and found["samples"][0]["nfe"] == 3
    )
    assert main(["infill", models["base"], "text=ada ___ .", "sampler=infill", "sampler.n_steps=1"]) == 0
    assert "(1 passes" in said(capsys)[0]


def sentence_piece() -> Tokenizer:
    """As SentencePiece has it: a space belongs to the word behind it, and one stands in front of every text."""
    vocabulary = {text: i for i, text in enumerate(["<mask>", "<eos>", "▁Ada", "▁lives", "▁in", "▁Rome", ".", "▁"])}
    backend = Backend(models_of.BPE(vocabulary, [], unk_token="<eos>", ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Split(".", "isolated")])
    backend.decoder = decoders.Metaspace()
    return Tokenizer(backend, SpecialTokens(mask=0, eos=1), special_text={0: "<mask>", 1: "<eos>"})


@pytest.mark.parametrize("tokenizer", [train_bpe(["Ada lives in Rome."] * 9, 320), sentence_piece(), byte_tokenizer()])
@pytest.mark.parametrize("word", ["Ada", "lives", "Rome"])
def test_a_filled_text_is_the_text_as_the_tokenizer_writes_it(tokenizer, word):
    """A hole takes the place of a word's tokens: a space belongs to the word where the tokenizer has it so, and to the text in bytes."""
    text, mask = "Ada lives in Rome.", tokenizer.tokens.mask
    loaded = SimpleNamespace(tokenizer=tokenizer, config={"data": {"adds_bos": False, "adds_eos": False}})
    whole = tokenizer.encode(text)
    n = len(tokenizer.encode(word)) if len(whole) > 10 else 1
    ids = text_ids(text.replace(word, f"___*{n}"), loaded)
    start = ids.index(mask)
    assert ids.count(mask) == n and len(ids) == len(whole)
    assert [*ids[:start], *whole[start : start + n], *ids[start + n :]] == whole
    assert tokenizer.decode(whole) == text


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("infill", ["text=ada lives ."], "has no hole; ___ where a token is wanted"),
        ("infill", [], "text = null; what is to be filled?"),
        ("infill", ["text=ada ___ .", "sampler.response_length=4"], "response_length = 4; there is no such key"),
        ("infill", ["text=ada ___ .", "sampler=fixed_length"], "FixedLength; writes behind a prompt, fills no holes"),
        ("infill", ["text=ada ___*0 ."], "a hole of 0 tokens; 1 to 10000"),
        ("infill", ["text=adda ___ ."], "text = 'adda'; not a word of this model's vocabulary; ada"),
        ("sample", ["prompt='ada <mask>'"], "spells the mask token <mask>"),
        ("sample", ["sampler=infill"], "sampler = infill; fills a given text"),
        ("chat", [], "a base model, which does not answer"),
        (
            "sample",
            ["model.n_layers=2"],
            "model.n_layers = 2; has no effect on sample; sample reads checkpoint, dtype, prompt",
        ),
        ("sample", ["text=ada ___"], "text = 'ada ___'; has no effect on sample"),
        ("sample", ["n_samples=0"], "n_samples = 0; out of range; 1 or more"),
        (
            "sample",
            ["seed=18446744073709551616"],
            "seed = 18446744073709551616; out of range; 0 to 4294967295",
        ),
        ("sample", ["sampler=variable_length", "sampler.stop_ids=[99999]"], "99999 is not in the vocabulary; 0 to"),
        ("infill", ["text=ada ___ .", "prompt=ada"], "prompt = 'ada'; has no effect on infill"),
        ("infill", ["text=ada ___ .", "is_chat=true"], "is_chat = True; a text with holes is no conversation"),
        ("sample", ["is_chat=maybe"], "is_chat = 'maybe'; text is not what it takes; true or false or null"),
        ("chat", [], "one of experiment=sft, or is_chat=true"),
        ("chat", ["is_chat=false"], "is_chat = false; a conversation stands in the chat format; null or true"),
        ("chat", ["trace=t.jsonl"], "trace = t.jsonl; has no effect on chat"),
        ("chat", ["n_turns=-1"], "n_turns = -1; out of range; 0 or more"),
    ],
)
def test_bad_input_of_the_commands(models, capsys, command, words, message):
    assert main([command, models["base"], *words]) == 2
    out, err = said(capsys)
    assert message in err and err.count("\n") == 1 and not out


@pytest.mark.parametrize(
    "text",
    [
        "it's",
        "x < y",
        "a <b> c",
        "a, b",
        "${seed}",
        "\\",
        "a\\'b\\\\",
        "[x",
        "k=v",
        "{",
        '"a" b',
        "5",
        "true",
        "  a  ",
        "\u2028 é",
    ],
)
def test_free_text_needs_no_quotes(text):
    """What stands behind prompt= and text= reaches the model as it was written."""
    for key in ("prompt", "text"):
        assert compose_and_check([_free_text(f"{key}={text}")])[key] == text
    assert compose_and_check([_free_text("prompt='a, b'")]).prompt == "a, b"
    assert compose_and_check([_free_text("prompt=null")]).prompt is None


def test_a_word_with_an_apostrophe_is_a_word_like_another(models, capsys):
    assert main(["sample", models["base"], "prompt=it's"]) == 2
    assert "\"it's\"; not a word of this model's vocabulary" in said(capsys)[1]


@pytest.mark.parametrize("command", ["sample", "chat"])
def test_a_text_ends_where_its_stop_string_begins(monkeypatch, capsys, command):
    """Within a token as well."""
    tokenizer = word_tokenizer(["ada", "wrote", "?"])
    config = {"data": {"source": {"stage": "sft"}}, "scale": {"name": "toy"}}
    loaded = LoadedRun(small_predictor(), tokenizer, config, step=1, path=Path("a"))
    x, numbers = torch.tensor([tokenizer.encode("ada wrote")]), torch.tensor([2])
    out = Sampled(x, x.tolist(), ["stop"], numbers, numbers, [], 2)
    monkeypatch.setattr(writing, "load", lambda config: loaded)
    monkeypatch.setattr(writing, "build_sampler", lambda *_: SimpleNamespace(stop_strings=["ote"], max_length=9))
    monkeypatch.setattr(writing, "write", lambda *_, **__: writing.Written(["ada wrote"], ["stop"], 0.1, out))
    monkeypatch.setattr("sys.stdin", io.StringIO("ada ?\n"))
    words = ["prompt=ada ?"] if command == "sample" else []
    assert main([command, "checkpoint=a", *words, "--json"]) == 0
    found = json.loads(said(capsys)[0].splitlines()[0])
    assert (found["samples"][0]["text"] if command == "sample" else found["answer"]) == "ada wr"


@pytest.mark.parametrize("words", [["sample"], ["chat"], ["infill", "text=ada ___"]])
def test_an_autoregressive_model_is_sent_to_where_it_can_answer(monkeypatch, capsys, words):
    config = {"data": {"source": {"stage": "sft"}}, "scale": {"name": "toy"}}
    loaded = LoadedRun(small_predictor(is_causal=True), word_tokenizer(["ada"]), config, step=1, path=Path("a"))
    monkeypatch.setattr(writing, "load", lambda config: loaded)
    assert main([words[0], "checkpoint=a", *words[1:]]) == 2
    told = "checkpoint = a; an autoregressive model, which fills in no masks; illada-lab evaluate, which lets it answer"
    assert told in said(capsys)[1]


def test_chat_does_not_start_with_a_sampler_of_holes(models, capsys):
    assert main(["chat", models["instruct"], "sampler=infill"]) == 2
    assert "sampler = infill; fills a given text, writes no answers" in said(capsys)[1]


def test_chat_says_what_is_no_text(models, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"where \xff ?\n"), encoding="utf-8"))
    assert main(["chat", models["instruct"], "--json"]) == 2
    assert r"question = b'where \xff ?\n'; is not text in utf-8" in said(capsys)[1]


class Template:
    """A token per letter, one for the question mark."""

    def prompt(self, turns):
        return [0] * sum(len(turn["content"]) for turn in turns)


@pytest.mark.parametrize(("room", "n_kept"), [(100, 2), (23, 2), (22, 1), (13, 1), (12, 0), (1, 0)])
def test_the_oldest_turns_leave_a_conversation_first(room, n_kept):
    turns = [{"role": role, "content": text} for text in ("first", "later") for role in ("user", "assistant")]
    prompt, kept = _fitting(Template(), turns, "now", room)
    assert kept == turns[len(turns) - 2 * n_kept :] and len(prompt) == 3 + 10 * n_kept


@pytest.mark.parametrize(("budget", "room"), [(1024, 3072), (2048, 2048), (3000, 2048), (4096, 2048), (9999, 2048)])
def test_turns_have_half_of_the_context_where_the_sampler_cuts_its_budget(budget, room):
    """As the harness has it; a response of fixed length is never cut."""
    loaded = SimpleNamespace(predictor=SimpleNamespace(spec=SimpleNamespace(max_length=4096)))
    sampler = VariableLength(max_length=budget, block_length=32)
    assert _room(loaded, sampler) == room == Answerer._prompt_room(loaded, sampler)
    assert _room(loaded, FixedLength(response_length=4000)) == 96


def test_turns_that_are_dropped_for_room_are_said_to_be_once(models, capsys, monkeypatch):
    """A budget as long as the context leaves room for turns; two long questions, each of which takes the place of some."""
    prompts, write = [], illada_lab.commands.writing.write
    monkeypatch.setattr(
        "illada_lab.commands.writing.write", lambda *a, **k: prompts.append(len(a[2])) or write(*a, **k)
    )
    monkeypatch.setattr("illada_lab.commands.chat._remembered", lambda chat, said, answered: "ada")
    lines = iter(["where does ada live ?"] * 4 + ["where " * 110 + "?"] * 2 + [""])
    monkeypatch.setattr("builtins.input", lambda shown: next(lines))
    words = ["n_turns=9", "sampler=variable_length", "sampler.max_length=256", "sampler.steps_per_block=1"]
    assert main(["chat", models["instruct"], *words]) == 0
    assert prompts[0] < prompts[1] < prompts[2] < prompts[3] < 110 < prompts[4] and prompts[5] < 128
    err = said(capsys)[1]
    told = "turns = 1 of 4; the first ones are dropped: an answer leaves 128 tokens of the context for the prompt\n"
    assert err.count("turns = ") == 1 and told in err


def jinja_chat() -> ChatTemplate:
    """A published tokenizer of bytes; one of its special tokens has no role."""
    backend = Backend.from_str(byte_tokenizer().backend.to_str())
    backend.add_special_tokens(["<|eos|>", "<|start|>", "<|mask|>"])
    eos, mask = (backend.token_to_id(name) for name in ("<|eos|>", "<|mask|>"))
    turns = "{% for m in messages %}<|start|>{{ m['content'] }}<|eos|>{% endfor %}"
    template = turns + "{% if add_generation_prompt %}<|start|>{% endif %}"
    return ChatTemplate(Tokenizer(backend, SpecialTokens(mask=mask, eos=eos), chat_template=template))


@pytest.mark.parametrize(
    ("chat", "answer", "remembered"),
    [
        (ChatTemplate(byte_tokenizer()), "ada", "ada"),
        (ChatTemplate(byte_tokenizer()), " \n", ""),
        (ChatTemplate(byte_tokenizer()), "", ""),
        (ChatTemplate(byte_tokenizer()), "a <mask> b", "a  b"),
        (jinja_chat(), "ada\n", "ada\n"),
        (jinja_chat(), "\n", ""),
        (jinja_chat(), "<|start|>ada<|eos|>", "ada"),
        (jinja_chat(), "<|st<|eos|>art|>", ""),
        (jinja_chat(), "a<|mask|>b", "ab"),
    ],
)
def test_an_answer_is_remembered_in_a_form_that_can_be_a_turn(chat, answer, remembered):
    assert _remembered(chat, "who ?", answer) == remembered
    if remembered:
        turns = [("user", "who ?"), ("assistant", remembered), ("user", "and now ?")]
        assert chat.prompt([{"role": role, "content": text} for role, text in turns])


@pytest.mark.parametrize("is_json", [False, True])
def test_an_answer_that_cannot_be_a_turn_does_not_end_the_conversation(models, capsys, monkeypatch, is_json):
    """Such an answer made every later question an error, until /new."""
    words = ["chat", models["instruct"], "n_turns=4", "sampler=fixed_length", *SHORT, "sampler.ban_eos=true"]
    eos, fill = ILLADA.eos, illada_lab.samplers.fixed_length.fill_window

    def ends(asker, canvas, *rest):
        fill(asker, canvas, *rest)
        canvas.x[:, canvas.n_prompt :] = torch.tensor([ILLADA.pad, *[eos] * 5])  # <pad> is no word of the vocabulary

    monkeypatch.setattr(illada_lab.samplers.fixed_length, "fill_window", ends)
    lines = ["where does ada live ?", "does ada live ?", ""]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    shown = iter(lines)
    monkeypatch.setattr("builtins.input", lambda _: next(shown))
    assert main([*words, *["--json"] * is_json]) == 0
    out, _ = said(capsys)
    if is_json:
        *found, _ = map(json.loads, out.splitlines())
        assert [(line.get("error"), line["answer"], line["remembered"]) for line in found] == [(None, "<pad>", "")] * 2
    else:
        assert out.count("(nothing that can be a turn: the question is forgotten too)") == 2 and "not a word" not in out


class Rewriting(Template):
    """Refuses a second turn, and questions that shout."""

    def prompt(self, turns):
        if turns[-1]["content"].isupper():
            raise ValueError("question; too loud; softer")
        if len(turns) > 1:
            raise ValueError("messages[2]; earlier turns; one turn at a time")
        return super().prompt(turns)


def test_turns_that_cannot_be_kept_are_said_to_be_forgotten_how():
    turns = [{"role": "user", "content": "first"}, {"role": "assistant", "content": "yes"}]
    with pytest.raises(ValueError, match="one turn at a time: /new forgets the turns before, n_turns=0 keeps none$"):
        _fitting(Rewriting(), turns, "now", 100)
    with pytest.raises(ValueError, match="softer$"):
        _fitting(Rewriting(), turns, "NOW", 100)
    assert _fitting(Rewriting(), [], "now", 100) == ([0] * 3, [])


def test_a_chat_model_writes_as_a_base_model_where_it_is_told_to(models, capsys):
    assert main(["sample", models["instruct"], *SHORT, "n_samples=1"]) == 2
    assert "prompt='what did ada write ?', or is_chat=false" in said(capsys)[1]
    found = sampled(capsys, models["instruct"], *SHORT, "n_samples=1", "is_chat=false")
    assert found["is_chat"] is False and found["prompt"] is None
    assert main(["infill", models["instruct"], "text=ada ___ ."]) == 2
    assert "its pre-trained one, or is_chat=false" in said(capsys)[1]
    assert main(["infill", models["instruct"], "text=ada ___ .", "is_chat=false"]) == 0
    out = said(capsys)[0]
    assert out.startswith("ada ") and "(1 passes" in out


def test_a_base_model_is_asked_in_the_chat_format_where_it_is_told_to(models, capsys):
    asked = [models["base"], *SHORT, "n_samples=1", "prompt=where does ada live ?"]
    assert sampled(capsys, *asked, "is_chat=true")["is_chat"] is True
    config = compose_and_check([*asked, "is_chat=true"])
    loaded = load_run(config.checkpoint)
    assert prompt_ids(config, loaded)[-1] == ASSISTANT
    config.is_chat = None
    assert prompt_ids(config, loaded)[-1] != ASSISTANT


def test_turns_are_kept_where_a_model_was_trained_on_them(models):
    """A published model, or one of conversations; not one of single questions."""
    folder = models["instruct"].partition("=")[2]
    loaded = load_run(folder)
    assert _all_that_fit(loaded) == 0
    loaded.config["data"]["source"]["messages_field"] = "messages"
    assert _all_that_fit(loaded) > 1000


def test_what_a_checkpoint_says_of_its_data_comes_before_where_they_are_from(models):
    """Shards and sources of one's own name neither a stage nor a field."""
    source = {"path": "shards"}
    for told, expected in ((True, True), (False, False), (None, False)):
        assert writing.is_chat({"data": {"source": source}, "has_conversations": told}) is expected
    assert writing.is_chat({"data": {"source": {**source, "messages_field": "messages"}}, "has_conversations": None})
    for name, expected in (("base", False), ("instruct", True)):
        assert load_run(models[name].partition("=")[2]).config["has_conversations"] is expected


def test_chat_asks_a_base_model_where_it_is_told_to(models, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("where does ada live ?\n"))
    words = ["is_chat=true", "--json", "sampler=variable_length", "sampler.max_length=16"]
    assert main(["chat", models["base"], *words]) == 0
    assert json.loads(said(capsys)[0].splitlines()[0])["question"] == "where does ada live ?"


PANEL = ["stop reasons", "empty answers", "EOS by position", "EOS by step", "answers with a loop", "passes per answer",
         "tokens per answer", "tokens per second"]  # fmt: skip


def test_every_sample_has_its_health_panel(models, capsys):
    """All rows, in the terminal and in JSON; a base model may fill its length."""
    words = [models["base"], *SHORT, "n_samples=3", "sampler.temperature=1.0", "seed=2", "sampler.ban_eos=true"]
    found = {row["name"]: row for row in sampled(capsys, *words)["health"]}
    assert list(found) == PANEL and found["stop reasons"]["value"] == "length 100.0%"
    assert not found["stop reasons"]["is_warning"] and found["EOS by position"]["value"].endswith("0% to 0%")
    assert main(["sample", *words]) == 0
    out, err = said(capsys)
    panel = out[out.index("health\n") :]
    assert out.index("passes, ") < out.index("health\n") and all(f"  {name} " in panel for name in PANEL[:2])
    assert "passes per answer    6.0" in panel and "\n! " not in panel.replace("\n! answers with a loop", "")


def test_a_chat_model_that_fills_its_length_is_warned_of(models, capsys):
    words = [models["instruct"], *SHORT, "prompt=where does ada live ?", "sampler.ban_eos=true"]
    assert main(["sample", *words]) == 0
    assert (
        "! stop reasons         length 100.0%  (length: the budget was filled; max_length or response_length of the sampler)"
        in said(capsys)[0]
    )


def test_answers_of_nothing_are_warned_of(models, capsys, monkeypatch):
    """The known pattern, in the panel's own words: every answer ends before it begins."""
    fill, eos = illada_lab.samplers.fixed_length.fill_window, ILLADA.eos

    def ends(asker, canvas, *rest):
        fill(asker, canvas, *rest)
        canvas.x[:, canvas.n_prompt :] = eos

    monkeypatch.setattr(illada_lab.samplers.fixed_length, "fill_window", ends)
    assert main(["sample", models["instruct"], *SHORT, "prompt=where does ada live ?"]) == 0
    assert "! empty answers        100.0%  (most answers are EOS or blanks only: try a chat format" in said(capsys)[0]


def test_filled_texts_have_a_panel_of_their_holes(models, capsys):
    words = ["infill", models["base"], "text=ada ___ in ___*2 .", "sampler.ban_eos=true"]
    assert main([*words, "--json"]) == 0
    found = {row["name"]: row["value"] for row in json.loads(said(capsys)[0])["health"]}
    assert list(found) == [name for name in PANEL if name != "empty answers"]
    assert found["stop reasons"] == "filled 100.0%" and found["tokens per answer"] == "3.0"
    # A loop in what was given is no loop of the model's.
    assert main(["infill", models["base"], "text=ada ada ada in ___ ."]) == 0
    out, _ = said(capsys)
    assert "health\n" in out and "answers with a loop  0.0%" in out and "tokens per answer    1.0" in out


@pytest.mark.parametrize("command", ["sample", "infill"])
def test_a_trace_that_cannot_be_written_is_said_before_anything_is_sampled(models, capsys, tmp_path, command):
    (tmp_path / "file").write_text("kept")
    what = "text=ada ___ ." if command == "infill" else "n_samples=1"
    for trace, why in ((tmp_path, "is a folder"), (tmp_path / "file" / "t.jsonl", "file is a file, not a folder")):
        assert main([command, models["base"], what, f"trace={trace}"]) == 2
        out, err = said(capsys)
        assert f"trace = {trace}; " in err and why in err and err.count("\n") == 1 and not out
    assert (tmp_path / "file").read_text() == "kept"


def test_ctrl_c_keeps_a_text_with_holes(models, capsys, monkeypatch):
    """All of it, also where it begins with what ends other texts."""
    fill = illada_lab.samplers.infill.fill_window

    def interrupted(asker, canvas, *rest):
        shown = canvas.on_step

        def on_step(canvas):
            canvas.x[:, 0] = asker.predictor.tokens.eos
            shown(canvas)
            raise KeyboardInterrupt

        canvas.on_step = on_step
        fill(asker, canvas, *rest)

    monkeypatch.setattr(illada_lab.samplers.infill, "fill_window", interrupted)
    assert main(["infill", models["base"], "text=ada ___ in ___*2 .", "sampler.ban_eos=true"]) == 130
    out = said(capsys)[0]
    assert out.startswith("ada ") and " in " in out and out.count("▢") == 2 and "<" not in out and "(interrupted" in out


def test_ctrl_c_keeps_what_was_written(models, capsys, monkeypatch, tmp_path):
    """The third step is interrupted: two of six tokens are there."""
    fill = illada_lab.samplers.fixed_length.fill_window

    def interrupted(asker, canvas, *rest):
        shown, steps = canvas.on_step, []

        def on_step(canvas):
            shown(canvas)
            steps.append(1)
            if len(steps) == 2:
                raise KeyboardInterrupt

        canvas.on_step = on_step
        fill(asker, canvas, *rest)

    monkeypatch.setattr(illada_lab.samplers.fixed_length, "fill_window", interrupted)
    trace = tmp_path / "t.jsonl"
    assert main(["sample", models["base"], *SHORT, "n_samples=1", "sampler.ban_eos=true", f"trace={trace}"]) == 130
    out, err = said(capsys)
    assert out.count("▢") == 4 and "(interrupted" in out and "not written: the run was interrupted" in err
    assert not trace.exists()
    assert main(["sample", models["base"], *SHORT, "n_samples=1", "--json"]) == 130
    assert json.loads(said(capsys)[0])["samples"][0]["stop_reason"] == "interrupted"


def test_ctrl_c_in_chat_leaves_no_holes_in_the_conversation(models, capsys, monkeypatch):
    """An answer is remembered up to its first hole; where that is its beginning, the question is forgotten too."""
    fill, prompt, asked, mask = illada_lab.samplers.fixed_length.fill_window, ChatTemplate.prompt, [], ILLADA.mask
    rows = iter([[8, 9, mask, 9], [mask, 9, 9, 9]])

    def interrupted(asker, canvas, *rest):
        if (row := next(rows, None)) is None:
            return fill(asker, canvas, *rest)
        canvas.x[0, canvas.n_prompt : canvas.n_prompt + 4] = torch.tensor(row)
        canvas.on_step(canvas)
        raise KeyboardInterrupt

    monkeypatch.setattr(illada_lab.samplers.fixed_length, "fill_window", interrupted)
    monkeypatch.setattr(ChatTemplate, "prompt", lambda self, turns: asked.append(turns) or prompt(self, turns))
    lines = iter(["where does ada live ?"] * 2 + ["does ada live ?", ""])
    monkeypatch.setattr("builtins.input", lambda shown: next(lines))
    assert main(["chat", models["instruct"], "n_turns=4", "sampler=fixed_length", *SHORT]) == 0
    out, _ = said(capsys)
    written = load_run(models["instruct"].partition("=")[2]).tokenizer.decode([8, 9])
    last = [[turn["content"] for turn in turns] for turns in asked if turns[-1]["content"] == "does ada live ?"]
    assert ["where does ada live ?", written, "does ada live ?"] in last
    assert "▢" in out and f"(remembered: {written})" in out and out.count("the question is forgotten too") == 1


def test_chat_answers_line_by_line(models, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("where does ada live ?\nwho is zzz ?\n\nnever asked\n"))
    assert main(["chat", models["instruct"], "--json", "sampler=variable_length", "sampler.max_length=16"]) == 0
    *lines, last = [json.loads(line) for line in said(capsys)[0].splitlines()]
    assert [line["question"] for line in lines] == ["where does ada live ?", "who is zzz ?"]
    # At the end the panel of all answers; the question that was refused has none.
    assert [row["name"] for row in last["health"]] == PANEL and last["health"][5]["value"] == f"{lines[0]['nfe']}.0"
    assert lines[0]["nfe"] in (8, 16) and "answer" in lines[0] and "not a word" in lines[1]["error"]


def test_chat_as_a_person_sees_it(models, capsys, monkeypatch):
    asked = iter(["where does ada live ?", "/new", "where does zzz live ?", ""])
    monkeypatch.setattr("builtins.input", lambda shown: next(asked))
    assert main(["chat", models["instruct"], "n_turns=1"]) == 0
    out, _ = said(capsys)
    assert out.startswith("an empty line ends") and "(prompt = 'zzz'; not a word" in out
    assert out.index("health\n") > out.index("zzz") and "  passes per answer " in out


def test_traces_are_shown_compared_and_rendered(models, capsys, tmp_path):
    files = [str(tmp_path / name) for name in ("one.jsonl", "two.jsonl")]
    for file, steps in zip(files, (6, 2), strict=True):
        words = ["sample", models["base"], *SHORT, "n_samples=1", f"sampler.n_steps={steps}", f"trace={file}"]
        assert main([*words, "sampler.ban_eos=true"]) == 0
    assert f"trace: {files[0]}" in said(capsys)[1]
    assert main(["trace", "show", files[0]]) == 0
    out, _ = said(capsys)
    assert out.count("\n   ") >= 6 and "▢" in out and "length, 6 passes" in out and "seed: 0" in out
    assert main(["trace", "diff", files[0], files[0]]) == 0
    assert "1 of 1 rows are revealed token by token alike" in said(capsys)[0]
    assert main(["trace", "diff", *files]) == 1
    out, _ = said(capsys)
    assert "date" not in out
    assert "row 0: part at step 1, position" in out and "n_steps" in out and "0 of 1 rows" in out
    assert main(["trace", "html", files[0]]) == 0
    page = (tmp_path / "one.html").read_text()
    assert page.count("not recorded") == 2  # in the player's script alone
    assert main(["trace", "html", files[0], files[0]]) == 2
    assert "one.jsonl; the trace itself, which would be lost; another file, such as one.html" in said(capsys)[1]
    assert main(["trace", "show", files[0]]) == 0
    assert "denoiser" in page and "row 0" in page and "No task was evaluated" not in page and "FixedLength" in page


def played(page: Path) -> list[dict]:
    """The traces in a page."""
    (found,) = re.findall(r'<script type="application/json" id="traces">(.*?)</script>', page.read_text(), re.DOTALL)
    return json.loads(found)["traces"]


def test_a_page_shows_what_was_given_and_blocks_as_they_come(models, capsys, tmp_path):
    assert (
        main(["infill", models["base"], "text=ada ___ in ___ .", "n_samples=1", f"trace={tmp_path / 'a.jsonl'}"]) == 0
    )
    assert main(["trace", "html", str(tmp_path / "a.jsonl")]) == 0
    (trace,) = played(tmp_path / "a.html")
    given, shown = dict(trace["given"]), [p for frame in trace["frames"] for p, *_ in frame["set"]]
    assert {"ada", "in", "."} <= set(given.values()) and len(shown) == 2 and not set(given) & set(shown)
    assert [frame["step"] for frame in trace["frames"]] == [1, 2]
    words = ["n_samples=3", "sampler.max_length=12", "sampler.block_length=4", f"trace={tmp_path / 'b.jsonl'}"]
    assert main(["sample", models["base"], "sampler=variable_length", *words]) == 0
    assert main(["trace", "html", str(tmp_path / "b.jsonl")]) == 0
    for trace in played(tmp_path / "b.html"):
        assert trace["grows"] and trace["block"] == 4 and trace["n"] % 4 == 0 and not trace["given"]
        assert trace["n"] == 1 + max(p for frame in trace["frames"] for p, *_ in frame["set"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show"], "not a use of it; trace show FILE"),
        (["diff", "a"], "not a use of it"),
        (["show", "nowhere.jsonl"], "nowhere.jsonl; no such file"),
    ],
)
def test_trace_is_refused_in_one_line(words, message, capsys):
    assert main(["trace", *words]) == 2
    err = said(capsys)[1]
    assert message in err and err.count("\n") == 1
