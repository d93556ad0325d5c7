"""Compiled layers under the trainers that shard them give the losses of eager ones in one process."""

from pathlib import Path

import pytest

from illada_lab.training.machine import can_compile
from tests.processes import losses, run, together

pytestmark = [pytest.mark.compiled, pytest.mark.skipif(not can_compile("cpu"), reason="no C++ compiler")]
STEPS = ["trainer.max_steps=3", "lr.n_steps=20", "optim=adamw", "model.n_kv_heads=2"]


def train_compiled(folder: Path) -> None:
    """As at 8B, where the layers are computed again in the backward pass."""
    for trainer in ("fsdp", "fsdp_tp"):
        run(folder / trainer, f"trainer={trainer}", "trainer.is_compiled=true", "data.micro_batch_size=4", *STEPS)


def test_sharded_layers_that_are_computed_again_can_be_compiled(tmp_path):
    run(tmp_path / "alone", *STEPS)
    together(2, train_compiled, tmp_path)
    alone = losses(tmp_path / "alone")
    for trainer in ("fsdp", "fsdp_tp"):
        assert losses(tmp_path / trainer) == pytest.approx(alone, abs=1e-4), trainer
