"""The two published checkpoint layouts: names of tensors, fields of config.json, special tokens."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from illada_lab.models.spec import ModelSpec
from illada_lab.tokens import ILLADA, LLADA, SpecialTokens

Config = Mapping[str, Any]

# Ours -> theirs inside of a layer.
_LLADA_LAYER = {
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
_LLADA_REST = {"embed_tokens": "wte", "norm": "ln_f", "lm_head": "ff_out"}


@dataclass(frozen=True)
class Layout:
    """How one family writes its checkpoints.

    Attributes:
        name: "illada" or "llada".
        architecture: class name in `architectures`.
        spec: config.json -> sizes.
        tokens: config.json -> special tokens.
        config: sizes and special tokens -> config.json.
        tensor_name: our name of a parameter -> theirs.

    Source: facts of the released files: config.json, the index of the shards, and the remote code that reads them.
    """

    name: str
    architecture: str
    spec: Callable[[Config], ModelSpec]
    tokens: Callable[[Config], SpecialTokens]
    config: Callable[[ModelSpec, SpecialTokens], dict[str, Any]]
    tensor_name: Callable[[str], str]


def find_layout(config: Config) -> Layout:
    """The layout a config.json is of; by `architectures`, because two families call themselves model_type "llada".

    Raises:
        ValueError: another family.
    """
    names = config.get("architectures") or []
    for layout in LAYOUTS.values():
        if layout.architecture in names:
            return layout
    if not names and config.get("model_type") in LAYOUTS:
        return LAYOUTS[config["model_type"]]
    known = ", ".join(layout.architecture for layout in LAYOUTS.values())
    raise ValueError(
        f"config.json: architectures = {list(names)}, model_type = {config.get('model_type')!r}; a model of another family; {known}"
    )


def _field(config: Config, name: str) -> Any:
    """A field that must be there: the published classes' own defaults are those of another model."""
    if config.get(name) is None:
        raise ValueError(f"config.json: {name} = null; needed and never guessed; the value the model was trained with")
    return config[name]


def _refuse(config: Config, **allowed: tuple[Any, ...]) -> None:
    """Raise ValueError if a field asks for what this model does not do; a field that is missing asks for nothing."""
    for name, values in allowed.items():
        if name in config and config[name] not in values:
            legal = " or ".join("null" if value is None else str(value) for value in values)
            raise ValueError(f"config.json: {name} = {config[name]!r}; not supported here; {legal}")


def _llada_spec(config: Config) -> ModelSpec:
    _refuse(
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
    )
    d_model, n_heads = _field(config, "d_model"), _field(config, "n_heads")
    n_kv_heads = config.get("n_kv_heads")
    if n_kv_heads is None:
        n_kv_heads = 1 if config.get("multi_query_attention") else n_heads
    d_ffn = config.get("mlp_hidden_size")
    return ModelSpec(
        # Rows of the embedding; more than the tokenizer has words.
        vocab_size=config.get("embedding_size") or _field(config, "vocab_size"),
        d_model=d_model,
        n_layers=_field(config, "n_layers"),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        d_ffn=_field(config, "mlp_ratio") * d_model if d_ffn is None else d_ffn,
        max_length=_field(config, "max_sequence_length"),
        is_tied=_field(config, "weight_tying"),
        rope_theta=float(_field(config, "rope_theta")),
        norm_eps=float(_field(config, "rms_norm_eps")),
    )


def _llada_tokens(config: Config) -> SpecialTokens:
    size = config.get("embedding_size") or _field(config, "vocab_size")
    is_released = size > max(token for token in LLADA.to_dict().values() if token is not None)
    return SpecialTokens(
        mask=_field(config, "mask_token_id"),
        eos=_field(config, "eos_token_id"),
        pad=config.get("pad_token_id"),
        # Not in config.json: the tokenizer's, in a vocabulary that has them.
        bos=config.get("bos_token_id", LLADA.bos if is_released else None),
        eot=LLADA.eot if is_released else None,
    )


def _llada_config(spec: ModelSpec, tokens: SpecialTokens) -> dict[str, Any]:
    return {
        "architectures": ["LLaDAModelLM"],
        "model_type": "llada",
        "d_model": spec.d_model,
        "n_layers": spec.n_layers,
        "n_heads": spec.n_heads,
        "n_kv_heads": spec.n_kv_heads,
        "mlp_hidden_size": spec.d_ffn,
        "mlp_ratio": 4,
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
        "include_bias": False,
        "include_qkv_bias": False,
        "bias_for_layer_norm": False,
        "attention_layer_norm": False,
        "scale_logits": False,
        "input_emb_norm": False,
        "flash_attention": False,
        "attention_dropout": 0.0,
        "residual_dropout": 0.0,
        "embedding_dropout": 0.0,
        "use_cache": False,
        "bos_token_id": tokens.bos,
        "eos_token_id": tokens.eos,
        "pad_token_id": tokens.filler,
        "mask_token_id": tokens.mask,
    }


def _llada_name(name: str) -> str:
    kind, _, rest = name.partition(".")
    if kind == "layers":
        number, _, part = rest.partition(".")
        return f"model.transformer.blocks.{number}.{_LLADA_LAYER[part.removesuffix('.weight')]}.weight"
    return f"model.transformer.{_LLADA_REST[kind]}.weight"


def _illada_spec(config: Config) -> ModelSpec:
    _refuse(
        config,
        hidden_act=("silu",),
        attention_bias=(False, None),
        mlp_bias=(False, None),
        layer_norm_eps=(None,),
        rope_scaling=(None, {"rope_type": "default"}),
    )
    # transformers 5 writes the rotary settings as an object of their own.
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        raise ValueError(f"config.json: rope_parameters = {rope}; not supported here; rope_type default")
    d_model, n_heads = _field(config, "hidden_size"), _field(config, "num_attention_heads")
    _refuse(config, head_dim=(d_model // n_heads, None))
    return ModelSpec(
        vocab_size=_field(config, "vocab_size"),
        d_model=d_model,
        n_layers=_field(config, "num_hidden_layers"),
        n_heads=n_heads,
        n_kv_heads=_field(config, "num_key_value_heads"),
        d_ffn=_field(config, "intermediate_size"),
        max_length=_field(config, "max_position_embeddings"),
        is_tied=_field(config, "tie_word_embeddings"),
        rope_theta=float(rope.get("rope_theta") or _field(config, "rope_theta")),
        norm_eps=float(_field(config, "rms_norm_eps")),
    )


def _illada_tokens(config: Config) -> SpecialTokens:
    return SpecialTokens(
        # config.json does not name it; the release's README does.
        mask=config.get("mask_token_id", ILLADA.mask),
        bos=config.get("bos_token_id"),
        eos=_field(config, "eos_token_id"),
        pad=config.get("pad_token_id"),
    )


def _illada_config(spec: ModelSpec, tokens: SpecialTokens) -> dict[str, Any]:
    return {
        "architectures": ["ILLaDAForCausalLM"],
        "model_type": "illada",
        "hidden_size": spec.d_model,
        "num_hidden_layers": spec.n_layers,
        "num_attention_heads": spec.n_heads,
        "num_key_value_heads": spec.n_kv_heads,
        "head_dim": spec.head_size,
        "intermediate_size": spec.d_ffn,
        "vocab_size": spec.vocab_size,
        "max_position_embeddings": spec.max_length,
        "tie_word_embeddings": spec.is_tied,
        "rope_theta": spec.rope_theta,
        "rope_scaling": None,
        "rms_norm_eps": spec.norm_eps,
        "layer_norm_eps": None,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "use_cache": False,
        "bos_token_id": tokens.bos,
        "eos_token_id": tokens.eos,
        "pad_token_id": tokens.filler,
        "mask_token_id": tokens.mask,
    }


def _illada_name(name: str) -> str:
    # Our names are this family's.
    return name if name.startswith("lm_head") else f"model.{name}"


LAYOUTS = {
    "illada": Layout("illada", "ILLaDAForCausalLM", _illada_spec, _illada_tokens, _illada_config, _illada_name),
    "llada": Layout("llada", "LLaDAModelLM", _llada_spec, _llada_tokens, _llada_config, _llada_name),
}
