"""The published forward passes, written again from their description, on plain dictionaries of tensors."""

import json
import math

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

LLADA = dict(
    architectures=["LLaDAModelLM"], model_type="llada", d_model=32, n_layers=2, n_heads=4, n_kv_heads=4,
    mlp_hidden_size=48, mlp_ratio=4, vocab_size=24, embedding_size=24, max_sequence_length=64, weight_tying=False,
    rope=True, rope_full_precision=True, rope_theta=5000.0, layer_norm_type="rms", rms_norm_eps=1e-5, activation_type="silu",
    block_type="llama", include_bias=False, include_qkv_bias=False, bias_for_layer_norm=False, attention_layer_norm=False,
    alibi=False, scale_logits=False, input_emb_norm=False, eos_token_id=2, pad_token_id=2, mask_token_id=5,
)  # fmt: skip
ILLADA = dict(
    architectures=["ILLaDAForCausalLM"], model_type="illada", hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, intermediate_size=48, vocab_size=24, max_position_embeddings=64, tie_word_embeddings=True,
    rope_theta=5000.0, rope_scaling=None, rms_norm_eps=1e-6, layer_norm_eps=None, hidden_act="silu", attention_bias=False,
    mlp_bias=False, bos_token_id=0, pad_token_id=1, eos_token_id=2,
)  # fmt: skip


def random_state(config: dict, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights under the published names, at the published shapes."""
    generator = torch.Generator().manual_seed(seed)
    is_llada = config["model_type"] == "llada"
    d, heads = (config[k] for k in (("d_model", "n_heads") if is_llada else ("hidden_size", "num_attention_heads")))
    kv = (config.get("n_kv_heads") or heads) if is_llada else config["num_key_value_heads"]
    ffn = config["mlp_hidden_size"] if is_llada else config["intermediate_size"]
    rows = config["embedding_size"] if is_llada else config["vocab_size"]
    shapes = {}
    for n in range(config["n_layers"] if is_llada else config["num_hidden_layers"]):
        if is_llada:
            at = f"model.transformer.blocks.{n}."
            names = ["attn_norm", "ff_norm", "q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out"]
        else:
            at = f"model.layers.{n}."
            names = ["input_layernorm", "post_attention_layernorm", *(f"self_attn.{x}_proj" for x in "qkvo")]
            names += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
        sizes = [(d,), (d,), (d, d), (kv * d // heads, d), (kv * d // heads, d), (d, d), (ffn, d), (ffn, d), (d, ffn)]
        shapes |= {f"{at}{name}.weight": size for name, size in zip(names, sizes, strict=True)}
    rest = ("model.transformer.wte", "model.transformer.ln_f", "model.transformer.ff_out")
    rest = rest if is_llada else ("model.embed_tokens", "model.norm", "lm_head")
    shapes |= {f"{name}.weight": size for name, size in zip(rest, [(rows, d), (d,), (rows, d)], strict=True)}
    if config["weight_tying" if is_llada else "tie_word_embeddings"]:
        del shapes[f"{rest[2]}.weight"]
    return {
        name: torch.randn(size, generator=generator) * 0.3 + (1.0 if len(size) == 1 else 0.0)
        for name, size in shapes.items()
    }


def write(folder, config, state, n_shards: int = 1):
    """A checkpoint folder."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    names = sorted(state)
    files = [f"model-{i + 1:05}-of-{n_shards:05}.safetensors" for i in range(n_shards)]
    if n_shards == 1:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    placed = {name: files[i % n_shards] for i, name in enumerate(names)}
    for file in files:
        save_file({name: state[name] for name in names if placed[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return folder


def logits(config: dict, state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Logits of int64 [B, L]; without loops over layers' names that the package shares."""
    if config["model_type"] == "llada":
        prefix, part = "model.transformer.blocks", dict(n1="attn_norm", n2="ff_norm", q="q_proj", k="k_proj", v="v_proj",
            o="attn_out", gate="ff_proj", up="up_proj", down="ff_out")  # fmt: skip
        embedding, norm, head = (state.get(f"model.transformer.{n}.weight") for n in ("wte", "ln_f", "ff_out"))
        n_layers, n_heads, theta, eps = (config[k] for k in ("n_layers", "n_heads", "rope_theta", "rms_norm_eps"))
    else:
        prefix, part = "model.layers", dict(n1="input_layernorm", n2="post_attention_layernorm", q="self_attn.q_proj",
            k="self_attn.k_proj", v="self_attn.v_proj", o="self_attn.o_proj", gate="mlp.gate_proj", up="mlp.up_proj",
            down="mlp.down_proj")  # fmt: skip
        embedding, norm, head = (
            state.get(n) for n in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
        )
        keys = ("num_hidden_layers", "num_attention_heads", "rope_theta", "rms_norm_eps")
        n_layers, n_heads, theta, eps = (config[k] for k in keys)
    head = embedding if head is None else head

    def rms(h, w):
        return w * h / (h.pow(2).mean(-1, keepdim=True) + eps).sqrt()

    h = embedding[x]
    n_rows, length, d = h.shape
    size = d // n_heads
    angle = torch.arange(length)[:, None] / theta ** (torch.arange(0, size, 2) / size)  # [L, E / 2]
    turn = torch.polar(torch.ones_like(angle), angle)

    def rope(u):  # [B, heads, L, E]: entry j with entry j + E / 2, as complex numbers
        z = torch.complex(u[..., : size // 2].contiguous(), u[..., size // 2 :].contiguous()) * turn
        return torch.cat((z.real, z.imag), -1)

    for n in range(n_layers):
        w = {short: state[f"{prefix}.{n}.{name}.weight"] for short, name in part.items()}
        u = rms(h, w["n1"])
        q, k, v = (F.linear(u, w[i]).view(n_rows, length, -1, size).transpose(1, 2) for i in "qkv")
        k, v = (t.repeat_interleave(n_heads // t.shape[1], 1) for t in (k, v))
        scores = rope(q) @ rope(k).transpose(2, 3) / math.sqrt(size)
        h = h + F.linear((scores.softmax(-1) @ v).transpose(1, 2).flatten(2), w["o"])
        u = rms(h, w["n2"])
        h = h + F.linear(F.silu(F.linear(u, w["gate"])) * F.linear(u, w["up"]), w["down"])
    return F.linear(rms(h, norm), head)
