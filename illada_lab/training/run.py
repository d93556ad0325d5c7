"""One training run, from a checked configuration to a checkpoint."""

import json
import logging
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from illada_lab.config import build, to_plain
from illada_lab.files import write_text
from illada_lab.manifest import manifest
from illada_lab.training.checkpoint import LAST, read_about, told_as
from illada_lab.training.resume import resume_point, say_changes
from illada_lab.training.settings import Resolved, TrainerSettings, resolve
from illada_lab.training.start import start_tokenizer

if TYPE_CHECKING:
    import lightning.pytorch as pl

    from illada_lab.data.datamodule import DataModule

__all__ = ["TrainedRun", "TrainerSettings", "train"]


@dataclass
class TrainedRun:
    """What a run leaves behind.

    Attributes:
        run_dir: its folder.
        history: losses, validations, speed (see `callbacks.History`).
        checkpoint: the last checkpoint.
        manifest: code, versions, machine.
        config: resolved configuration.
        n_parameters, n_non_embedding: size of the model.
    """

    run_dir: Path
    history: dict[str, Any]
    checkpoint: Path
    manifest: dict[str, Any]
    config: dict[str, Any]
    n_parameters: int
    n_non_embedding: int


def train(config: DictConfig) -> TrainedRun:
    """Run one stage of training: pre-training, fine-tuning, or the twin's. With several devices every process calls this.

    Args:
        config: composed and checked.

    Returns:
        What was measured, and where the checkpoint is.

    Raises:
        ValueError, FileNotFoundError: data, checkpoint or sizes that cannot be used; nothing has been trained then.
        TrainingStopped: a guard stopped the run, or another process of it is gone.
        SaveFailed: a checkpoint could not be written.
        Preempted: the run was told to stop, and has saved.
    """
    from lightning.pytorch.utilities import rank_zero_only

    from illada_lab.training import assemble
    from illada_lab.training.callbacks import AtStart

    # What Lightning says at its start and end, the progress line and the manifest say better; two sums over two axes of devices are meant;
    # and layers that are computed again have no operations in place.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("torch.distributed.tensor._redistribute", "torch._higher_order_ops.wrap"):
        logging.getLogger(name).setLevel(logging.ERROR)
    run_dir = Path(config.run_dir)
    checkpoint = resume_point(config)
    data = _prepare(config, checkpoint)
    settings: TrainerSettings = build(config.trainer)
    here = resolve(settings, batch_size=data.batch_size, micro_batch_size=data.micro_batch_size)
    module = assemble.build_module(config, data, settings, here, checkpoint)
    about = {
        **manifest(seed=config.seed, scale=config.scale.name),
        "precision": here.precision,
        "is_compiled": here.is_compiled,
    }
    trainer, history = assemble.build_trainer(config, data, settings, here, module, checkpoint)
    # When the weights are there: a start that is refused leaves nothing behind.
    told = json.dumps({**about, "config": to_plain(config)}, indent=1)
    trainer.callbacks.append(AtStart(partial(write_text, run_dir / "manifest.json", told)))  # type: ignore[attr-defined]
    if checkpoint is not None and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        say_changes(config, checkpoint)
    try:
        _fit(trainer, module, data, checkpoint, here, settings)
    finally:
        data.close()
    return TrainedRun(
        run_dir=run_dir,
        history=history.to_dict(),
        checkpoint=run_dir / "checkpoints" / LAST,
        manifest=about,
        config=to_plain(config),
        n_parameters=module.predictor.spec.n_parameters,
        n_non_embedding=module.predictor.spec.n_non_embedding_parameters,
    )


def _fit(
    trainer: "pl.Trainer",
    module: "pl.LightningModule",
    data: "DataModule",
    checkpoint: Path | None,
    here: Resolved,
    settings: TrainerSettings,
) -> None:
    """Lightning's fit from where the checkpoint stopped; another process that is gone is said in one line."""
    from illada_lab.training.callbacks.guard import TrainingStopped
    from illada_lab.training.distributed.together import is_lost_process

    if checkpoint is not None:
        data.start_batch = read_about(checkpoint)["global_step"] * here.accumulate
    try:
        with warnings.catch_warnings():
            # Hints for other uses of Lightning: our loader is endless by design, its workers are a setting, its folder may exist.
            warnings.filterwarnings(
                "ignore",
                message=".*(does not have many workers|exists and is not empty|LeafSpec|max_epochs|WeightAveraging).*",
            )
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except RuntimeError as error:
        if isinstance(error, TrainingStopped) or trainer.world_size == 1 or not is_lost_process(error):
            raise
        raise TrainingStopped(
            f"step = {trainer.global_step}; process {trainer.global_rank} of {trainer.world_size} waited for another that is gone or "
            f"was silent for trainer.timeout_minutes = {settings.timeout_minutes:g} ({str(error).splitlines()[0][:100]}); "
            "look for what the others said, then resume=auto"
        ) from error


def _prepare(config: DictConfig, checkpoint: Path | None) -> "DataModule":
    """Data, with the tokenizer of the model the run starts from."""
    data = build(config.data)
    trained = checkpoint or config.init_from
    with told_as("init_from"):  # what a resumed run needs has been read already
        data.prepare(None if trained is None else start_tokenizer(trained))
    return data
