"""Text, JSONL and Parquet files: every byte arrives, what is held out stays out, bad files are named with the place."""

import codecs
import gzip
import json
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest

from illada_lab.data import files
from illada_lab.data.files import pieces_of, read_text
from illada_lab.data.find import stamp
from illada_lab.data.text import TextSource

SHAKESPEARE = Path(__file__).parents[3] / "shared" / "data" / "tinyshakespeare.txt"
TEXTS = [f"document {i} says naïve things ." for i in range(40)]
CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]


@pytest.fixture(params=["text", "json", "parquet"])
def path(request, tmp_path):
    """The same documents in each format."""
    if request.param == "text":
        file = tmp_path / "a.txt"
        file.write_text("\n\n".join(TEXTS))
    elif request.param == "json":
        file = tmp_path / "a.jsonl"
        file.write_text("\n".join(json.dumps({"text": text, "id": i}) for i, text in enumerate(TEXTS)) + "\n")
    else:
        file = tmp_path / "a.parquet"
        datasets.Dataset.from_dict({"text": TEXTS, "id": list(range(40))}).to_parquet(str(file))
    return file


def texts(source: TextSource, split: str) -> list[str]:
    return [row["text"].rstrip() for row in source.load(split)]  # type: ignore[arg-type]


def test_all_formats_give_the_same_documents(path):
    source = TextSource(path=str(path), validation_share=0.1)
    train, held_out = texts(source, "train"), texts(source, "validation")
    assert train + held_out == [text.rstrip() for text in TEXTS] and len(held_out) == 4


def test_a_stream_gives_them_too_and_holds_out_its_beginning(path):
    source = TextSource(path=str(path), streaming=True, n_held_out=5)
    assert texts(source, "validation") + texts(source, "train") == [text.rstrip() for text in TEXTS]
    assert len(texts(source, "validation")) == 5


@pytest.mark.parametrize("n_read", [1 << 20, 1000, 7])
@pytest.mark.parametrize("separator", ["\n\n", "\n", None, "☕", "☕\r\n\n"])
def test_no_byte_of_a_text_file_is_lost(tmp_path, monkeypatch, separator, n_read):
    monkeypatch.setattr(files, "CHUNK", n_read)
    text = "".join(f"line {i} ☕\r\n" * (i % 5) + "\n\n" for i in range(4000)) + "end"
    (tmp_path / "a.txt").write_bytes(text.encode())
    pieces = [row["text"] for row in read_text(stamp([tmp_path / "a.txt"]), separator)]
    assert "".join(pieces) == text and len(pieces) > 3
    assert pieces == [piece for piece in pieces_of(text, separator) if piece]


class Watched(str):
    """A text that counts the characters that are searched."""

    n_searched = 0

    def __add__(self, more):
        return Watched(str(self) + str(more))

    def __radd__(self, before):
        return Watched(str(before) + str(self))

    def find(self, wanted, start=0):
        Watched.n_searched += len(self) - start
        return str(self).find(wanted, start)

    def split(self, wanted):
        Watched.n_searched += len(self)
        return str(self).split(wanted)


@pytest.mark.parametrize("separator", ["\n\n", None])
def test_a_document_that_does_not_end_is_searched_once_and_refused_when_it_is_too_long(
    tmp_path, monkeypatch, separator
):
    monkeypatch.setattr(files, "CHUNK", 1000)
    monkeypatch.setattr(files, "_decoded", lambda name: (Watched("a" * 1000) for _ in range(100)))
    monkeypatch.setattr(Watched, "n_searched", 0)
    (whole,) = read_text([("a.txt", 1, 0)], separator)
    assert len(whole["text"]) == 100_000 and Watched.n_searched < 110_000
    monkeypatch.setattr(files, "LONGEST", 50_000)
    with pytest.raises(
        ValueError, match="data.path = a.txt; a document of more than 50,000 characters .*(line ends|null)"
    ):
        list(read_text([("a.txt", 1, 0)], separator))


def test_tables_may_differ_in_what_is_not_read(tmp_path):
    for name, more in (("a", {"id": [1, 2]}), ("b", {"url": ["x", "y"], "id": ["1", "2"]})):
        table = datasets.Dataset.from_dict({"text": [f"{name}1", f"{name}2"], **more})
        table.to_parquet(str(tmp_path / f"{name}.parquet"))
    source = TextSource(path=str(tmp_path), validation_share=0.25)
    assert texts(source, "train") + texts(source, "validation") == ["a1", "a2", "b1", "b2"]
    datasets.Dataset.from_dict({"txt": ["c"]}).to_parquet(str(tmp_path / "c.parquet"))
    with pytest.raises(ValueError, match="text_field = text; not a field of .*c.parquet; txt"):
        TextSource(path=str(tmp_path)).load("train")


def test_folder_and_glob_read_all_files_in_order(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(f"{name}1\n\n{name}2\n\n")
    (tmp_path / "notes.csv").write_text("1,2")
    for path in (tmp_path, tmp_path / "*.txt"):
        source = TextSource(path=str(path), validation_share=0.25)
        assert texts(source, "train") + texts(source, "validation") == ["a1", "a2", "b1", "b2"]


def test_a_stream_of_the_hub_is_told_by_its_commit_where_the_hub_is_asked(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: datasets.Dataset.from_dict({"text": TEXTS}))
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *a, **k: SimpleNamespace(sha="abc"))
    for is_offline in (True, False):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", is_offline)
        source = TextSource(path="owner/name", streaming=True)
        source.load("train")
        assert source.identity().get("commit") == (None if is_offline else "abc")
        assert source.identity()["path"] == "owner/name"


SHAREGPT = [{"from": "system", "value": "be kind"}, {"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]
ALPACA = {"prompt_field": "instruction", "input_field": "input", "response_field": "output"}
FORMS = {
    "roles": ({"talk": CHAT}, {"messages_field": "talk"}, CHAT),
    "sharegpt": (
        {"messages": SHAREGPT},
        {"messages_field": "messages"},
        [{"role": "system", "content": "be kind"}, *CHAT],
    ),
    "alpaca": (
        {"instruction": "hi", "input": "you", "output": "ho"},
        ALPACA,
        [{"role": "user", "content": "hi\n\nyou"}, CHAT[1]],
    ),
    "alpaca without input": ({"instruction": "hi", "input": "", "output": "ho"}, ALPACA, CHAT),
    "alpaca with null": ({"instruction": "hi", "input": None, "output": "ho"}, ALPACA, CHAT),
    "pair": ({"question": "hi", "messages": "ho"}, {"prompt_field": "question", "response_field": "messages"}, CHAT),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("is_streaming", [False, True])
@pytest.mark.parametrize("where", ["json", "parquet", "hub"])
def test_conversations_of_every_form(tmp_path, monkeypatch, form, is_streaming, where):
    row, settings, expected = FORMS[form]
    rows, file = [{**row, "id": i} for i in range(4)], tmp_path / f"chat.{where}"
    table = datasets.Dataset.from_list(rows)
    if where == "json":
        file.write_text("\n".join(map(json.dumps, rows)))
    elif where == "parquet":
        table.to_parquet(str(file))
    else:
        found = table.to_iterable_dataset() if is_streaming else table
        monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: found)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    path = "owner/name" if where == "hub" else str(file)
    source = TextSource(path=path, streaming=is_streaming, n_held_out=1, **settings)
    assert list(source.load("train")) == [{"messages": expected}] * 3  # type: ignore[arg-type]
    assert list(source.tokenizer_texts()) == [turn["content"] for turn in expected] * 3


@pytest.mark.parametrize("where", ["json", "parquet"])
@pytest.mark.parametrize(
    ("row", "settings", "message"),
    [
        (
            {"m": [{"speaker": "a", "text": "b"}]},
            {"messages_field": "m"},
            "without role and content, or from and value, but with speaker, text; .*prompt_field and",
        ),
        (
            {"m": [{"from": "tool", "value": "b"}]},
            {"messages_field": "m"},
            "a turn from 'tool'; not a speaker; human, user,",
        ),
        ({"m": "hi"}, {"messages_field": "m"}, "m holds a string, not a conversation; .*prompt_field and"),
        (
            {"q": "hi", "a": "ho"},
            {},
            "text_field = text; not a field of .*; q, a, for .*, messages_field, or prompt_field and",
        ),
        (
            {"q": "hi", "a": "ho"},
            {"messages_field": "mess"},
            "messages_field = mess; not a field of .*; q, a, for .*or prompt_field",
        ),
        (
            {"q": "hi", "answer": "ho"},
            {"prompt_field": "q", "response_field": "answr"},
            "response_field = answr; .*; answer$",
        ),
        ({"q": "hi", "a": ["ho"]}, {"prompt_field": "q", "response_field": "a"}, "a holds a list, not text"),
        (
            {"text": [{"from": "human"}]},
            {},
            "text holds a list, not text; a string, or data.source.messages_field=text",
        ),
    ],
)
def test_conversations_that_cannot_be_read_are_told_the_settings(tmp_path, where, row, settings, message):
    file = tmp_path / f"a.{where}"
    if where == "json":
        file.write_text(json.dumps(row))
    else:
        datasets.Dataset.from_list([row]).to_parquet(str(file))
    with pytest.raises(ValueError, match=message) as caught:
        TextSource(path=str(file), **settings).load("train")
    assert len(str(caught.value).splitlines()) == 1


def test_a_turn_in_the_middle_of_a_table_is_named_with_its_row(tmp_path):
    file = tmp_path / "a.parquet"
    talks = [SHAREGPT, SHAREGPT, [{"from": "human", "value": "hi"}, {"from": "bing", "value": "ho"}]]
    datasets.Dataset.from_dict({"m": talks}).to_parquet(str(file))
    with pytest.raises(ValueError, match=r"a.parquet, row 3, m has a turn from 'bing'"):
        TextSource(path=str(file), messages_field="m").load("train")


@pytest.mark.parametrize("is_streaming", [False, True])
def test_a_file_of_its_own_is_validated_on_and_all_of_the_path_trained_on(path, tmp_path, is_streaming):
    (tmp_path / "held").mkdir()
    held_out = tmp_path / "held" / f"v{path.suffix}"
    held_out.write_bytes(path.read_bytes())
    source = TextSource(path=str(path), validation_path=str(held_out), streaming=is_streaming, n_held_out=3)
    assert texts(source, "train") == texts(source, "validation") == texts(source, "test") == [t.rstrip() for t in TEXTS]
    if is_streaming:
        assert source.identity()["n_held_out"] == 0
        assert TextSource(path=str(path), streaming=True, n_held_out=3).identity()["n_held_out"] == 3


@pytest.mark.parametrize("n", [1, 2])
def test_one_document_is_enough_to_train_on_where_another_is_validated_on(tmp_path, n):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("\n\n".join([name] * n))
    source = TextSource(path=str(tmp_path / "a.txt"), validation_path=str(tmp_path / "b.txt"))
    assert (texts(source, "train"), texts(source, "validation")) == (["a"] * n, ["b"] * n)


def test_validation_paths_that_cannot_be(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": name}))
    (tmp_path / "c.jsonl").write_text(json.dumps({"body": "c"}))
    (tmp_path / "d.jsonl").write_text("")
    a = str(tmp_path / "a.jsonl")
    for path, validation_path, message in (
        (str(tmp_path / "[ab].jsonl"), str(tmp_path / "b.jsonl"), "b.jsonl; .*b.jsonl is in data.path too and would be trained on; files"),
        (a, str(tmp_path / "e.jsonl"), r"e.jsonl; no such file"),
        (a, "owner/name", "owner/name; no such file; .*hub_validation_split"),
        (a, str(tmp_path / "d.jsonl"), "d.jsonl; the file is empty"),
    ):  # fmt: skip
        source = TextSource(path=path, validation_path=validation_path)
        for split in ("train", "validation"):
            with pytest.raises((ValueError, FileNotFoundError), match=f"^data.source.validation_path = .*{message}"):
                source.load(split)
    with pytest.raises(ValueError, match="text_field = text; not a field of .*c.jsonl, line 1; body"):
        TextSource(path=a, validation_path=str(tmp_path / "c.jsonl")).load("validation")


def line(value: object) -> str:
    return json.dumps({"text": "fine"}) + "\n" + (value if isinstance(value, str) else json.dumps(value)) + "\n"


@pytest.mark.parametrize(
    ("name", "content", "settings", "message"),
    [
        ("a.jsonl", line([1]), {}, "line 2; holds a list, not an object; one object per line"),
        ("a.jsonl", line("{oops"), {}, "line 2; not JSON"),
        ("a.jsonl", line({"txt": "x"}), {}, "text_field = text; not a field of .*line 2; txt"),
        ("a.jsonl", line({"text": 3}), {}, "line 2; text holds a number, not text"),
        ("a.jsonl", line({"text": None}), {}, "line 2; text holds null, not text"),
        ("a.jsonl", line({"text": "ab\ud83d"}), {}, "line 2, text holds half of a character .* at 2"),
        ("a.jsonl", json.dumps({"m": [{"role": "user"}]}), {"messages_field": "m"}, "line 1, m has a turn without"),
        ("a.jsonl", "\n\n", {}, "holds no object"),
        ("a.txt", "", {}, "the file is empty"),
        ("a.txt", "one document only", {}, "1 document, but some must be held out"),
        ("a.txt", b"abc \xff\xfe", {}, r"not UTF-8 text \(byte 4\)"),
        ("a.parquet", "PAR1 no", {}, "cannot be read as Parquet"),
        ("a.bin", "abc", {}, "unknown ending '.bin'"),
        ("a.txt", "a\n\nb", {"messages_field": "m"}, "messages_field = m; plain text has no fields"),
        ("a.txt", "a\n\nb", {"prompt_field": "p", "response_field": "r"}, "prompt_field = p; plain text has no fields"),
    ],
)
def test_bad_files_are_named_with_the_place(tmp_path, name, content, settings, message):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        list(TextSource(path=str(file), **settings).load("train"))


@pytest.mark.parametrize(
    ("content", "settings", "advice"),
    [
        ("one line", {}, "two or more$"),
        ("two\nlines", {}, r"two or more, or data.source.separator='\\n' for a document a line$"),
        (
            "a\r\n\r\nb",
            {},
            r"two or more, or data.source.separator='\\r\\n\\r\\n', the blank lines of Windows, or .*'\\n' for",
        ),
        ("a line\n" * 3000, {}, "or data.source.separator=null, which cuts a running text into pieces, or"),
        ("one line", {"separator": None}, "two or more: a text of more than 16,384 characters$"),
    ],
)
def test_what_cuts_a_text_is_offered_where_it_does(tmp_path, content, settings, advice):
    file = tmp_path / "a.txt"
    file.write_bytes(content.encode())
    with pytest.raises(ValueError, match=advice):
        TextSource(path=str(file), **settings).load("train")


def test_blank_lines_of_windows_can_be_told_on_a_command_line(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"a\r\n\r\nb")
    assert TextSource(path=str(file), separator=r"\r\n\r\n").load("train")["text"] == ["a\r\n\r\n"]


@pytest.mark.parametrize(("ending", "is_on_disk"), [("", False), (".gz", True)])
def test_a_compressed_file_is_taken_for_larger_than_it_is(tmp_path, monkeypatch, ending, is_on_disk):
    content = "\n".join(json.dumps({"text": f"text {i}"}) for i in range(40)).encode()
    file = tmp_path / f"a.jsonl{ending}"
    file.write_bytes(gzip.compress(content) if ending else content)
    monkeypatch.setattr("illada_lab.data.text.BYTES_IN_MEMORY", len(content))
    asked, make = [], datasets.Dataset.from_generator
    monkeypatch.setattr(datasets.Dataset, "from_generator", lambda *a, **k: asked.append(1) or make(*a, **k))
    assert TextSource(path=str(file)).load("train")["text"][0] == "text 0"
    assert bool(asked) == is_on_disk


def test_a_json_list_may_begin_with_a_byte_order_mark(tmp_path):
    file = tmp_path / "a.json"
    file.write_bytes(codecs.BOM_UTF8 + json.dumps([{"text": "a"}, {"text": "b"}]).encode())
    assert TextSource(path=str(file)).load("train")["text"] == ["a"]


def test_a_missing_file_is_told_its_neighbours(tmp_path):
    (tmp_path / "notes.txt").write_text("a\n\nb")
    with pytest.raises(FileNotFoundError, match=r"note\.txt; no such file; .*notes\.txt"):
        TextSource(path=str(tmp_path / "note.txt")).load("train")


def test_fields_of_tables_are_checked(tmp_path):
    file = str(tmp_path / "a.parquet")
    datasets.Dataset.from_dict({"body": ["a", None], "n": [1, 2]}).to_parquet(file)
    for field, message in (
        ("bodi", "text_field = bodi; not a field of .*; body"),
        ("n", "row 1; n holds a number, not text"),
        ("body", "null in 1 of 2"),
    ):
        with pytest.raises(ValueError, match=message):
            TextSource(path=file, text_field=field).load("train")


@pytest.mark.parametrize(
    "settings",
    [
        {"validation_share": 1.0},
        {"n_held_out": 0},
        {"separator": ""},
        {"prompt_field": None, "response_field": "a"},
        {"response_field": None, "prompt_field": "a"},
        {"messages_field": "m", "prompt_field": "a", "response_field": "b"},
        {"input_field": "a"},
        {"validation_path": "b.txt", "hub_validation_split": "test"},
    ],
)
def test_settings_that_cannot_be(settings):
    with pytest.raises(ValueError, match=f"data.source.{next(iter(settings))}"):
        TextSource(path="a.txt", **settings)


@pytest.mark.skipif(not SHAKESPEARE.exists(), reason="the text is not in the project")
def test_shakespeare_arrives_whole():
    source = TextSource(path=str(SHAKESPEARE))
    parts = [row["text"] for split in ("train", "validation") for row in source.load(split)]  # type: ignore[union-attr]
    assert "".join(parts) == SHAKESPEARE.read_text() and len(parts) > 5000


@pytest.mark.parametrize(
    "settings", [{"hub_validation_split": "test"}, {"hub_split": "test"}, {"hub_name": "en"}, {"hub_revision": "v1"}]
)
def test_splits_of_the_hub_are_refused_of_files_that_lie_here(path, settings):
    """A cloned data set has its test split beside the others: it would be trained on."""
    (key,) = settings
    right = "train" if key == "hub_split" else "null"
    for place, advice in (
        (path, ""),
        (path.parent, f"data.path={path.parent}/train[*] and data.source.validation_path=..., and "),
    ):
        with pytest.raises(
            ValueError,
            match=f"^data.source.{key} = [^;]*; of data sets on the hub, and {place} lies here; {advice}{key}={right}$",
        ):
            TextSource(path=str(place), **settings).load("train")


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("is_streaming", [False, True])
def test_empty_texts_are_left_out_and_said(tmp_path, capsys, ending, is_streaming):
    given = ["", "a", "", "b", " ", "c"]
    file = tmp_path / f"a.{ending}"
    if ending == "jsonl":
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in given))
    else:
        datasets.Dataset.from_dict({"text": given}).to_parquet(str(file))
    source = TextSource(path=str(file), streaming=is_streaming, n_held_out=1)
    found = [row["text"] for split in ("train", "validation") for row in source.load(split)]  # type: ignore[union-attr]
    assert sorted(found) == [" ", "a", "b", "c"]
    assert is_streaming or capsys.readouterr().err.endswith("data: 2 of 6 texts left out, empty\n")


def test_an_input_that_some_objects_lack_is_empty_there(tmp_path):
    rows = [{"instruction": f"q{i}", "output": "a"} | ({"input": "about"} if i == 2 else {}) for i in range(4)]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = TextSource(path=str(file), **ALPACA)
    asked = [row["messages"][0]["content"] for split in ("train", "validation") for row in source.load(split)]  # type: ignore[union-attr]
    assert asked == ["q0", "q1", "q2\n\nabout", "q3"]
    with pytest.raises(ValueError, match="^data.source.input_field = inputs; not a field of any object"):
        TextSource(path=str(file), **{**ALPACA, "input_field": "inputs"}).load("train")
    with pytest.raises(ValueError, match="^data.source.input_field = input; not a field of .*line 1"):
        TextSource(path=str(file), **ALPACA, streaming=True).load("train")


def test_files_of_ones_own_are_validated_on_beside_a_data_set_of_the_hub(path):
    source = TextSource(
        path="owner/name", hub_split="train[:10%]", hub_name="en", hub_revision="v1", validation_path=str(path)
    )
    assert len(texts(source, "validation")) == 40


def test_a_file_of_empty_texts_is_none(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n' * 3)
    with pytest.raises(ValueError, match="holds no document that is not empty; a file with text"):
        TextSource(path=str(tmp_path / "a.jsonl")).load("train")
