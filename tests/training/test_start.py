"""What a run takes over from the model it starts from, what it refuses, and what it says."""

import json

import pytest

from illada_lab.config import compose
from illada_lab.models import MaskPredictor
from illada_lab.training.checkpoint import load_run, read_about
from illada_lab.training.start import load_start, say_start
from tests.training.small_runs import SMALL, run

STEPS = "trainer.max_steps=3"


class Doubled(MaskPredictor):
    """Other logits from the same tensors."""

    def hidden(self, *inputs, **options):
        return 2 * super().hidden(*inputs, **options)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run whose model differs from the scale's in settings that no tensor shows."""
    folder = tmp_path_factory.mktemp("start") / "base"
    run(folder, "model.rope_theta=500000.0", "model.norm_eps=1e-3", STEPS)
    return folder


def test_weights_are_taken_by_the_network_they_were_trained_in(base, tmp_path):
    with pytest.raises(ValueError) as caught:
        run(tmp_path / "a", "experiment=sft", f"init_from={base}", STEPS)
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"model.rope_theta = 10000.0; {base} was trained with 500000.0")
    assert first.endswith("; model.rope_theta=500000.0") and second.endswith("; model.norm_eps=0.001")
    assert not [path for path in (tmp_path / "a").rglob("*") if path.is_file()]
    # Longer rows and other initial weights are no other network.
    right = ["model.rope_theta=500000.0", "model.norm_eps=1e-3", "model.max_length=300", "model.init_std=0.1"]
    run(tmp_path / "b", "experiment=sft", f"init_from={base}", STEPS, *right)


def test_a_twin_is_no_start_for_a_mask_predictor(tmp_path):
    run(tmp_path / "twin", "experiment=autoregressive", STEPS)
    with pytest.raises(
        ValueError, match="^model.is_causal = false; .* was trained with true, .*; model.is_causal=true$"
    ):
        run(tmp_path / "a", "experiment=sft", f"init_from={tmp_path}/twin", STEPS)


def test_a_model_of_ones_own_is_named_again(tmp_path, base):
    run(tmp_path / "own", f"model._target_={__name__}.Doubled", STEPS)
    predictor = load_run(tmp_path / "own").predictor
    load_start(predictor, tmp_path / "own")
    plain = MaskPredictor(tokens=predictor.tokens, **predictor.to_config())
    with pytest.raises(ValueError, match=f"model._target_ = MaskPredictor; .*; model._target_={__name__}.Doubled$"):
        load_start(plain, tmp_path / "own")
    # The other way round it is a deliberate change.
    load_start(Doubled(tokens=predictor.tokens, **load_run(base).predictor.to_config()), base)


def told(capsys, base, *overrides, has_conversations=False) -> list[str]:
    config = compose([*SMALL, f"init_from={base}", *overrides])
    say_start(config, load_run(base).tokenizer, has_conversations=has_conversations)
    return capsys.readouterr().err.splitlines()


def test_a_tokenizer_that_is_not_used_is_said_to_be(base, capsys):
    capsys.readouterr()
    (line,) = told(capsys, base, "tokenizer=byte")
    assert (
        line.startswith("tokenizer._target_ = illada_lab.data.build_tokenizer.byte; not used: ") and str(base) in line
    )
    text = ["data=text", "data.path=a.txt", "data.adds_bos=true", "data.adds_eos=true"]
    (line,) = told(capsys, base, *text, "tokenizer.vocab_size=300")
    assert "not used" in line
    # Nobody has asked for what the data come with.
    assert told(capsys, base) == told(capsys, base, *text) == []


def test_other_ends_of_texts_are_said(base, capsys):
    capsys.readouterr()
    (line,) = told(capsys, base, "data=jsonl", "data.path=a.jsonl")
    assert line.startswith(f"data.adds_bos = false; texts of {base} have BOS in front, ")
    assert line.endswith("; data.adds_bos=true keeps it")
    (line,) = told(capsys, base, "data=text", "data.path=a.txt")
    assert line.startswith("data.adds_bos = false, data.adds_eos = false; ") and "BOS in front and EOS behind" in line
    assert line.endswith("; data.adds_bos=true data.adds_eos=true keeps it")
    (line,) = told(capsys, base, "data=shards", "data.path=a")
    assert line.endswith("; data.adds_bos=true keeps it, in prepare too")
    assert told(capsys, base, "data=jsonl", "data.path=a.jsonl", "data.adds_bos=true") == []
    # Conversations bring what stands in front of them.
    assert told(capsys, base, "experiment=sft", has_conversations=True) == []


def test_a_run_says_at_its_start_what_it_changes_and_writes_down_whose_tokenizer_it_has(base, tmp_path, capsys):
    text = tmp_path / "a.txt"
    text.write_text("\n\n".join("ada lives in paris ." for _ in range(60)))
    words = ["data=text", f"data.path={text}", f"init_from={base}", "tokenizer=byte"]
    words += ["model.rope_theta=500000.0", "model.norm_eps=1e-3"]
    capsys.readouterr()
    run(tmp_path / "more", *words, STEPS)
    err = capsys.readouterr().err
    assert err.count("not used: the tokenizer of") == 1
    assert err.count("data.adds_bos=true data.adds_eos=true keeps it") == 1
    assert json.loads((tmp_path / "more" / "manifest.json").read_text())["tokenizer_of"] == str(base)
    assert read_about(tmp_path / "more")["illada_lab"]["has_conversations"] is False
    run(tmp_path / "more", *words, "trainer.max_steps=4", "resume=auto")
    assert "not used" not in capsys.readouterr().err
