"""A run put together from its configuration."""

from dataclasses import replace
from typing import Any

import pytest
from lightning.pytorch.loggers import WandbLogger

from illada_lab.config import compose, to_plain
from illada_lab.objectives import Pretrain
from illada_lab.training.assemble import build_loggers, build_module, facts, tell_config
from illada_lab.training.metrics_file import MetricsFile
from tests.training.small_runs import parts, run


def test_an_eos_that_is_bos_as_well_is_validated(tmp_path):
    config, data, settings, here = parts(tmp_path)
    plain = build_module(config, data, settings, here, None).validation
    tokens = data.tokenizer.tokens
    data.tokenizer.tokens = replace(tokens, bos=tokens.eos)
    both = build_module(config, data, settings, here, None).validation
    assert plain is not None and both is not None
    # The documents still begin with the old BOS, which is now a token like any other.
    assert [len(positions) + 1 for positions in plain.maskable] == [len(positions) for positions in both.maskable]


def test_dropout_of_adapters_is_told_to_layers_that_are_computed_again(tmp_path):
    for dropout, expected in (("0.05", True), ("0.0", False)):
        overrides = ["lora=linear", f"lora.dropout={dropout}", "trainer.activation_checkpointing=1"]
        config, data, settings, here = parts(tmp_path, *overrides)
        assert build_module(config, data, settings, here, None)._placement.has_dropout is expected  # type: ignore[union-attr]


class Silent:
    """An objective of one's own that does not say what its loss is."""

    needs_causal = is_response_only = False

    def __call__(self, predictor, batch, random):
        raise NotImplementedError


def test_what_a_run_is_going_to_do(tmp_path):
    config, data, settings, here = parts(tmp_path, "scale.n_steps=40", "lr.peak_ratio=0.5")
    module = build_module(config, data, settings, here, None)
    found = facts(config, data, settings, module)
    assert module.validation is not None and found["held_out"] == module.validation.fingerprint()
    assert found["loss"] == Pretrain().meaning
    assert data.n_rows is not None and found["n_rows"] == data.n_rows
    assert found["epochs"] == pytest.approx(40 * 8 / data.n_rows)
    assert (found["n_steps"], found["batch_size"], found["length"], found["peak_ratio"]) == (40, 8, 48, 0.5)
    data.train_rows = None  # as of a stream
    module.objective = Silent()
    found = facts(config, data, settings, module)
    assert found["epochs"] is None and found["loss"] is None


class FakeWandbLogger(WandbLogger):
    """Begins no run; what it is told is kept."""

    def __init__(self, *, id: str | None = None, **told: Any) -> None:
        self._id, self._experiment, self.told = id or "new", None, []

    def log_hyperparams(self, params: Any) -> None:
        self.told.append(params)


def test_loggers_are_told_the_configuration_and_a_run_goes_on_in_its_own(tmp_path):
    target = f"logger.wandb._target_={FakeWandbLogger.__module__}.FakeWandbLogger"
    config = compose(["scale=smoke", "logger=wandb", target, f"run_dir={tmp_path / 'a'}"])
    csv_file, first = build_loggers(config)
    assert isinstance(first, FakeWandbLogger) and first.version == "new"
    first._id = "abc"
    tell_config([csv_file, first], config)
    assert first.told == [to_plain(config)]
    # metrics.csv has manifest.json beside it.
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["wandb_id.txt"]
    saved = tmp_path / "a" / "checkpoints" / "last.ckpt"
    assert [logger.version for logger in build_loggers(config, saved)[1:]] == ["abc"]
    # A new run, one that goes on with another's checkpoint, and one that was told an id.
    other = tmp_path / "b" / "checkpoints" / "last.ckpt"
    assert build_loggers(config)[1].version == build_loggers(config, other)[1].version == "new"
    mine = compose(["scale=smoke", "logger=wandb", target, f"run_dir={tmp_path / 'a'}", "+logger.wandb.id=mine"])
    assert build_loggers(mine, saved)[1].version == "mine"


def test_a_run_tells_its_loggers_its_configuration_once(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(MetricsFile, "log_hyperparams", lambda self, params: told.append(params))
    done = run(tmp_path / "a", "scale.n_steps=2", "scale.n_warmup_steps=1")
    assert told == [done.config]
