"""The trained models a study works with: found in the folder of runs, or made."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock
from omegaconf import DictConfig

from illada_lab.config import compose_and_check as composed
from illada_lab.data.worlds import World, world_of
from illada_lab.training.checkpoint import BEFORE_DECAY, LoadedRun, find_resumable, load_run, read_about
from illada_lab.training.recipe import differences, recipe, recipe_of
from illada_lab.training.run import train


@dataclass
class Trained:
    """A trained model and its curves.

    Attributes:
        model: weights, tokenizer, configuration.
        history: losses and validations (see `training.callbacks.History`).
    """

    model: LoadedRun
    history: dict[str, Any]


@dataclass
class Lab:
    """Models of one scale and one seed.

    The models of the main job are those of `illada-lab reproduce` with the same scale and seed, wherever it has left them; variants
    of a study stand beside them. What is missing is trained, what was broken off goes on.

    Args:
        scale: name of a scale.
        seed: of weights, masks, data order and questions.
        runs_dir: folder of runs.

    Attributes:
        shared_seconds: spent on the main job's models so far, which studies share: the first that wants them makes them.
    """

    scale: str = "toy"
    seed: int = 0
    runs_dir: Path | str = "runs"
    shared_seconds: float = field(default=0.0, init=False)

    @property
    def folder(self) -> Path:
        """Where the main job of this scale and seed stands."""
        return Path(self.runs_dir) / f"reproduce-{self.scale}-seed{self.seed}"

    def config(self, *overrides: str) -> DictConfig:
        """The configuration of this scale and seed, with overrides."""
        return composed([f"scale={self.scale}", f"seed={self.seed}", *overrides])

    @cached_property
    def world(self) -> World:
        """The world the models know."""
        return world_of(self.config().data.source)

    @cached_property
    def pretrained(self) -> Trained:
        """The main job's model after pre-training."""
        with self._shared():
            return self._trained(self.folder / "pretrain", self.config(f"name=pretrain-{self.scale}"))

    @cached_property
    def tuned(self) -> Trained:
        """The main job's model after fine-tuning."""
        start = self.pretrained
        with self._shared():
            return self.train_from(start, self.folder / "sft", "experiment=sft")

    @contextmanager
    def _shared(self) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.shared_seconds += time.perf_counter() - begin

    def train(self, name: str, *overrides: str) -> Trained:
        """A variant trained from nothing, in a folder of this name.

        Raises:
            ValueError: the folder holds a run with other settings.
        """
        return self._trained(self.variant_dir(name), self.config(f"name={name}", *overrides))

    def branch(self, start: Trained, name: str, *overrides: str) -> Trained:
        """A variant that differs from another run by its decay alone: it goes on from where that run's constant phase ended.

        The same as `train` with these overrides, to the bit, in the steps of the last phase.

        Raises:
            ValueError: something else is different, or the decay would have begun before.
        """
        config = self.config(f"name={name}", *overrides)
        for key, _, now in differences(recipe(start.model.config), recipe(config)):
            if not key.startswith("lr.") and key not in ("trainer.max_steps", "trainer.validate_every"):
                raise ValueError(
                    f"{key} = {now}; a branch differs in lr.* and trainer.max_steps alone; train for the rest"
                )
        share, fork = config.lr.get("decay_start", 0.0), fork_of(start)
        if fork is not None and share != "plateau":
            begin, end = round(share * config.lr.n_steps), read_about(fork)["global_step"]
            if begin < end:
                raise ValueError(
                    f"lr.decay_start = {share}; step {begin}, where the constant phase of {fork} ends at {end}; later"
                )
        return self._trained(self.variant_dir(name), config, trunk=start)

    def train_from(self, start: Trained, name: str | Path, *overrides: str) -> Trained:
        """A variant trained from another model's weights; see `train`."""
        folder = name if isinstance(name, Path) else self.variant_dir(name)
        return self._trained(folder, self.config(f"name={folder.name}", *overrides), start)

    def variant_dir(self, name: str) -> Path:
        """Folder of a variant."""
        return Path(self.runs_dir) / f"replicate-{self.scale}-seed{self.seed}" / name

    def _trained(
        self, run_dir: Path, config: DictConfig, start: Trained | None = None, trunk: Trained | None = None
    ) -> Trained:
        """Load a finished run, or finish it."""
        with locked(run_dir):
            return self._finished(run_dir, config, start, trunk)

    @staticmethod
    def _finished(run_dir: Path, config: DictConfig, start: Trained | None, trunk: Trained | None = None) -> Trained:
        config.run_dir, config.resume = str(run_dir), "auto"
        config.init_from = None if start is None else str(start.model.path)
        done = begun(config, elsewhere="runs_dir")
        # Without a fork the whole way, to the same end.
        if done is None and trunk is not None and (fork := fork_of(trunk)) is not None:
            config.resume = str(fork)
        if done is None or done.step < config.trainer.max_steps:
            train(config)
            done = load_run(run_dir)
        return Trained(done, json.loads((run_dir / "history.json").read_text()))


def locked(run_dir: Path) -> FileLock:
    """Two studies of a seed, or the main job beside one, may want the same model at the same time: the second waits and finds it."""
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(run_dir.with_name(f"{run_dir.name}.lock"))


def fork_of(run: Trained) -> Path | None:
    """The checkpoint at which the constant phase of a run ended; None where it has kept none (a run of an earlier version)."""
    path = run.model.path.with_name(BEFORE_DECAY)
    return path if path.exists() else None


def begun(config: DictConfig, *, elsewhere: str = "run_dir") -> LoadedRun | None:
    """The run of this configuration as far as its folder holds it; None: it has not begun.

    Args:
        config: composed; `run_dir` is the folder.
        elsewhere: the setting that a message names for another folder.

    Raises:
        ValueError: the folder holds a run that learnt from something else.
    """
    checkpoint = find_resumable(config.run_dir)
    if checkpoint is None:
        return None
    found = load_run(checkpoint)
    for key, _, _ in differences(recipe(found.config), recipe(config)):
        raise ValueError(
            f"run_dir = {config.run_dir}; holds a run with another {key}; another {elsewhere}=..., or delete that folder"
        )
    # A model that was tuned from another one: of one with another recipe, which has since been replaced.
    start, now = read_about(checkpoint)["illada_lab"].get("start"), recipe_of(config.init_from)
    for key, _, _ in differences(start or {}, now or {}):
        raise ValueError(
            f"run_dir = {config.run_dir}; holds a run from a model with another {key}; another {elsewhere}=..., or delete that folder"
        )
    return found
