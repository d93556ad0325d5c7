"""How a model that was built without weights comes to its devices and to its weights."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from illada_lab.models.mask_predictor import MaskPredictor
from illada_lab.training.distributed.materialise import materialise
from illada_lab.training.distributed.sharding import Recomputed, recompute, shard
from illada_lab.training.distributed.strategy import ShardedStrategy
from illada_lab.training.start import load_start

Start = Callable[[MaskPredictor, torch.device], None]


@dataclass(kw_only=True)
class Placement:
    """Spreads a predictor over the devices of a run, and lets it have its weights there: no process ever holds the whole of a sharded one.

    Args:
        start: gives weights to a predictor on the meta device (`from_seed`, `from_trained`, `to_be_loaded`).
        adapt: then changes it (adapters) and returns what checkpoints tell of that; None: nothing.
        recomputed: activations that are computed again in the backward pass.
        has_dropout: what `adapt` adds draws random numbers in training.
        is_bf16: sharded layers compute in bf16.
    """

    start: Start
    adapt: Callable[[MaskPredictor], dict[str, Any]] | None = None
    recomputed: Recomputed = None
    has_dropout: bool = False
    is_bf16: bool = False

    def __call__(self, predictor: MaskPredictor, trainer: pl.Trainer) -> dict[str, Any]:
        """Place a predictor that is on the meta device; returns what checkpoints tell of it."""
        strategy = trainer.strategy
        is_sharded = isinstance(strategy, ShardedStrategy)
        recompute(predictor, self.recomputed, has_dropout=self.has_dropout, is_sharded=is_sharded)
        if is_sharded:
            shard(predictor, strategy.device_mesh, is_bf16=self.is_bf16)
        self.start(predictor, strategy.root_device)
        return self.adapt(predictor) if self.adapt is not None else {}


def from_seed(seed: int) -> Start:
    """Initial weights, those of one process."""
    return partial(materialise, seed=seed)


def to_be_loaded(predictor: MaskPredictor, device: torch.device) -> None:
    """None yet: a checkpoint is going to be loaded."""
    predictor.to_empty(device=device)


def from_trained(path: str | Path) -> Start:
    """The weights of a trained model: a run, a checkpoint of any number of processes, a published model."""
    return partial(_fill, path=path)


def _fill(predictor: MaskPredictor, device: torch.device, path: str | Path) -> None:
    predictor.to_empty(device=device)
    load_start(predictor, path)
