"""Published layouts: the same logits as a forward pass written from their description; nothing unused, nothing unfilled."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from illada_lab import load_predictor
from illada_lab.interop import export_published
from illada_lab.tokens import SpecialTokens
from tests.interop.reference import ILLADA, LLADA, logits, random_state, write
from tests.small import small_predictor

X = torch.tensor([[0, 9, 5, 11, 5, 13, 2], [0, 5, 5, 5, 20, 21, 22]])


@torch.no_grad()
@pytest.mark.parametrize("n_shards", [1, 3])
@pytest.mark.parametrize(
    "config",
    [
        LLADA,
        {**LLADA, "n_kv_heads": None},
        {**LLADA, "n_kv_heads": 2, "embedding_size": 32},
        {**LLADA, "weight_tying": True, "n_kv_heads": 1},
        ILLADA,
        {**ILLADA, "tie_word_embeddings": False, "num_key_value_heads": 4},
    ],
)
def test_published_checkpoints_give_the_published_logits(tmp_path, config, n_shards):
    state = random_state(config)
    predictor = load_predictor(write(tmp_path / "model", config, state, n_shards))
    expected = logits(config, state, X)
    assert predictor(X).shape == expected.shape
    torch.testing.assert_close(predictor(X), expected, atol=2e-4, rtol=0)
    assert predictor.tokens.mask == 5 and predictor.tokens.eos == 2 and not predictor.training


@torch.no_grad()
def test_a_tied_checkpoint_may_hold_the_head_a_second_time(tmp_path):
    state = random_state(ILLADA)
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    predictor = load_predictor(write(tmp_path / "model", ILLADA, state, n_shards=4))
    torch.testing.assert_close(predictor(X), logits(ILLADA, state, X), atol=2e-4, rtol=0)
    state["lm_head.weight"][0, 0] += 1
    with pytest.raises(ValueError, match="lm_head.weight; differs from model.embed_tokens.weight"):
        load_predictor(write(tmp_path / "other", ILLADA, state))


@torch.no_grad()
def test_of_a_tied_checkpoint_the_head_alone_will_do(tmp_path):
    state = random_state(ILLADA)
    expected = logits(ILLADA, state, X)
    state["lm_head.weight"] = state.pop("model.embed_tokens.weight")
    predictor = load_predictor(write(tmp_path / "model", ILLADA, state, n_shards=3))
    torch.testing.assert_close(predictor(X), expected, atol=2e-4, rtol=0)


@torch.no_grad()
def test_files_of_two_precisions_take_the_embeddings(tmp_path):
    state = random_state(ILLADA)
    low = {name: tensor.bfloat16() for name, tensor in state.items()}
    mixed = {name: state[name] if "norm" in name else tensor for name, tensor in low.items()}
    one, two = (load_predictor(write(tmp_path / name, ILLADA, s)) for name, s in (("one", low), ("two", mixed)))
    assert {p.dtype for p in two.parameters()} == {torch.bfloat16} and torch.equal(one(X), two(X))


def test_special_tokens_that_are_given_need_none_in_the_config(tmp_path):
    folder = write(tmp_path / "model", {**ILLADA, "eos_token_id": [2, 7]}, random_state(ILLADA))
    tokens = SpecialTokens(mask=5, bos=0, eos=2, pad=1, eot=7)
    assert load_predictor(folder, tokens=tokens).tokens == tokens


def test_special_tokens_can_be_given(tmp_path):
    folder = write(tmp_path / "model", LLADA, random_state(LLADA))
    tokens = SpecialTokens(mask=7, bos=0, eos=3, pad=1, eot=None)
    assert load_predictor(folder, tokens=tokens).tokens == tokens
    assert load_predictor(folder).tokens == SpecialTokens(mask=5, eos=2, pad=2)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c, s: s.pop("model.norm.weight"), "model.norm.weight; no file holds it .1 missing."),
        (lambda c, s: s.update(extra=torch.zeros(1)), "extra; a tensor that no part of the model uses"),
        (lambda c, s: s.update({"model.norm.weight": torch.zeros(3)}), r"model.norm.weight = shape \[3\]; config.json says \[32\]"),
        (lambda c, s: c.pop("rope_theta"), "rope_theta = null; needed and never guessed"),
        (lambda c, s: c.update(vocab_size="24"), "vocab_size = '24'; not what it must be; a whole number"),
        (lambda c, s: c.update(unk_token_id="<unk>"), "unk_token_id = '<unk>'; not what it must be; a whole number"),
        (lambda c, s: c.update(mask_token_id=5.0), "mask_token_id = 5.0; not what it must be; a whole number"),
        (lambda c, s: c.update(rope_theta=True), "rope_theta = True; not what it must be; a number"),
        (lambda c, s: c.update(attention_bias=True), "attention_bias = True; not supported here; False or null"),
        (lambda c, s: c.update(rope_scaling={"type": "yarn"}), "rope_scaling = .*not supported here"),
        (lambda c, s: c.update(partial_rotary_factor=0.5), "partial_rotary_factor = 0.5; not supported here; null or 1.0"),
        (lambda c, s: c.update(rope_parameters={"rope_theta": 1e4, "partial_rotary_factor": 0.5}), "partial_rotary_factor = 0.5; not"),
        (lambda c, s: c.update(eos_token_id=[2, 7]), r"eos_token_id = \[2, 7\]; .* of several ends one, another as eot_token_id"),
        (lambda c, s: c.update(head_dim=16), "head_dim = 16; not supported here; 8"),
        (lambda c, s: c.update(architectures=["LLaDAMoEModelLM"]), "LLaDAMoEModelLM.*another family; ILLaDAForCausalLM, LLaDAModelLM"),
        (lambda c, s: c.update(vocab_size=4), "tokens.mask = 5; outside of the vocabulary"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(tmp_path, change, message):
    config, state = dict(ILLADA), random_state(ILLADA)
    change(config, state)
    with pytest.raises(ValueError, match=message):
        load_predictor(write(tmp_path / "model", config, state))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip_qkv": 8.0}, "clip_qkv = 8.0; not supported here; null"),
        ({"rope_full_precision": False}, "rope_full_precision = False; not supported here; True"),
        ({"mlp_hidden_size": None, "mlp_ratio": 1.51}, "mlp_ratio = 1.51; .*a whole number of them"),
    ],
)
def test_what_does_not_fit_of_lladas_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        load_predictor(write(tmp_path / "model", {**LLADA, **changes}, random_state(LLADA)))


def test_a_ratio_may_be_no_whole_number_where_the_size_is(tmp_path):
    config = {**LLADA, "mlp_hidden_size": None, "mlp_ratio": 1.5}
    assert LLADA["mlp_hidden_size"] == 1.5 * LLADA["d_model"]
    assert load_predictor(write(tmp_path / "model", config, random_state(LLADA))).spec.d_ffn == LLADA["mlp_hidden_size"]


def test_damaged_and_missing_files_are_named(tmp_path):
    folder = write(tmp_path / "model", ILLADA, random_state(ILLADA), n_shards=2)
    second = folder / "model-00002-of-00002.safetensors"
    whole = second.read_bytes()
    second.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="model-00002-of-00002.safetensors; truncated or damaged"):
        load_predictor(folder)
    second.unlink()
    with pytest.raises(FileNotFoundError, match="model-00002-of-00002.safetensors is missing"):
        load_predictor(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json; not JSON"):
        load_predictor(folder)


@torch.no_grad()
@pytest.mark.parametrize("layout", ["llada", "illada"])
@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("shard_bytes", [10**9, 10_000])
def test_out_and_in_again_is_exact_and_reads_as_published(tmp_path, layout, is_tied, shard_bytes):
    predictor = small_predictor(is_tied=is_tied).to(torch.bfloat16)
    folder = export_published(predictor, tmp_path / "out", layout, shard_bytes)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == (shard_bytes < 10**9)
    back = load_predictor(folder)
    # How the weights were first drawn is no part of a published configuration.
    assert replace(back.spec, init_std=predictor.spec.init_std) == predictor.spec
    assert back.tokens == predictor.tokens
    own, read = predictor.state_dict(), back.state_dict()
    assert own.keys() == read.keys() and all(torch.equal(own[n], read[n]) for n in own)
    config = json.loads((folder / "config.json").read_text())
    assert config["torch_dtype"] == "bfloat16"
    in_float = export_published(predictor.float(), tmp_path / "float", layout)
    from safetensors.torch import load_file

    state = load_file(in_float / "model.safetensors")
    torch.testing.assert_close(predictor(X), logits(config, state, X), atol=2e-4, rtol=0)


def test_what_a_layout_has_no_words_for_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="has_qk_norm = true; the layout llada has no place for it"):
        export_published(small_predictor(has_qk_norm=True), tmp_path / "out", "llada")
    with pytest.raises(ValueError, match="layout = .dream.; not a published one; illada or llada or llama or qwen3"):
        export_published(small_predictor(), tmp_path / "out", "dream")
    assert not (tmp_path / "out").exists()


def test_a_shard_that_contradicts_the_index_is_named(tmp_path):
    folder = write(tmp_path / "model", ILLADA, random_state(ILLADA), n_shards=2)
    save_file(random_state(ILLADA), folder / "model-00001-of-00002.safetensors")
    with pytest.raises(ValueError, match="model.safetensors.index.json says otherwise"):
        load_predictor(folder)
