"""The guard stops a run whose loss is no number, or has jumped."""

import json
from unittest.mock import Mock

import lightning.pytorch as pl
import pytest
import torch

from illada_lab.training.callbacks.guard import LossGuard, TrainingStopped
from illada_lab.training.module import DiffusionModule
from tests.training.small_runs import run, weights


def test_the_guard_stops_a_run_that_is_no_number(tmp_path, monkeypatch):
    from illada_lab.objectives import Pretrain

    plain = Pretrain.__call__

    def poisoned(self, predictor, batch, random):
        loss = plain(self, predictor, batch, random)
        if int(batch.index[0]) >= 40:  # step 6: the stream's samples 40 to 47
            loss.value = loss.value * float("nan")
        return loss

    monkeypatch.setattr(Pretrain, "__call__", poisoned)
    with pytest.raises(TrainingStopped, match=r"step = 6; the gradient of .* is not finite.*lower lr.peak_ratio"):
        run(tmp_path / "a", "trainer.save_every=2")
    record = json.loads((tmp_path / "a" / "stopped.json").read_text())
    assert record["samples"] == list(range(40, 48)) and record["step"] == 6
    assert all(torch.isfinite(w).all() for w in weights(tmp_path / "a").values())


def test_the_guard_tells_spikes_from_a_jump(tmp_path):
    trainer, module = Mock(spec=pl.Trainer), Mock(spec=DiffusionModule)
    guard = LossGuard(path=tmp_path / "stopped.json", window=10, factor=3.0, n_spikes=3)
    guard._index = [1, 2]
    for loss in [1.0] * 10 + [9.0, 9.0, 1.0, 9.0, 9.0]:
        guard.after_step(trainer, module, {"loss": loss}, 1)
    with pytest.raises(TrainingStopped, match="9.0 times its median"):
        guard.after_step(trainer, module, {"loss": 9.0}, 16)
