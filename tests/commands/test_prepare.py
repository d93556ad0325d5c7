"""`illada-lab prepare`, and a run on what it made: the same as on the text, through the command line."""

import io
import json

import pytest
import torch

from illada_lab.cli import main
from illada_lab.commands.chat import _all_that_fit
from illada_lab.commands.writing import is_chat
from illada_lab.data.build_tokenizer import byte_tokenizer
from illada_lab.data.chat import ChatTemplate, templated
from illada_lab.data.pretrained_tokenizer import pretrained
from illada_lab.data.shards import chunks
from illada_lab.interop import trained_on_chat
from illada_lab.training.checkpoint import load_run, read_checkpoint

SMOKE = [
    "scale=smoke",
    "trainer.precision=32-true",
    "trainer.accelerator=cpu",
    "scale.n_steps=6",
    "trainer.save_every=3",
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    file = tmp_path_factory.mktemp("corpus") / "a.txt"
    file.write_text("\n\n".join(f"the {i % 7} cats saw {i} dogs and told nobody of it" for i in range(600)))
    return file


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Several shards from little text."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 2000)


def prepared(corpus, out, *words) -> int:
    return main(
        ["prepare", "data=text", f"data.path={corpus}", f"out={out}", "scale=smoke", "data.adds_eos=true", *words]
    )


def test_prepare_then_train_then_resume(corpus, tmp_path, capsys):
    out = tmp_path / "out"
    assert prepared(corpus, out, "tokens_per_shard=2000", "n_processes=2") == 0
    said = capsys.readouterr()
    manifest = json.loads((out / "manifest.json").read_text())
    assert f"train      570 documents, {manifest['counts']['train']['n_tokens']:,} tokens" in said.out
    assert "tokens/s" in said.out and "MB/s" in said.out and "train-00001: " in said.err
    assert manifest["about"]["versions"]["tokenizers"] and manifest["settings"]["files"][0][0] == str(corpus)

    run = ["train", "data=shards", f"data.path={out}", *SMOKE]
    assert main([*run, f"run_dir={tmp_path}/whole"]) == 0
    assert main([*run, f"run_dir={tmp_path}/part", "trainer.max_steps=3", "lr.n_steps=6"]) == 0
    assert main([*run, f"run_dir={tmp_path}/part", "resume=auto"]) == 0
    a, b = (read_checkpoint(tmp_path / name)["state_dict"] for name in ("whole", "part"))
    assert all(torch.equal(a[name], b[name]) for name in a)

    # Other data under the same checkpoint is refused; the model's tokenizer is what more data is prepared with.
    more = tmp_path / "more"
    assert prepared(corpus, more, f"init_from={tmp_path}/whole") == 0
    capsys.readouterr()
    assert (
        main(
            [
                "train",
                "data=shards",
                f"data.path={more}",
                *SMOKE,
                f"run_dir={tmp_path}/part",
                "scale.n_steps=9",
                "resume=auto",
            ]
        )
        == 2
    )
    assert "data; not what the checkpoint was trained on" in capsys.readouterr().err
    assert (
        main(
            [
                "train",
                "data=shards",
                f"data.path=[{out},{more}]",
                "data.source.weights=[1,3]",
                *SMOKE,
                f"run_dir={tmp_path}/mixed",
            ]
        )
        == 0
    )


def test_instructions_of_the_world_are_prepared_with_their_extra_ends(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["prepare", "data=world_sft", f"out={out}", "scale=smoke"]) == 0
    run = ["train", "data=shards", f"data.path={out}", "objective=sft", *SMOKE, f"run_dir={tmp_path}/run"]
    assert main(run) == 2
    assert "data.max_extra_eos = 0; " in capsys.readouterr().err


def test_a_model_of_prepared_conversations_answers(models, tmp_path, capsys, monkeypatch):
    """Its configuration names neither a stage nor a field of conversations: its checkpoint says what the tokens were."""
    base, chats, out = models["base"].partition("=")[2], tmp_path / "chats.jsonl", tmp_path / "chatshards"
    talk = [
        {"role": "user", "content": "where does ada live ?"},
        {"role": "assistant", "content": "ada lives in paris ."},
    ]
    chats.write_text("\n".join(json.dumps({"messages": talk * (1 + i % 2)}) for i in range(60)))
    words = [f"data.path={chats}", "data.source.messages_field=messages", f"init_from={base}", f"out={out}"]
    assert main(["prepare", "data=jsonl", *words, "scale=smoke"]) == 0
    tuned = [f"init_from={base}", f"run_dir={tmp_path}/tuned", "scale.sft_steps=3"]
    assert main(["train", "experiment=sft", "data=shards", f"data.path={out}", *SMOKE, *tuned]) == 0
    loaded = load_run(tmp_path / "tuned")
    assert is_chat(loaded.config) and _all_that_fit(loaded) > 1000
    capsys.readouterr()
    monkeypatch.setattr("sys.stdin", io.StringIO("where does ada live ?\n"))
    checkpoint = f"checkpoint={tmp_path}/tuned"
    assert main(["chat", checkpoint, "--json", "sampler=variable_length", "sampler.max_length=16"]) == 0
    assert "answer" in json.loads(capsys.readouterr().out.splitlines()[0])
    assert main(["export", checkpoint, "layout=qwen3", f"out={tmp_path}/exported"]) == 0
    assert trained_on_chat(tmp_path / "exported") is True


def test_a_tokenizer_without_mask_or_chat_comes_from_text_to_answers(tmp_path, capsys, monkeypatch):
    """As GPT-2's: the mask is added, conversations are written with the plain template, which the model keeps, shards or not."""
    backend = byte_tokenizer().backend
    backend.add_special_tokens(["<|endoftext|>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    (tmp_path / "text.txt").write_text("\n\n".join(f"{i} and {i}" for i in range(200)))
    rows = [{"instruction": f"{i} ?", "input": "" if i % 2 else "now", "output": f"so {i}"} for i in range(60)]
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, rows)))
    own = ["tokenizer=pretrained", f"tokenizer.path={tmp_path}", "tokenizer.adds_mask=true"]
    base, chats = (
        f"init_from={tmp_path}/base",
        [f"data.path={tmp_path}/chats.jsonl", "data.source.prompt_field=instruction"],
    )
    chats += ["data.source.input_field=input", "data.source.response_field=output"]
    words = ["train", "data=text", f"data.path={tmp_path}/text.txt", *own, *SMOKE, f"run_dir={tmp_path}/base"]
    assert main(words) == 0
    tuned = ["train", "experiment=sft", *SMOKE, base, "scale.sft_steps=3", f"run_dir={tmp_path}/tuned"]
    capsys.readouterr()
    assert main([*tuned, "data=jsonl", *chats]) == 2
    assert (
        "this tokenizer has none; a model learns one from conversations: data.chat_template=plain"
        in capsys.readouterr().err
    )
    assert main([*tuned, "data=jsonl", *chats, "data.chat_template=plain"]) == 0
    words = ["prepare", "data=jsonl", *chats, "data.chat_template=plain", base, "scale=smoke", f"out={tmp_path}/shards"]
    assert main(words) == 0
    assert main([*tuned[:-1], "data=shards", f"data.path={tmp_path}/shards", f"run_dir={tmp_path}/of_shards"]) == 0
    plain = templated(pretrained(str(tmp_path), adds_mask=True), "plain").chat_template
    for name in ("tuned", "of_shards"):
        loaded = load_run(tmp_path / name)
        assert is_chat(loaded.config) and loaded.tokenizer.chat_template == plain
        asked = ChatTemplate(loaded.tokenizer).prompt([{"role": "user", "content": "3 ?"}])
        assert loaded.tokenizer.decode(asked) == "User: 3 ?\n\nAssistant:"
        capsys.readouterr()
        monkeypatch.setattr("sys.stdin", io.StringIO("3 ?\n"))
        words = ["chat", f"checkpoint={tmp_path}/{name}", "--json", "sampler=variable_length", "sampler.max_length=16"]
        assert main(words) == 0 and "answer" in json.loads(capsys.readouterr().out.splitlines()[0])


def test_what_cannot_be_prepared(corpus, tmp_path, capsys):
    for words, message in (
        (["prepare", "data=text", f"data.path={corpus}"], "out = null; where to?"),
        (
            ["prepare", "data=text", f"data.path={corpus}", f"out={tmp_path}/x", "data.length=512"],
            "data.length = 512; has no effect on prepare; for train data=shards data.length=512",
        ),
        (["prepare", "data=text", f"data.path={corpus}", "model=toy"], "model = toy; has no effect on prepare"),
        (
            ["prepare", "data=shards", f"data.path={tmp_path}", f"out={tmp_path}/x"],
            "data = shards; is prepared already",
        ),
        (["prepare", "data=text", "data.path=nowhere.txt", f"out={tmp_path}/x"], "nowhere.txt; no such file"),
        (["prepare", "data=text", f"data.path={corpus}", "out=s3://bucket/x", "scale=smoke"], "a local folder"),
        (["train", "data=shards", f"data.path={tmp_path}", f"run_dir={tmp_path}/run", *SMOKE], "no prepared data"),
    ):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error


def test_data_for_a_published_model_is_prepared_with_its_own_tokenizer(models, tmp_path):
    text, published = tmp_path / "notes.txt", tmp_path / "published"
    text.write_text("ada lives in paris .\n\n" * 6)
    assert main(["export", models["plain"], f"out={published}"]) == 0
    for name, start in (("one", models["plain"].partition("=")[2]), ("two", published)):
        words = [f"data.path={text}", f"init_from={start}", f"out={tmp_path / name}"]
        assert main(["prepare", "data=text", *words]) == 0
    one, two = (sorted((tmp_path / name).glob("*.tokens")) for name in ("one", "two"))
    assert one and [file.read_bytes() for file in one] == [file.read_bytes() for file in two]
