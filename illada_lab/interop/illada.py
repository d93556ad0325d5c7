"""iLLaDA's layout: Llama's names of tensors and fields, classes of its own."""

from typing import Any

from illada_lab.interop.layout import Config, Layout, PublishedCode, refuse, required
from illada_lab.models.spec import ModelSpec
from illada_lab.tokens import ILLADA, SpecialTokens

# No scaling of positions, in the words of several versions of transformers.
DEFAULT_ROPE = (None, {"rope_type": "default"}, {"type": "default"})


def spec_of(config: Config, *, is_causal: bool = False, has_qk_norm: bool = False) -> ModelSpec:
    """Sizes from Llama's fields.

    Args:
        config: config.json.
        is_causal, has_qk_norm: what the family's class does, which no field says.

    Raises:
        ValueError: a field is missing, or asks for what this model does not do.
    """
    refuse(
        config,
        hidden_act=("silu",),
        attention_bias=(False, None),
        mlp_bias=(False, None),
        layer_norm_eps=(None,),
        rope_scaling=DEFAULT_ROPE,
        partial_rotary_factor=(None, 1.0),
    )
    # transformers 5 writes the rotary settings as an object of their own.
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        raise ValueError(f"config.json: rope_parameters = {rope}; not supported here; rope_type default")
    refuse(rope, partial_rotary_factor=(None, 1.0))
    d_model, n_heads = required(config, "hidden_size"), required(config, "num_attention_heads")
    refuse(config, head_dim=(d_model // n_heads, None))
    return ModelSpec(
        vocab_size=required(config, "vocab_size"),
        d_model=d_model,
        n_layers=required(config, "num_hidden_layers"),
        n_heads=n_heads,
        n_kv_heads=required(config, "num_key_value_heads"),
        d_ffn=required(config, "intermediate_size"),
        max_length=required(config, "max_position_embeddings"),
        is_tied=required(config, "tie_word_embeddings"),
        rope_theta=float(rope.get("rope_theta") or required(config, "rope_theta")),
        norm_eps=float(required(config, "rms_norm_eps")),
        init_std=config.get("initializer_range") or ModelSpec.init_std,
        has_qk_norm=has_qk_norm,
        is_causal=is_causal,
    )


def fields_of(spec: ModelSpec, tokens: SpecialTokens) -> dict[str, Any]:
    """Llama's fields from sizes; every field that a reader might fill with a default of its own is there."""
    return {
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
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "initializer_range": spec.init_std,
        "use_cache": False,
        "bos_token_id": tokens.bos,
        "eos_token_id": tokens.eos,
        "pad_token_id": tokens.filler,
        "mask_token_id": tokens.mask,
        # Our own keys: the released files of no family name them, and a model that has one must not lose it.
        **({} if tokens.eot is None else {"eot_token_id": tokens.eot}),
        **({} if tokens.unk is None else {"unk_token_id": tokens.unk}),
    }


def tensor_name(name: str) -> str:
    """Our names are this family's, but for the prefix of all that is not the head."""
    return name if name.startswith("lm_head") else f"model.{name}"


def _tokens(config: Config) -> SpecialTokens:
    return SpecialTokens(
        # config.json does not name it; the release's README does.
        mask=ILLADA.mask if config.get("mask_token_id") is None else config["mask_token_id"],
        bos=config.get("bos_token_id"),
        eos=required(config, "eos_token_id"),
        pad=config.get("pad_token_id"),
        unk=config.get("unk_token_id"),
        eot=config.get("eot_token_id"),
    )


def _config(spec: ModelSpec, tokens: SpecialTokens) -> dict[str, Any]:
    # A norm's epsilon of null is how the class is told to use RMSNorm.
    return {**fields_of(spec, tokens), "layer_norm_eps": None, "resid_pdrop": 0.0}


ILLADA_LAYOUT = Layout(
    name="illada",
    architecture="ILLaDAForCausalLM",
    model_type="illada",
    spec=spec_of,
    tokens=_tokens,
    config=_config,
    tensor_name=tensor_name,
    flags={"has_qk_norm": False, "is_causal": False},
    # In front of the prefix where the published evaluation scores candidates; before prompts to write from, too (our reading: one model,
    # one beginning of a text; what its tokenizer does there is not known here).
    has_bos=True,
    has_eos=True,  # behind the candidate there
    code=PublishedCode(
        repository="GSAI-ML/iLLaDA-8B-Base",
        config="configuration_illada.ILLaDAConfig",
        model="modeling_illada.ILLaDAForCausalLM",
    ),
)
