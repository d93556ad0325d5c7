import pytest
import torch

from illada_lab.models import MaskPredictor, ModelSpec, PackedSegments
from illada_lab.tokens import ILLADA, LLADA
from tests.small import SIZES, small_predictor

ILLADA_8B = dict(vocab_size=155_136, d_model=4096, n_layers=32, n_heads=32, n_kv_heads=8, d_ffn=14_336, max_length=8192)
LLADA_8B = dict(vocab_size=126_464, d_model=4096, n_layers=32, n_heads=32, n_kv_heads=32, d_ffn=12_288, max_length=4096)
SEGMENTS = torch.tensor([[1] * 5 + [2] * 7 + [0] * 4, [1] * 16, [1] * 2 + [2] * 9 + [3] * 5])


@pytest.mark.parametrize(
    ("tokens", "sizes", "is_tied", "total"),
    [(ILLADA, ILLADA_8B, True, 7_615_025_152), (LLADA, LLADA_8B, False, 8_015_581_184)],
)
def test_published_parameter_counts(tokens, sizes, is_tied, total):
    with torch.device("meta"):
        model = MaskPredictor(tokens=tokens, is_tied=is_tied, **sizes)
    assert sum(p.numel() for p in model.parameters()) == model.spec.n_parameters == total
    assert model.spec.n_non_embedding_parameters == 6_979_588_096


@pytest.mark.parametrize("has_qk_norm", [False, True])
@pytest.mark.parametrize("is_tied", [False, True])
def test_counts_of_small_models(has_qk_norm, is_tied):
    model = small_predictor(has_qk_norm=has_qk_norm, is_tied=is_tied)
    assert sum(p.numel() for p in model.parameters()) == model.spec.n_parameters


@torch.no_grad()
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("has_qk_norm", [False, True])
def test_padded_and_packed_agree(is_causal, has_qk_norm):
    model = small_predictor(is_causal=is_causal, has_qk_norm=has_qk_norm)
    x = torch.randint(7, 24, SEGMENTS.shape)
    padded = model.head(model.hidden(x, segment_ids=SEGMENTS))[SEGMENTS > 0]
    packed = model.forward_packed(x[SEGMENTS > 0], PackedSegments.from_rows(SEGMENTS).offsets)
    torch.testing.assert_close(padded, packed, rtol=1e-5, atol=1e-5)
    model.use_attention("sdpa")
    with torch.autocast("cpu", dtype=torch.bfloat16):  # queries come out of a norm in float32
        packed = model.forward_packed(x[SEGMENTS > 0], PackedSegments.from_rows(SEGMENTS).offsets)
    assert (padded - packed).norm() < 0.05 * padded.norm()


@torch.no_grad()
def test_padding_and_batch_mates_change_nothing():
    model = small_predictor()
    x = torch.randint(7, 24, (1, 9))
    alone = model(x)
    padded = torch.cat((x, torch.randint(7, 24, (1, 6))), 1)
    is_valid = (torch.arange(15) < 9)[None]
    mate = torch.randint(7, 24, (1, 15))
    together = model(torch.cat((padded, mate)), torch.cat((is_valid, torch.ones_like(is_valid))))
    torch.testing.assert_close(together[:1, :9], alone, rtol=1e-5, atol=1e-5)
    # On the left as well: positions shift, RoPE sees differences only.
    left = model(padded.flip(1), is_valid.flip(1))[:, 6:]
    torch.testing.assert_close(left, model(x.flip(1)), rtol=1e-4, atol=1e-4)


def test_no_gradient_crosses_a_segment():
    model = small_predictor()
    x = torch.randint(7, 24, SEGMENTS.shape)
    embedded = []
    model.embed_tokens.register_forward_hook(lambda m, i, out: embedded.append(out.requires_grad_()) or out)
    out = model.hidden(x, segment_ids=SEGMENTS)
    (gradient,) = torch.autograd.grad(out[0][SEGMENTS[0] == 1].sum(), embedded[0])
    assert gradient[0][SEGMENTS[0] == 1].abs().sum() > 0
    assert gradient[0][SEGMENTS[0] != 1].abs().max() == 0
    assert gradient[1:].abs().max() == 0


@torch.no_grad()
def test_bidirectional_sees_both_sides_and_the_twin_only_the_past():
    x = torch.randint(7, 24, (1, 8))
    changed = x.clone()
    changed[0, 5] = (x[0, 5] - 7 + 1) % 17 + 7
    both, twin = small_predictor(), small_predictor(is_causal=True)
    difference = [(m(x) - m(changed)).abs().amax(-1)[0] for m in (both, twin)]
    assert (difference[0] > 0).all()
    assert (difference[1][:5] == 0).all() and (difference[1][5:] > 0).all()


@torch.no_grad()
def test_all_masked_looks_the_same_from_everywhere_unless_bos_stands_in_front():
    model = small_predictor()
    x = torch.full((1, 9), model.tokens.mask)
    logits = model(x)[0]
    torch.testing.assert_close(logits, logits[:1].expand_as(logits), rtol=1e-4, atol=1e-4)
    x[0, 0] = model.tokens.bos
    logits = model(x)[0, 1:]
    assert (logits - logits[:1]).abs().amax(-1)[1:].min() > 0.01


@torch.no_grad()
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("is_padded", [False, True])
@pytest.mark.parametrize("columns", [(0, 10), (3, 7), (9, 10), (0, 0)])
def test_logits_at_equals_the_full_head(is_causal, is_padded, columns):
    """Also where the last layer computes a few columns only."""
    model = small_predictor(is_causal=is_causal)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(7, 24, (3, 10), generator=generator)
    is_wanted = torch.zeros(3, 10, dtype=torch.bool)
    is_wanted[:2, slice(*columns)] = torch.rand(2, columns[1] - columns[0], generator=generator) < 0.6
    is_valid = torch.ones(3, 10, dtype=torch.bool)
    is_valid[1, :3] = False
    is_valid = is_valid if is_padded else None
    torch.testing.assert_close(model.logits_at(x, is_wanted, is_valid), model(x, is_valid)[is_wanted])


@torch.no_grad()
def test_equals_hugging_face_llama_with_full_attention():
    """The published iLLaDA block is a Llama block without the causal mask."""
    transformers = pytest.importorskip("transformers")
    sizes = dict(SIZES, n_kv_heads=2)
    config = transformers.LlamaConfig(
        vocab_size=24, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
        max_position_embeddings=64, rms_norm_eps=1e-6, rope_theta=500_000.0, tie_word_embeddings=True, attn_implementation="eager",
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).eval()
    ours = small_predictor(rope_theta=500_000.0, **{k: v for k, v in sizes.items()})
    state = {f"model.{name}": value for name, value in ours.state_dict().items()}
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    theirs.tie_weights()
    x = torch.randint(7, 24, (2, 11))
    everything = torch.zeros(2, 1, 11, 11)
    torch.testing.assert_close(ours(x), theirs(x, attention_mask=everything).logits, rtol=1e-4, atol=1e-4)


def test_initial_weights_follow_the_released_code():
    model = small_predictor(d_model=64, d_ffn=256, n_layers=8, init_std=0.02)
    std = {name: p.std().item() for name, p in model.named_parameters() if p.ndim == 2}
    assert std["layers.0.mlp.up_proj.weight"] == pytest.approx(0.02, rel=0.1)
    assert std["layers.0.mlp.down_proj.weight"] == pytest.approx(0.02 / 4, rel=0.1)  # sqrt(2 * 8) = 4
    assert std["layers.3.self_attn.o_proj.weight"] == pytest.approx(0.02 / 4, rel=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(n_heads=5), r"n_heads = 5.*nearest: \[2, 4, 8\]"),
        (dict(n_kv_heads=3), r"n_kv_heads = 3.*one of \[1, 2, 4\]"),
        (dict(n_layers=0), "n_layers = 0"),
        (dict(vocab_size=4), "tokens.mask = 5.*0 to 3"),
    ],
)
def test_bad_sizes_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        small_predictor(**change)


def test_too_long_an_input_is_refused():
    with pytest.raises(ValueError, match="length = 65.*at most 64"):
        small_predictor()(torch.full((1, 65), 8))


def test_segments_say_what_is_valid_themselves():
    x = torch.full((1, 4), 9)
    with pytest.raises(
        ValueError, match="is_valid; has no effect beside segment_ids, which are 0 at .*; one of the two"
    ):
        small_predictor().hidden(x, is_valid=torch.tensor([[True] * 3 + [False]]), segment_ids=torch.ones_like(x))


def test_offsets_must_rise():
    with pytest.raises(ValueError, match="cu_seqlens"):
        PackedSegments(torch.tensor([0, 4, 4]))
    with pytest.raises(ValueError, match="must be the number of tokens; 9"):
        small_predictor().forward_packed(torch.full((9,), 8), torch.tensor([0, 4, 8]))


def test_cache_size_of_the_papers_models():
    sizes = dict(is_tied=True, rope_theta=1.0, norm_eps=1e-6)
    assert ModelSpec(**ILLADA_8B, **sizes).cache_values_per_token == 65_536
    assert ModelSpec(**LLADA_8B, **sizes).cache_values_per_token == 262_144
