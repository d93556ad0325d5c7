"""Published weights into a model that exists: in place, in its own precision, and what does not fit."""

import pytest
import torch

from illada_lab.interop import load_published, load_published_into
from tests.interop.reference import ILLADA, LLADA, random_state, write
from tests.small import small_predictor

SIZES = dict(max_length=64, rope_theta=5000.0)


def like_illada(**changes):
    return small_predictor(seed=9, **{**SIZES, "norm_eps": 1e-6, "is_tied": True, **changes})


def test_weights_are_written_in_place_and_cast(tmp_path):
    state = {name: tensor.to(torch.bfloat16) for name, tensor in random_state(ILLADA).items()}
    folder = write(tmp_path / "model", ILLADA, state, n_shards=3)
    predictor = like_illada().train()
    places = {name: parameter.data_ptr() for name, parameter in predictor.named_parameters()}
    load_published_into(predictor, folder)
    expected = load_published(folder, dtype=torch.float32)
    assert {name: parameter.data_ptr() for name, parameter in predictor.named_parameters()} == places
    for name, parameter in predictor.named_parameters():
        assert torch.equal(parameter, expected.get_parameter(name)) and parameter.requires_grad
    assert predictor.training


def test_a_shorter_window_is_a_choice_and_a_longer_one_is_not(tmp_path):
    folder = write(tmp_path / "model", ILLADA, random_state(ILLADA))
    load_published_into(like_illada(max_length=16), folder)
    with pytest.raises(ValueError, match="model.max_length = 65; .* was trained on rows of 64; at most 64"):
        load_published_into(like_illada(max_length=65), folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_theta": 1e4}, "model.rope_theta = 10000.0; not the model of .*; model.rope_theta=5000.0"),
        ({"norm_eps": 1e-5, "is_tied": False}, "model.is_tied = False, model.norm_eps = 1e-05; .*model.is_tied=true model.norm_eps=1e-06"),
        ({"has_qk_norm": True}, "model.has_qk_norm = True; .* model.has_qk_norm=false"),
        ({"vocab_size": 32}, "model.vocab_size = 32; .* model.vocab_size=24"),
    ],
)  # fmt: skip
def test_another_model_is_refused_before_anything_is_written(tmp_path, changes, message):
    folder = write(tmp_path / "model", ILLADA, random_state(ILLADA))
    predictor = like_illada(**changes)
    before = {name: p.clone() for name, p in predictor.named_parameters()}
    with pytest.raises(ValueError, match=message):
        load_published_into(predictor, folder)
    assert all(torch.equal(p, before[name]) for name, p in predictor.named_parameters())


def test_a_second_head_is_compared_wherever_it_stands(tmp_path):
    state = random_state(ILLADA)
    state["lm_head.weight"] = state["model.embed_tokens.weight"] + 1
    folder = write(tmp_path / "model", ILLADA, state, n_shards=5)
    with pytest.raises(ValueError, match="lm_head.weight; differs from model.embed_tokens.weight"):
        load_published_into(like_illada(), folder)


def test_a_device_and_a_precision_can_be_asked_for(tmp_path):
    folder = write(tmp_path / "model", LLADA, random_state(LLADA))
    predictor = load_published(folder, dtype=torch.bfloat16, device="cpu")
    assert {p.dtype for p in predictor.parameters()} == {torch.bfloat16}
    empty = load_published(folder, device="meta")
    assert {p.device.type for p in empty.parameters()} == {"meta"}
