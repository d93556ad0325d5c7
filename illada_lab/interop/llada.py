"""LLaDA's layout: OLMo's names of tensors and fields."""

from typing import Any

from illada_lab.interop.layout import Config, Layout, PublishedCode, refuse, required
from illada_lab.models.spec import ModelSpec
from illada_lab.tokens import LLADA, SpecialTokens

# Ours -> theirs inside of a layer.
_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.o_proj": "attn_out",
    "post_attention_layernorm": "ff_norm",
    "mlp.gate_proj": "ff_proj",  # the gate, for all its name
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
}
_REST = {"embed_tokens": "wte", "norm": "ln_f", "lm_head": "ff_out"}


def _spec(config: Config) -> ModelSpec:
    refuse(
        config,
        rope=(True,),
        alibi=(False, None),
        layer_norm_type=("rms",),
        activation_type=("silu",),
        block_type=("llama",),
        include_bias=(False, None),
        include_qkv_bias=(False, None),
        bias_for_layer_norm=(False, None),
        attention_layer_norm=(False, None),
        scale_logits=(False, None),
        input_emb_norm=(False, None),
        clip_qkv=(None,),
        rope_full_precision=(True,),
    )
    d_model, n_heads = required(config, "d_model"), required(config, "n_heads")
    n_kv_heads = config.get("n_kv_heads")
    if n_kv_heads is None:
        n_kv_heads = 1 if config.get("multi_query_attention") else n_heads
    d_ffn = config.get("mlp_hidden_size")
    return ModelSpec(
        # Rows of the embedding; more than the tokenizer has words.
        vocab_size=config.get("embedding_size") or required(config, "vocab_size"),
        d_model=d_model,
        n_layers=required(config, "n_layers"),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        d_ffn=_ratio_of(config, d_model) if d_ffn is None else d_ffn,
        max_length=required(config, "max_sequence_length"),
        is_tied=required(config, "weight_tying"),
        rope_theta=float(required(config, "rope_theta")),
        norm_eps=float(required(config, "rms_norm_eps")),
        init_std=config.get("init_std") or ModelSpec.init_std,
    )


def _ratio_of(config: Config, d_model: int) -> int:
    size = required(config, "mlp_ratio") * d_model
    if size != int(size):
        raise ValueError(
            f"config.json: mlp_ratio = {config['mlp_ratio']}; {size} rows of a matrix; a whole number of them"
        )
    return int(size)


def _is_released(mask: int, eos: int) -> bool:
    """Whether ids are those of the released tokenizer: only then are its other ids what they are there."""
    return (mask, eos) == (LLADA.mask, LLADA.eos)


def _usual_eot(mask: int, eos: int) -> int | None:
    return LLADA.eot if _is_released(mask, eos) else None


def _tokens(config: Config) -> SpecialTokens:
    mask, eos = required(config, "mask_token_id"), required(config, "eos_token_id")
    return SpecialTokens(
        mask=mask,
        eos=eos,
        pad=config.get("pad_token_id"),
        # Not in the released config.json: the tokenizer's.
        bos=config.get("bos_token_id", LLADA.bos if _is_released(mask, eos) else None),
        unk=config.get("unk_token_id"),
        eot=config.get("eot_token_id", _usual_eot(mask, eos)),
    )


def _config(spec: ModelSpec, tokens: SpecialTokens) -> dict[str, Any]:
    return {
        "d_model": spec.d_model,
        "n_layers": spec.n_layers,
        "n_heads": spec.n_heads,
        "n_kv_heads": spec.n_kv_heads,
        "multi_query_attention": None,
        "mlp_hidden_size": spec.d_ffn,
        "mlp_ratio": 4,  # of no effect beside mlp_hidden_size
        "vocab_size": spec.vocab_size,
        "embedding_size": spec.vocab_size,
        "max_sequence_length": spec.max_length,
        "weight_tying": spec.is_tied,
        "rope": True,
        "rope_full_precision": True,
        "rope_theta": spec.rope_theta,
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "rms_norm_eps": spec.norm_eps,
        "activation_type": "silu",
        "block_type": "llama",
        "block_group_size": 1,
        "alibi": False,
        "alibi_bias_max": 8.0,
        "include_bias": False,
        "include_qkv_bias": False,
        "bias_for_layer_norm": False,
        "attention_layer_norm": False,
        "attention_layer_norm_with_affine": True,
        "scale_logits": False,
        "input_emb_norm": False,
        "flash_attention": False,
        "attention_dropout": 0.0,
        "residual_dropout": 0.0,
        "embedding_dropout": 0.0,
        "init_device": "meta",
        "init_fn": "mitchell",
        "init_std": spec.init_std,
        "init_cutoff_factor": None,
        "precision": "amp_bf16",
        "use_cache": False,
        "bos_token_id": tokens.bos,
        "eos_token_id": tokens.eos,
        "pad_token_id": tokens.filler,
        "mask_token_id": tokens.mask,
        # Our own keys, where the released ids do not imply them: the released file does not name them.
        **({} if tokens.eot == _usual_eot(tokens.mask, tokens.eos) else {"eot_token_id": tokens.eot}),
        **({} if tokens.unk is None else {"unk_token_id": tokens.unk}),
    }


def _name(name: str) -> str:
    kind, _, rest = name.partition(".")
    if kind == "layers":
        number, _, part = rest.partition(".")
        return f"model.transformer.blocks.{number}.{_LAYER[part.removesuffix('.weight')]}.weight"
    return f"model.transformer.{_REST[kind]}.weight"


LLADA_LAYOUT = Layout(
    name="llada",
    architecture="LLaDAModelLM",
    model_type="llada",
    spec=_spec,
    tokens=_tokens,
    config=_config,
    tensor_name=_name,
    flags={"has_qk_norm": False, "is_causal": False},
    code=PublishedCode(
        repository="GSAI-ML/LLaDA-8B-Base",
        config="configuration_llada.LLaDAConfig",
        model="modeling_llada.LLaDAModelLM",
    ),
)
