"""What would be written for the 8B models, beside what was released: fields, names, shapes, bytes. On the meta device."""

import json

import pytest
import torch

from illada_lab.config import build, compose
from illada_lab.interop.layouts import LAYOUTS, find_layout
from illada_lab.models import MaskPredictor
from illada_lab.tokens import ILLADA, LLADA

# config.json of LLaDA-8B, but for the version that wrote it and where its code is.
LLADA_8B = json.loads("""{
  "activation_type": "silu", "alibi": false, "alibi_bias_max": 8.0, "architectures": ["LLaDAModelLM"], "attention_dropout": 0.0,
  "attention_layer_norm": false, "attention_layer_norm_with_affine": true, "bias_for_layer_norm": false, "block_group_size": 1,
  "block_type": "llama", "d_model": 4096, "embedding_dropout": 0.0, "embedding_size": 126464, "eos_token_id": 126081,
  "flash_attention": false, "include_bias": false, "include_qkv_bias": false, "init_cutoff_factor": null, "init_device": "meta",
  "init_fn": "mitchell", "init_std": 0.02, "input_emb_norm": false, "layer_norm_type": "rms", "layer_norm_with_affine": true,
  "mask_token_id": 126336, "max_sequence_length": 4096, "mlp_hidden_size": 12288, "mlp_ratio": 4, "model_type": "llada",
  "multi_query_attention": null, "n_heads": 32, "n_kv_heads": 32, "n_layers": 32, "pad_token_id": 126081, "precision": "amp_bf16",
  "residual_dropout": 0.0, "rms_norm_eps": 1e-05, "rope": true, "rope_full_precision": true, "rope_theta": 500000.0,
  "scale_logits": false, "use_cache": false, "vocab_size": 126464, "weight_tying": false
}""")
# What is known of iLLaDA-8B's.
ILLADA_8B = {
    "architectures": ["ILLaDAForCausalLM"], "model_type": "illada", "hidden_size": 4096, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 155136,
    "max_position_embeddings": 8192, "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False, "hidden_act": "silu",
    "layer_norm_eps": None, "rope_scaling": None, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
# Fields that iLLaDA's class reads, whatever their values.
ILLADA_READS = {"resid_pdrop", "attention_dropout", "initializer_range", "rms_norm_eps", "rope_theta", *ILLADA_8B}


def on_meta(name, tokens) -> MaskPredictor:
    with torch.device("meta"):
        return build(compose([f"model={name}"]).model, tokens=tokens)


def said(layout, predictor):
    chosen = LAYOUTS[layout]
    head = {"architectures": [chosen.architecture], "model_type": chosen.model_type}
    return head | chosen.config(predictor.spec, predictor.tokens)


def test_llada_8b():
    predictor = on_meta("llada_8b", LLADA)
    config = said("llada", predictor)
    assert {key: config[key] for key in LLADA_8B} == LLADA_8B
    # Not in the released file; the tokenizer's.
    assert config.keys() - LLADA_8B.keys() == {"bos_token_id"}
    layout = find_layout(LLADA_8B)
    assert layout.spec(LLADA_8B) == predictor.spec and layout.tokens(LLADA_8B) == LLADA
    shapes = {layout.tensor_name(name): list(p.shape) for name, p in predictor.named_parameters()}
    assert len(shapes) == 291 and 2 * sum(p.numel() for p in predictor.parameters()) == 16_031_162_368
    assert shapes["model.transformer.blocks.31.ff_proj.weight"] == [12288, 4096]
    assert shapes["model.transformer.blocks.0.ff_out.weight"] == [4096, 12288]
    assert shapes["model.transformer.ff_out.weight"] == shapes["model.transformer.wte.weight"] == [126464, 4096]


def test_illada_8b():
    predictor = on_meta("illada_8b", ILLADA)
    config = said("illada", predictor)
    assert {key: config[key] for key in ILLADA_8B} == ILLADA_8B and config.keys() >= ILLADA_READS
    layout = find_layout(ILLADA_8B)
    # What nobody outside has seen of the released file is asked for, not guessed.
    with pytest.raises(ValueError, match="rope_theta = null; needed and never guessed"):
        layout.spec(ILLADA_8B)
    known = {**ILLADA_8B, "rope_theta": 500_000.0, "rms_norm_eps": 1e-6}
    assert layout.spec(known) == predictor.spec
    assert layout.tokens(known).to_dict() | {"unk": ILLADA.unk} == ILLADA.to_dict()
    shapes = {layout.tensor_name(name): list(p.shape) for name, p in predictor.named_parameters()}
    assert len(shapes) == 290 and sum(p.numel() for p in predictor.parameters()) == 7_615_025_152
    assert shapes["model.layers.31.self_attn.k_proj.weight"] == [1024, 4096]
    assert shapes["model.embed_tokens.weight"] == [155136, 4096]
