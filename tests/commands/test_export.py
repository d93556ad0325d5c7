"""Published layouts on the command line: out, and written with again."""

import json

import pytest

from illada_lab.cli import main

SHORT = [
    "sampler.response_length=4",
    "sampler.block_length=4",
    "n_samples=1",
    "sampler.ban_eos=true",
    "prompt=ada lives in",
    "--json",
]


@pytest.mark.parametrize("layout", ["illada", "llada"])
def test_an_exported_model_writes_the_same(models, tmp_path, capsys, layout):
    folder = tmp_path / "out"
    assert main(["export", models["plain"], f"layout={layout}", f"out={folder}"]) == 0
    assert capsys.readouterr().out == f"written: {folder}\n"
    told = json.loads((folder / "manifest.json").read_text())
    assert (told["layout"], told["step"], told["config"]["model"]["has_qk_norm"]) == (layout, 4, False)
    assert told["checkpoint"].endswith("last.ckpt") and {"command", "commit", "versions", "weights"} <= set(told)
    texts = []
    for checkpoint in (models["plain"], f"checkpoint={folder}"):
        assert main(["sample", checkpoint, *SHORT]) == 0
        texts.append(json.loads(capsys.readouterr().out)["samples"][0]["text"])
    assert texts[0] == texts[1] and texts[0]
    assert json.loads((folder / "tokenizer_config.json").read_text())["add_bos_token"] is True


def test_an_exported_model_is_asked_as_its_run_is(models, tmp_path):
    """BOS and EOS stand where its documents had them, an unknown word is refused, and special tokens look the same."""
    from illada_lab.commands.infill import text_ids
    from illada_lab.training.checkpoint import load_run

    folder = tmp_path / "out"
    assert main(["export", models["plain"], f"out={folder}"]) == 0
    own, back = load_run(models["plain"].partition("=")[2]), load_run(folder)
    ids = text_ids("ada lives in ___ .", own)
    assert text_ids("ada lives in ___ .", back) == ids and ids[-1] == own.tokenizer.tokens.eos
    shown = [loaded.tokenizer.decode([*range(8), *ids], skip_special=False) for loaded in (own, back)]
    assert shown[0] == shown[1] and "<mask>" in shown[0]
    for loaded in (own, back):
        with pytest.raises(ValueError, match="'adda'; not a word of this model's vocabulary; ada"):
            text_ids("adda ___ .", loaded)


def test_an_export_can_be_exported_again(models, tmp_path):
    """Nothing is lost on the way: an unknown word is still refused. Also of an export by an earlier version, which named no unk."""
    from illada_lab.training.checkpoint import load_run

    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    assert main(["export", models["plain"], f"out={first}"]) == 0
    assert main(["export", f"checkpoint={first}", f"out={second}"]) == 0
    told = json.loads((first / "config.json").read_text())
    del told["unk_token_id"]
    (first / "config.json").write_text(json.dumps(told))
    assert main(["export", f"checkpoint={first}", f"out={third}"]) == 0
    own = load_run(models["plain"].partition("=")[2])
    assert load_run(second).predictor.tokens == own.predictor.tokens
    for folder in (second, third):
        back = load_run(folder)
        assert back.tokenizer.tokens == own.tokenizer.tokens
        with pytest.raises(ValueError, match="'adda'; not a word of this model's vocabulary; ada"):
            back.tokenizer.encode_known("adda lives")


def test_an_exported_fine_tuned_model_is_asked_behind_what_its_run_is(models, tmp_path):
    """Its configuration does not name adds_eos, which means that EOS stood there."""
    from illada_lab.commands.infill import text_ids
    from illada_lab.commands.sample import prompt_ids
    from illada_lab.config import compose
    from illada_lab.training.checkpoint import load_run

    folder = tmp_path / "out"
    assert main(["export", models["instruct"], "layout=qwen3", f"out={folder}"]) == 0
    own, back = load_run(models["instruct"].partition("=")[2]), load_run(folder)
    assert "adds_eos" not in own.config["data"]
    eos = own.tokenizer.tokens.eos
    asked, filled = (
        [ask(loaded) for loaded in (own, back)]
        for ask in (
            lambda loaded: prompt_ids(compose(["prompt='ada lives'", "is_chat=false"]), loaded),
            lambda loaded: text_ids("ada lives ___ .", loaded),
        )
    )
    assert asked[0] == asked[1] and asked[0][0] == eos
    assert filled[0] == filled[1] and filled[0][0] == filled[0][-1] == eos


def test_what_cannot_be_exported_leaves_nothing_behind(models, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    for words, message in (
        ([models["base"], f"out={tmp_path}/new"], "has_qk_norm = true; the layout illada has no place for it"),
        ([models["plain"], f"out={tmp_path}/new", "layout=dream"], "layout = 'dream'; not a published one"),
        ([models["plain"]], "out = null; where to?"),
        ([models["plain"], f"out={tmp_path}/full"], "there is something in it"),
    ):
        assert main(["export", *words]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists() and len(list((tmp_path / "full").iterdir())) == 1


def test_the_chat_format_of_our_own_tokenizers_travels_as_a_template(models, tmp_path):
    from illada_lab.data.chat import ChatTemplate
    from illada_lab.training.checkpoint import load_run

    folder = tmp_path / "out"
    assert main(["export", models["instruct"], "layout=qwen3", f"out={folder}"]) == 0
    own, back = load_run(models["instruct"].partition("=")[2]), load_run(folder)
    assert back.config["data"]["source"]["stage"] == "sft"
    talk = [
        {"role": "user", "content": "where does ada live ?"},
        {"role": "assistant", "content": "ada lives in paris ."},
        {"role": "user", "content": "where does ben live ?"},
        {"role": "assistant", "content": "in rome ."},
    ]
    ours, theirs = ChatTemplate(own.tokenizer), ChatTemplate(back.tokenizer)
    words = " ".join(turn["content"] for turn in talk).split()
    known = set(own.tokenizer.backend.get_vocab())
    for turn in talk:
        turn["content"] = " ".join(
            word if word in known else sorted(known & set(words))[0] for word in turn["content"].split()
        )
    assert theirs.render(talk) == ours.render(talk)
    assert theirs.prompt(talk[:3]) == ours.prompt(talk[:3])
    system = [{"role": "system", "content": talk[0]["content"]}, *talk]
    assert theirs.render(system) == ours.render(system)


def test_weights_in_another_precision(models, tmp_path, capsys):
    """Written in half the bytes, and read by all commands; evaluations tell it."""
    from safetensors.torch import load_file

    whole, half = tmp_path / "whole", tmp_path / "half"
    assert main(["export", models["plain"], f"out={whole}"]) == 0
    assert main(["export", models["plain"], f"out={half}", "dtype=bf16"]) == 0
    for name, tensor in load_file(whole / "model.safetensors").items():
        assert (load_file(half / "model.safetensors")[name] == tensor.bfloat16()).all()
    told = [json.loads((folder / "config.json").read_text())["torch_dtype"] for folder in (whole, half)]
    assert told == ["float32", "bfloat16"]
    texts = []
    capsys.readouterr()
    for words in ([models["plain"], "dtype=bf16"], [f"checkpoint={half}"]):
        assert main(["sample", *words, *SHORT]) == 0
        texts.append(json.loads(capsys.readouterr().out)["samples"][0]["text"])
    assert texts[0] == texts[1] and texts[0]
    assert main(["sample", models["plain"], "dtype=fp8", *SHORT]) == 2
    assert "dtype = fp8; not a precision of weights here; float32, bf16, or null" in capsys.readouterr().err
    assert main(["train", "scale=smoke", "dtype=bf16"]) == 2
    assert "dtype = bf16; has no effect on train" in capsys.readouterr().err
