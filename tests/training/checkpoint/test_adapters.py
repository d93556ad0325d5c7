"""Runs with adapters: from our own base and from a published one; small checkpoints, exact resume, merged when loaded."""

import importlib.util

import pytest
import torch

from illada_lab import load_predictor
from illada_lab.cli import main
from illada_lab.config import compose_and_check
from illada_lab.models.lora import Lora
from illada_lab.training.checkpoint import find_checkpoint, read_checkpoint
from illada_lab.training.distributed.sharding import recompute
from illada_lab.training.resume import resume_point, say_changes
from illada_lab.training.run import train
from tests.small import small_predictor

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")
X = torch.tensor([[0, 9, 5, 11, 5, 13, 2]])
SMALL = ["scale=smoke", "trainer.precision=32-true", "trainer.accelerator=cpu", "optim=adamw"]


def test_a_missing_package_is_said_before_anything_is_built(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "peft" else find(name, *rest))
    with pytest.raises(ValueError, match=r"lora._target_ = .*; peft is not installed; pip install -e '\.\[lora\]'"):
        compose_and_check([*SMALL, "lora=linear", "init_from=somewhere"])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "run"
    train(compose_and_check([*SMALL, "model.has_qk_norm=false", "scale.n_steps=4", f"run_dir={folder}"]))
    return folder


@pytest.fixture(scope="module")
def answering(base, tmp_path_factory):
    """Fine-tuned: what it is exported with has a chat template, as published models that answer have."""
    folder = tmp_path_factory.mktemp("answering") / "run"
    settings = ["experiment=sft", "model.has_qk_norm=false", "scale.sft_steps=4", f"init_from={base}"]
    train(compose_and_check([*SMALL, *settings, f"run_dir={folder}"]))
    return folder


def tune(base, folder, *overrides):
    settings = ["experiment=sft", "lora=linear", "model.has_qk_norm=false", "scale.sft_steps=6", "lr.peak_ratio=1.0"]
    return train(compose_and_check([*SMALL, *settings, f"init_from={base}", f"run_dir={folder}", *overrides]))


@needs_peft
def test_a_run_saves_its_adapters_only_and_is_loaded_merged(base, tmp_path):
    tune(base, tmp_path / "tuned")
    state = read_checkpoint(tmp_path / "tuned")["state_dict"]
    assert state and all(".lora_" in name for name in state)
    assert find_checkpoint(tmp_path / "tuned").stat().st_size < find_checkpoint(base).stat().st_size
    before, after = load_predictor(base), load_predictor(tmp_path / "tuned")
    assert after.state_dict().keys() == before.state_dict().keys()
    assert torch.equal(after.head_weight, before.head_weight)
    assert (after(X) - before(X)).abs().max() > 1e-3


@needs_peft
def test_a_base_kept_in_bf16(base, tmp_path):
    tune(base, tmp_path / "tuned", "lora.is_base_bf16=true")
    predictor = load_predictor(tmp_path / "tuned")
    assert {p.dtype for p in predictor.parameters()} == {torch.bfloat16}
    assert torch.equal(predictor.head_weight, load_predictor(base).head_weight.to(torch.bfloat16))


@needs_peft
def test_a_resumed_run_equals_the_uninterrupted_one_to_the_bit(base, tmp_path):
    tune(base, tmp_path / "whole", "trainer.save_every=3")
    tune(base, tmp_path / "parts", "trainer.max_steps=3", "lr.n_steps=6")
    tune(base, tmp_path / "parts", "resume=auto")
    a, b = (read_checkpoint(tmp_path / name)["state_dict"] for name in ("whole", "parts"))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@needs_peft
def test_layers_that_are_computed_again_drop_the_same_inputs():
    def gradients(which):
        predictor = small_predictor()
        recompute(predictor, which, has_dropout=True)
        Lora(rank=4, dropout=0.3).add_to(predictor, seed=1)
        with torch.no_grad():
            for name, p in predictor.named_parameters():
                if "lora_B" in name:
                    p.fill_(0.1)  # at zero, where they start, nothing reaches A
        predictor.train()
        torch.manual_seed(5)
        predictor(X).square().sum().backward()
        return [p.grad for p in predictor.parameters() if p.grad is not None]

    whole = gradients(None)
    for which in (1, "ops"):
        assert all(torch.equal(a, b) for a, b in zip(whole, gradients(which), strict=True))


@needs_peft
def test_a_resumed_run_says_or_refuses_what_is_new_about_its_adapters(base, tmp_path, capsys):
    def told(folder, *overrides):
        given = ["experiment=sft", "model.has_qk_norm=false", "scale.sft_steps=3", f"init_from={base}", "resume=auto"]
        return compose_and_check([*SMALL, *given, f"run_dir={folder}", *overrides])

    tune(base, tmp_path / "tuned", "scale.sft_steps=3")
    for overrides, message in (
        (
            ["lora=linear", "lora.is_base_bf16=true"],
            "lora.is_base_bf16 = True; .* holds the state of False; that, or init_from=",
        ),
        (["lora=linear", "lora.rank=8"], "lora.rank = 8; .* holds the state of 16; that, or init_from="),
        (["lora=linear", "lora.targets=[q_proj]"], r"lora.targets = \['q_proj'\]; .* holds the state of .*down_proj"),
        ([], "lora = null; .* holds adapters alone; lora=linear, as it was trained, or init_from="),
    ):
        with pytest.raises(ValueError, match=message):
            resume_point(told(tmp_path / "tuned", *overrides))
    with pytest.raises(
        ValueError, match="lora = Lora; .* holds a model without them; lora=null, as it was trained, or"
    ):
        resume_point(told(base, "lora=linear"))
    same = "lora.targets=[down_proj,gate_proj,k_proj,o_proj,q_proj,up_proj,v_proj]"
    # It is over, and the same.
    assert resume_point(told(tmp_path / "tuned", "lora=linear", same, "lr.peak_ratio=1.0")) is not None
    config = told(tmp_path / "tuned", "lora=linear", same, "lora.alpha=64", "lora.dropout=0.0", "scale.sft_steps=4")
    checkpoint = resume_point(config)
    assert checkpoint is not None
    say_changes(config, checkpoint)
    said = capsys.readouterr().out
    assert "lora.alpha 32.0 -> 64" in said and "lora.dropout 0.05 -> 0.0" in said


@needs_peft
def test_the_base_must_be_the_one_of_training(base, tmp_path):
    folder = tmp_path / "base"
    train(compose_and_check([*SMALL, "scale.n_steps=4", "seed=1", f"run_dir={folder}", "model.has_qk_norm=false"]))
    tune(folder, tmp_path / "tuned")
    checkpoint = find_checkpoint(folder)
    checkpoint.write_bytes(find_checkpoint(base).read_bytes())
    with pytest.raises(
        ValueError, match="adapters of another model than the one at .*base; the base they were trained on"
    ):
        load_predictor(tmp_path / "tuned")
    checkpoint.unlink()
    with pytest.raises(FileNotFoundError, match="adapters only, and their base cannot be had .*put it back"):
        load_predictor(tmp_path / "tuned")


@needs_peft
@torch.no_grad()
def test_a_published_base_is_tuned_exported_merged_and_tuned_again(answering, tmp_path):
    published = tmp_path / "published"
    assert main(["export", f"checkpoint={answering}", "layout=llada", f"out={published}"]) == 0
    with torch.enable_grad():
        tune(published, tmp_path / "tuned")
    assert main(["export", f"checkpoint={tmp_path}/tuned", "layout=llada", f"out={tmp_path}/merged"]) == 0
    tuned, merged = load_predictor(tmp_path / "tuned"), load_predictor(tmp_path / "merged")
    torch.testing.assert_close(merged(X), tuned(X), atol=1e-5, rtol=0)
    assert (tuned(X) - load_predictor(published)(X)).abs().max() > 1e-3
    with torch.enable_grad():
        tune(tmp_path / "tuned", tmp_path / "again", "trainer.max_steps=3", "lr.peak_ratio=1e-9")
    torch.testing.assert_close(load_predictor(tmp_path / "again")(X), tuned(X), atol=1e-4, rtol=0)


@needs_peft
def test_what_adapters_need_is_checked():
    with pytest.raises(ValueError, match="init_from = null; adapters .lora. need a trained model to adapt"):
        compose_and_check([*SMALL, "lora=linear"])
    with pytest.raises(ValueError, match=r"lora.targets = \['q'\]; matrices of a layer"):
        compose_and_check([*SMALL, "lora=linear", "lora.targets=[q]", "init_from=somewhere"])
    with pytest.raises(ValueError, match="trainer.ema_decay = 0.9; not with adapters"):
        compose_and_check([*SMALL, "lora=linear", "trainer.ema_decay=0.9", "init_from=somewhere"])
