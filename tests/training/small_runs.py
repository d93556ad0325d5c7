"""Runs at smoke scale, and what is left of them."""

from pathlib import Path

import torch

from illada_lab.config import build, check, compose
from illada_lab.training.checkpoint import read_checkpoint
from illada_lab.training.run import train
from illada_lab.training.settings import resolve

SMALL = ["scale=smoke", "trainer.precision=32-true", "trainer.accelerator=cpu"]


def run(folder: Path, *overrides: str):
    config = compose([*SMALL, f"run_dir={folder}", *overrides])
    check(config)
    return train(config)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(folder)["state_dict"]


def parts(folder: Path, *overrides: str):
    """Everything of a run, before it starts."""
    config = compose([*SMALL, f"run_dir={folder}", *overrides])
    data, settings = build(config.data), build(config.trainer)
    data.prepare()
    here = resolve(settings, batch_size=data.batch_size, micro_batch_size=data.micro_batch_size)
    return config, data, settings, here
