"""Layouts that transformers reads with classes of its own, no remote code: Llama, and Qwen3 where there is QK-norm.

The networks are the same: only the direction of attention differs, which transformers 5 takes from `is_causal` in config.json. Older
versions ignore that field and need a 4-D attention mask of ones.
"""

from functools import partial
from typing import Any

from illada_lab.interop.illada import fields_of, spec_of, tensor_name
from illada_lab.interop.layout import Config, Layout, refuse, required
from illada_lab.models.spec import ModelSpec
from illada_lab.tokens import SpecialTokens


def _spec(config: Config, *, has_qk_norm: bool) -> ModelSpec:
    refuse(config, use_sliding_window=(False, None))
    return spec_of(config, is_causal=bool(config.get("is_causal", True)), has_qk_norm=has_qk_norm)


def _tokens(config: Config) -> SpecialTokens:
    return SpecialTokens(
        mask=required(config, "mask_token_id"),
        bos=config.get("bos_token_id"),
        eos=required(config, "eos_token_id"),
        pad=config.get("pad_token_id"),
        unk=config.get("unk_token_id"),
        eot=config.get("eot_token_id"),
    )


def _config(spec: ModelSpec, tokens: SpecialTokens) -> dict[str, Any]:
    return {**fields_of(spec, tokens), "is_causal": spec.is_causal}


LLAMA_LAYOUT = Layout(
    name="llama",
    architecture="LlamaForCausalLM",
    model_type="llama",
    spec=partial(_spec, has_qk_norm=False),
    tokens=_tokens,
    config=_config,
    tensor_name=tensor_name,
    flags={"has_qk_norm": False},
)
QWEN3_LAYOUT = Layout(
    name="qwen3",
    architecture="Qwen3ForCausalLM",
    model_type="qwen3",
    spec=partial(_spec, has_qk_norm=True),
    tokens=_tokens,
    config=_config,
    tensor_name=tensor_name,
    flags={"has_qk_norm": True},
)
