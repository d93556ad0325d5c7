"""Whole runs at smoke scale: they learn, leave everything behind, and what cannot be trained is refused."""

import json
import re
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

from illada_lab.diffusion import RowRandom
from illada_lab.objectives import Pretrain
from illada_lab.training.checkpoint import load_run, read_checkpoint
from illada_lab.training.distributed.gradients import total_norm
from illada_lab.training.lr import ConstantCosine
from illada_lab.training.module import DiffusionModule
from illada_lab.training.optim import adamw
from tests.small import random_batch, small_predictor
from tests.training.small_runs import run, weights


def test_smoke_run_learns_and_leaves_everything_behind(tmp_path):
    done = run(tmp_path / "a", "scale.n_steps=120")
    losses = [r["loss"] for r in done.history["train"]]
    assert losses[0] > 4.0 and losses[-1] < 0.75 * losses[0]
    kinds = done.history["validation"][-1]["kinds"]
    assert {"story", "fact", "sum", "all"} == set(kinds)
    assert kinds["story"]["nelbo_per_token"] > kinds["story"]["entropy_per_token"] > 0
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert (
        manifest["config"]["seed"] == 0
        and manifest["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    )
    loaded = load_run(tmp_path / "a")
    assert loaded.step == 120 and loaded.tokenizer.encode("ada lives in rome .")
    samples = [json.loads(line) for line in (tmp_path / "a" / "samples.jsonl").read_text().splitlines()]
    assert [sample["step"] for sample in samples] == list(range(10, 121, 10)) and all(s["text"] for s in samples)
    metrics = (tmp_path / "a" / "metrics.csv").read_text()
    assert "train/loss" in metrics and "validation/story/nelbo_per_token" in metrics


def test_a_row_without_response_is_told_before_the_first_step(tmp_path):
    file = tmp_path / "chat.jsonl"
    talks = [[{"role": "user", "content": "how are you ?" * (20 if i == 7 else 1)}, {"role": "assistant", "content": "well ."}]
             for i in range(40)]  # fmt: skip
    file.write_text("\n".join(json.dumps({"messages": talk}) for talk in talks))
    words = ["objective=sft_response_only", "data=jsonl", f"data.path={file}", "data.source.messages_field=messages"]
    with pytest.raises(ValueError, match="how are you .*a row without a response"):
        run(tmp_path / "a", *words, "tokenizer=byte")
    assert not (tmp_path / "a" / "checkpoints").exists()


def test_accumulated_micro_batches_draw_the_same_masks(tmp_path):
    """The same samples and masks; sums in another order, so losses and gradients (before Adam divides them by their size) are equal up to
    rounding, though the micro-batches differ in their numbers of tokens."""
    settings = ["scale.n_steps=3", "optim=adamw", "trainer.log_every=1"]
    one = run(tmp_path / "one", *settings).history["train"]
    four = run(tmp_path / "four", *settings, "data.micro_batch_size=2").history["train"]
    for key in ("loss", "gradient_norm"):
        assert [record[key] for record in four] == pytest.approx([record[key] for record in one], rel=1e-5)


def test_fine_tuning_starts_from_the_weights_and_tokenizer_of_pretraining(tmp_path):
    run(tmp_path / "base")
    tuned = run(tmp_path / "tuned", "experiment=sft", f"init_from={tmp_path / 'base'}", "scale.sft_steps=3")
    assert tuned.history["train"][-1]["step"] == 3
    assert load_run(tmp_path / "tuned").tokenizer.to_dict() == load_run(tmp_path / "base").tokenizer.to_dict()
    with pytest.raises(ValueError, match="model.d_model = 64; .*; model.d_model=32"):
        run(tmp_path / "other", "experiment=sft", f"init_from={tmp_path / 'base'}", "model.d_model=64")


@pytest.mark.parametrize("experiment", ["sft_response_only", "autoregressive"])
def test_other_objectives_train(tmp_path, experiment):
    overrides = []
    if experiment.startswith("sft"):
        run(tmp_path / "base", "scale.n_steps=3")
        overrides = [f"init_from={tmp_path / 'base'}"]
    done = run(
        tmp_path / "run", f"experiment={experiment}", "trainer.max_steps=30", "scale.n_warmup_steps=2", *overrides
    )
    losses = [r["loss"] for r in done.history["train"]]
    assert losses[-1] < losses[0]


def test_the_average_of_the_weights_is_saved(tmp_path):
    """Against one by hand, of the weights after each step; the first step's are where it begins."""
    name, averaged = "predictor.layers.0.mlp.down_proj.weight", []
    for n in (1, 2, 3):
        settings = ["trainer.ema_decay=0.5", f"trainer.max_steps={n}", "lr.n_steps=20", "resume=auto"]
        run(tmp_path / "a", *settings)
        averaged.append(weights(tmp_path / "a")[name])
        raw = read_checkpoint(tmp_path / "a")["current_model_state"][name]
        expected = raw if n == 1 else 0.5 * averaged[-2] + 0.5 * raw
        torch.testing.assert_close(averaged[-1], expected)
    assert not torch.equal(averaged[-1], raw)


def test_a_run_of_wandb_ends_with_its_training(monkeypatch):
    """Otherwise the next training of this process would write into it; somebody else's goes on."""
    from lightning.pytorch.loggers import WandbLogger

    from illada_lab.training.run import _end_wandb

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=object()))
    logger = Mock(spec=WandbLogger)
    _end_wandb([logger, Mock()], was_active=True)
    logger.experiment.finish.assert_not_called()
    _end_wandb([logger, Mock()], was_active=False)
    logger.experiment.finish.assert_called_once()


def test_text_trains_and_reports_bits_per_byte(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"line {i} says that {i} is a number" for i in range(400)))
    done = run(tmp_path / "run", "data=text", f"data.path={text}", "tokenizer=byte", "scale.n_steps=20")
    row = done.history["validation"][-1]["kinds"]["text"]
    assert row["bits_per_byte"] == pytest.approx(row["bits_per_token"], rel=0.02)  # a byte is a token here
    assert 3 < row["bits_per_byte"] < 8.5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.length=300"], "data.length = 300.*at most 256"),
        (["data.micro_batch_size=3"], "data.batch_size = 8.*multiple.*nearest: 9"),
        (["model.vocab_size=50"], "model.vocab_size = 50"),
        (["experiment=sft", "init_from=nowhere"], "init_from = nowhere"),
        (["data=text", "data.path=nowhere.txt"], "data.path = nowhere.txt; no such file"),
        (["objective=autoregressive"], "model.is_causal = false"),
        (["resume=nowhere"], "resume = nowhere"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(tmp_path, overrides, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        run(tmp_path / "a", *overrides)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a").exists()


def test_a_start_from_weights_of_another_size_leaves_nothing_behind(tmp_path):
    run(tmp_path / "start", "trainer.max_steps=3")
    with pytest.raises(ValueError, match=f"model.d_model = 16; {tmp_path}/start was trained with 32"):
        run(tmp_path / "a", "model.d_model=16", f"init_from={tmp_path}/start")
    assert not [path for path in (tmp_path / "a").rglob("*") if path.is_file()]


def test_the_snippet_of_the_readme_runs(tmp_path, capsys):
    page = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    run(tmp_path / "a")
    capsys.readouterr()
    exec(snippet.replace("runs/pretrain-toy", str(tmp_path / "a")), {})
    assert len(capsys.readouterr().out.splitlines()) == 1  # it may be empty: 20 steps know little


def test_gradients_are_clipped(tmp_path, monkeypatch):
    norms, step = [], torch.optim.AdamW.step

    def watched(self, *arguments, **options):
        out = step(self, *arguments, **options)
        norms.append(float(total_norm(p for group in self.param_groups for p in group["params"])))
        return out

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    run(tmp_path / "a", "optim=adamw", "trainer.max_norm=0.01", "scale.n_steps=3")
    assert norms == pytest.approx([0.01] * 3, rel=1e-2)


def test_masks_are_those_of_the_seed():
    seen, batch = [], random_batch()

    class Watched(Pretrain):
        def __call__(self, predictor, batch, random):
            seen.append(random.uniform(4))
            return super().__call__(predictor, batch, random)

    for seed in (5, 6):
        optim, lr = partial(adamw, lr=0.1), partial(ConstantCosine, n_steps=2)
        module = DiffusionModule(predictor=small_predictor(), objective=Watched(), optim=optim, lr=lr, seed=seed)
        module.training_step(batch, 0)
        assert torch.equal(seen[-1], RowRandom(seed, batch.index).uniform(4))
    assert not torch.equal(*seen)


def test_a_plateau_of_a_run_begins_its_decay(tmp_path):
    settings = ["lr.decay_start=plateau", "lr.patience=1", "lr.min_progress=0.9", "trainer.validate_every=3"]
    done = run(tmp_path / "a", *settings, "trainer.log_every=1", "scale.n_steps=20")
    rates = [record["lr"] for record in done.history["train"]]
    assert rates[-1] < 0.5 * rates[4]


def test_golden_losses(tmp_path):
    """The first losses of a run on a text of our own, as measured when this test was written: a change of any part of training shows here,
    a change of the world or of a recipe does not."""
    text = tmp_path / "text.txt"
    text.write_text(golden_text())
    golden = json.loads((Path(__file__).parent / "golden_losses.json").read_text())
    done = run(tmp_path / "a", f"data.path={text}", *golden["overrides"])
    assert [r["loss"] for r in done.history["train"]] == pytest.approx(golden["losses"], rel=2e-3)


def golden_text() -> str:
    return "\n\n".join(f"the square of {i} is {i * i}, of {i + 1} it is {(i + 1) ** 2}" for i in range(300))
