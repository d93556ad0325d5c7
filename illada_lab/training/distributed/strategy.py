"""Lightning's strategies as this package uses them: one device, the whole model on each, or spread over all."""

import os
import threading
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import nn
from torch.optim import Optimizer

from illada_lab.processes import any_of
from illada_lab.training.checkpoint import ABSENT, partial_of, put_in_place, read_checkpoint, save_failed, shards
from illada_lab.training.distributed import named_state
from illada_lab.training.distributed.materialise import part_like
from illada_lab.training.settings import TrainerSettings


def make_strategy(settings: TrainerSettings) -> Strategy | str:
    """What Lightning's Trainer takes for our settings."""
    timeout = timedelta(minutes=settings.timeout_minutes)
    if settings.is_sharded:
        return ShardedStrategy(settings, timeout)
    if settings.world_size > 1 or settings.strategy == "ddp":
        # Layers are compiled one by one, each smaller than what it is for; cut at every 25 MB of gradients they would only lose fusion.
        torch._dynamo.config.optimize_ddp = False
        return DDPStrategy(timeout=timeout, gradient_as_bucket_view=True)
    return "auto"


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's ModelParallelStrategy with checkpoints under the parameters' names, written aside and renamed.

    Its checkpoints are folders (`shards`) that any strategy and number of processes reads; it reads those of one file too.

    Args:
        settings: how many devices share a layer; whether saving goes on in the background.
        timeout: after which a silent process ends the run.
    """

    def __init__(self, settings: TrainerSettings, timeout: timedelta) -> None:
        super().__init__(
            data_parallel_size=settings.n_replicas, tensor_parallel_size=settings.tensor_parallel, timeout=timeout
        )
        self.is_async_save = settings.is_async_save
        self._saving: Any = None
        self._naming = threading.Lock()
        self._savers: Any = None  # a process group

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Tensors by the parameters' names, and groups."""
        plain = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        return {"tensors": named_state.tensors(plain, self._names), "groups": named_state.groups(plain, self._names)}

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Parameters as they are: sharded ones sharded."""
        assert self.lightning_module is not None
        return dict(self.lightning_module.state_dict())

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write every process's part aside; the folder gets its name when all of it is on the disk.

        Raises:
            SaveFailed: in every process, if one could not write; what stood at `filepath` is untouched.
        """
        self.finish_saving()
        path = Path(filepath)
        aside = partial_of(path)
        tensors, about = shards.take_apart(checkpoint)
        self._together(lambda: _write_about(about, aside), path)
        if self._savers is None and dist.is_initialized():
            # Of their own, on the CPU: in the background they must not mix with those of the training step.
            self._savers = dist.new_group(backend="gloo", timeout=self._timeout)
        try:
            self._saving = shards.write(aside, tensors, self._savers, self.is_async_save)
        except BaseException as error:  # torch's CheckpointException is no Exception; every process gets it
            raise self._failed(error, path) from error
        if self._saving is None:
            self._together(lambda: self._name_it(aside, path), path)
        elif self.is_global_zero:
            # torch reports to this process when the last of all has written.
            self._saving.add_done_callback(lambda done: done.exception() or self._name_it(aside, path))
        self._path = path

    def _name_it(self, aside: Path, path: Path) -> None:
        with self._naming:
            if aside.exists():
                put_in_place(aside, path)

    def saving_error(self) -> BaseException | None:
        """What went wrong with a checkpoint in the background; None while it is written, or where all is well."""
        return self._saving.exception() if self._saving is not None and self._saving.done() else None

    def finish_saving(self) -> None:
        """Wait until the last checkpoint is on the disk.

        Raises:
            SaveFailed: it is not.
        """
        if self._saving is None:
            return
        error, self._saving = self._saving.exception(), None
        if any(any_of([error is not None], self.root_device)):
            raise self._failed(error, self._path)
        # A waiting process may wake before the callback has run.
        self._together(lambda: self._name_it(partial_of(self._path), self._path), self._path)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Put weights and the optimiser's state into their places; returns the rest."""
        assert self.lightning_module is not None
        weights, (optimizer,) = dict(self.lightning_module.named_parameters()), self.optimizers
        if shards.is_shards(checkpoint_path):
            shards.read_into(checkpoint_path, weights, optimizer, self._names)
            return shards.read_about(checkpoint_path)
        payload = read_checkpoint(checkpoint_path, is_mapped=True)
        state, (old,) = payload.pop("state_dict"), payload.pop("optimizer_states")
        state = payload.pop("current_model_state", state)  # an average is not gone on with
        with torch.no_grad():
            for name, place in weights.items():
                place.copy_(part_like(state[name], place))
        old = named_state.named(old, optimizer, self._names)
        named_state.restore(optimizer, self._names, old["tensors"], old["groups"])
        return payload

    @property
    def _names(self) -> Mapping[nn.Parameter, str]:
        assert self.lightning_module is not None
        return {p: name for name, p in self.lightning_module.named_parameters()}

    def _together(self, work: Any, path: Path) -> None:
        """Let the first process do something; if it fails, all fail."""
        error: Exception | None = None
        if self.is_global_zero:
            try:
                work()
            except (OSError, RuntimeError) as caught:  # torch's writer makes one of a full disk
                error = caught.__context__ if isinstance(caught.__context__, OSError) else caught
        if any(any_of([error is not None], self.root_device)):
            raise self._failed(error, path)

    def _failed(self, error: BaseException | None, path: Path) -> OSError:
        if self.is_global_zero:
            shards.clear(partial_of(path))
        return save_failed(path, error or ABSENT)


def _write_about(about: dict[str, Any], aside: Path) -> None:
    shards.clear(aside)
    aside.mkdir(parents=True)
    with open(aside / shards.ABOUT, "wb") as file:
        torch.save(about, file)
        file.flush()
        os.fsync(file.fileno())
