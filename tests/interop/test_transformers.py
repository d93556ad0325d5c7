"""Exported models in transformers' own classes, no remote code: the same logits; and theirs in ours."""

import json

import pytest
import torch

from illada_lab.cli import main
from illada_lab.interop import export_published, load_published
from illada_lab.tokens import ILLADA
from illada_lab.training.checkpoint import load_run
from tests.small import small_predictor

transformers = pytest.importorskip("transformers")
needs_5 = pytest.mark.skipif(
    int(transformers.__version__.partition(".")[0]) < 5, reason="older versions do not read is_causal from config.json"
)

X = torch.tensor([[0, 9, 5, 11, 5, 13, 2], [0, 5, 5, 5, 20, 1, 1]])
IS_VALID = torch.tensor([[True] * 7, [True] * 5 + [False] * 2])


def theirs(folder):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


@needs_5
@torch.no_grad()
@pytest.mark.parametrize("shard_bytes", [10**9, 10_000])
@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("layout", ["llama", "qwen3"])
def test_the_same_logits(tmp_path, layout, is_causal, is_tied, shard_bytes):
    predictor = small_predictor(is_causal=is_causal, is_tied=is_tied, has_qk_norm=layout == "qwen3", rope_theta=700.0)
    model = theirs(export_published(predictor, tmp_path / "out", layout, shard_bytes))
    assert type(model).__module__.startswith("transformers.models.")
    torch.testing.assert_close(model(X).logits, predictor(X), atol=1e-5, rtol=0)
    own = predictor(X, is_valid=IS_VALID)
    other = model(X, attention_mask=IS_VALID.long()).logits
    torch.testing.assert_close(other[IS_VALID], own[IS_VALID], atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("layout", ["llama", "qwen3"])
def test_a_full_mask_does_the_same_in_every_version(tmp_path, layout):
    predictor = small_predictor(has_qk_norm=layout == "qwen3")
    model = theirs(export_published(predictor, tmp_path / "out", layout))
    full = torch.zeros(len(X), 1, X.shape[1], X.shape[1])
    torch.testing.assert_close(model(X, attention_mask=full).logits, predictor(X), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", ["Llama", "Qwen3"])
def test_what_transformers_saves_is_read(tmp_path, name):
    config = getattr(transformers, f"{name}Config")(
        vocab_size=24, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        intermediate_size=48, max_position_embeddings=64, tie_word_embeddings=False, rope_theta=300.0, initializer_range=0.3,
        bos_token_id=0, eos_token_id=2, pad_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    model.save_pretrained(tmp_path / "theirs")
    with pytest.raises(ValueError, match="mask_token_id = null; needed and never guessed"):
        load_published(tmp_path / "theirs")
    predictor = load_published(tmp_path / "theirs", tokens=ILLADA)
    assert predictor.spec.is_causal and predictor.spec.has_qk_norm == (name == "Qwen3")
    torch.testing.assert_close(predictor(X), model(X).logits, atol=1e-5, rtol=0)


def test_the_tokenizer_and_the_ids_are_read(models, tmp_path):
    folder = tmp_path / "out"
    assert main(["export", models["base"], "layout=qwen3", f"out={folder}"]) == 0
    own = load_run(models["base"].partition("=")[2]).tokenizer
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = "ada lives in"
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == own.encode(text)
    assert tokenizer.decode(own.encode(text)) == text
    for role in ("mask", "eos", "bos", "pad"):
        assert getattr(tokenizer, f"{role}_token_id") == getattr(own.tokens, role), role
    config = transformers.AutoConfig.from_pretrained(folder)
    assert (config.eos_token_id, config.pad_token_id, config.mask_token_id) == (2, 1, 5)
    assert transformers.GenerationConfig.from_pretrained(folder).eos_token_id == 2
    assert json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
