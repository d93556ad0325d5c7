"""What is recorded of a step is what was true of it."""

from types import SimpleNamespace
from unittest.mock import Mock

import lightning.pytorch as pl
import pytest
import torch

from illada_lab.training.callbacks import history as measuring
from illada_lab.training.module import DiffusionModule
from tests.training.small_runs import run


def test_the_rate_of_a_step_is_the_one_it_was_made_with(tmp_path):
    done = run(tmp_path / "a", "scale.n_steps=6", "trainer.log_every=1", "lr.n_warmup_steps=2", "lr.decay_start=1.0")
    assert [record["lr"] for record in done.history["train"]] == [0.005, 0.01, 0.01, 0.01, 0.01, 0.01]


@pytest.mark.parametrize(("is_frozen", "mfu"), [(False, 3.0), (True, 2.0)])
def test_measuring_the_machine_is_no_training_time(monkeypatch, is_frozen, mfu):
    clock = [0.0]

    def measured(*_: object) -> float:
        clock[0] += 100
        return 1e9

    monkeypatch.setattr(measuring, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(measuring, "matmul_rate", measured)
    logged: list[dict[str, float]] = []
    logger = SimpleNamespace(log_metrics=lambda metrics, step: logged.append(metrics))
    trainer = Mock(spec=pl.Trainer, max_steps=9, precision="32-true", world_size=1, loggers=[logger])
    predictor = SimpleNamespace(
        spec=SimpleNamespace(flops_per_token=lambda length, is_frozen: 4e8 if is_frozen else 6e8)
    )
    module = Mock(spec=DiffusionModule, seconds_aside=0.0, last_rate=0.0, last_gradient_norm=0.0)
    module.predictor, module.device = predictor, torch.device("cpu")
    history, throughput = measuring.History(), measuring.Throughput(every=3, length=8, is_frozen=is_frozen)
    for step in range(1, 10):
        clock[0] += 1
        for callback in (history, throughput):
            callback.after_step(trainer, module, {"loss": 1.0, "n_tokens": 5}, step)
    assert history.n_tokens == 40 and history.n_tokens_seen == 45  # the first step is not timed
    assert history.seconds == 8 and [row["tokens_per_second"] for row in logged] == [5.0, 5.0, 5.0]
    assert [row["mfu"] for row in logged] == pytest.approx([mfu] * 3)


def test_tokens_are_those_the_model_saw_whatever_it_learnt_from(tmp_path):
    """Prompts cost as much as answers: a rate that left them out would be that of another machine."""
    counts = {}
    for objective in ("sft", "sft_response_only"):
        done = run(tmp_path / objective, "data=world_sft", f"objective={objective}", "trainer.max_steps=4")
        counts[objective] = done.history["tokens_seen"]
    assert counts["sft"] == counts["sft_response_only"] > 0
