"""Out and in, in and out: nothing is lost, to the byte."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from illada_lab.interop import export_published, load_published, published_tokens
from illada_lab.interop.layouts import LAYOUTS
from illada_lab.tokens import ILLADA as OWN
from tests.interop.reference import ILLADA, LLADA, random_state, write
from tests.small import small_predictor


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("shard_bytes", [10**9, 10_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("is_tied", [True, False])
def test_ours_out_in_out_is_equal_in_every_byte_of_every_file(tmp_path, layout, dtype, shard_bytes, is_tied):
    predictor = small_predictor(is_tied=is_tied, has_qk_norm=layout == "qwen3").to(dtype)
    first = export_published(predictor, tmp_path / "first", layout, shard_bytes)
    back = load_published(first)
    own, read = predictor.state_dict(), back.state_dict()
    assert own.keys() == read.keys()
    assert all(torch.equal(own[name], read[name]) and own[name].dtype == read[name].dtype for name in own)
    assert contents(export_published(back, tmp_path / "second", layout, shard_bytes)) == contents(first)


@pytest.mark.parametrize("n_shards", [1, 3])
@pytest.mark.parametrize(
    "config",
    [
        ILLADA,
        {**ILLADA, "tie_word_embeddings": False},
        LLADA,
        {**LLADA, "n_kv_heads": 2, "embedding_size": 32},
        {**LLADA, "weight_tying": True},
    ],
)
def test_published_in_out_holds_the_same_tensors_and_says_the_same(tmp_path, config, n_shards):
    state = {name: tensor.to(torch.bfloat16) for name, tensor in random_state(config).items()}
    source = write(tmp_path / "source", config, state, n_shards)
    out = export_published(load_published(source), tmp_path / "out", config["model_type"])
    written = load_file(out / "model.safetensors")
    assert written.keys() == state.keys()
    assert all(torch.equal(written[n], state[n]) and written[n].dtype == state[n].dtype for n in state)
    if n_shards == 1:
        assert (out / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    said = json.loads((out / "config.json").read_text())
    rows = {"vocab_size"} if "embedding_size" in config else set()  # ours knows of one number of rows only
    assert {key: said[key] for key in config.keys() - rows} == {key: config[key] for key in config.keys() - rows}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_roles_of_ids_are_kept_and_none_is_made_up(layout, tmp_path):
    """Also where a vocabulary is as large as LLaDA's, whose ids are those of its own tokenizer."""
    for eot, unk in ((7, 3), (None, 3), (7, None), (None, None)):
        predictor = small_predictor(has_qk_norm=layout == "qwen3", vocab_size=126_500)
        predictor.tokens = replace(OWN, eot=eot, unk=unk)
        folder = export_published(predictor, tmp_path / f"{eot}-{unk}", layout)
        assert published_tokens(folder) == predictor.tokens
        # Our own keys stand there only where they say something.
        config = json.loads((folder / "config.json").read_text())
        assert ("unk_token_id" in config) == (unk is not None)


def test_a_mask_that_is_named_null_is_the_released_one(tmp_path):
    folder = export_published(small_predictor(), tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "mask_token_id": None}))
    assert load_published(folder).tokens.mask == OWN.mask


def test_what_is_said_about_published_code_and_ids(tmp_path):
    for layout, repository in (("illada", "GSAI-ML/iLLaDA-8B-Base"), ("llada", "GSAI-ML/LLaDA-8B-Base")):
        folder = export_published(small_predictor(), tmp_path / layout, layout)
        config, ids = (json.loads((folder / f"{n}.json").read_text()) for n in ("config", "generation_config"))
        assert all(value.startswith(f"{repository}--") for value in config["auto_map"].values())
        assert config["auto_map"]["AutoModel"].endswith(config["architectures"][0])
        assert ids == {"_from_model_config": True, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
        assert config["mask_token_id"] == 5
    folder = export_published(small_predictor(), tmp_path / "llama", "llama")
    config = json.loads((folder / "config.json").read_text())
    assert "auto_map" not in config and config["is_causal"] is False


def test_a_folder_with_a_model_in_it_is_left_alone(tmp_path):
    folder = export_published(small_predictor(), tmp_path / "out", shard_bytes=10_000)
    before = contents(folder)
    predictor = load_published(folder)
    with pytest.raises(ValueError, match="config.json is there|safetensors.* is there"):
        export_published(predictor, folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match="is there, files of two models would be mixed; a new folder"):
        export_published(predictor, folder)
    after = contents(folder)
    assert after == {name: data for name, data in before.items() if name != "config.json"}


def test_training_a_loaded_model_does_not_reach_its_files(tmp_path):
    folder = export_published(small_predictor(), tmp_path / "out")
    before = contents(folder)
    predictor = load_published(folder)
    with torch.no_grad():
        for parameter in predictor.parameters():
            parameter.add_(1.0)
    assert contents(folder) == before
    assert not torch.equal(load_published(folder).head_weight, predictor.head_weight)
