"""One training run, from a checked configuration to a checkpoint."""

import json
import logging
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
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
from illada_lab.training.start import say_start, start_tokenizer

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
        ValueError, FileNotFoundError: data, checkpoint or sizes that cannot be used, or processes with different data; nothing has been
            trained then.
        TrainingStopped: a guard stopped the run, or another process of it is gone.
        SaveFailed: a checkpoint could not be written.
        Preempted: the run was told to stop, and has saved.
        KeyboardInterrupt: Ctrl-C; the first one saves, a second one stops at once.
    """
    from lightning.pytorch.callbacks import LambdaCallback
    from lightning.pytorch.utilities import rank_zero_only

    from illada_lab.training import assemble
    from illada_lab.training.callbacks import AtStart

    # What Lightning says at its start and end, the progress line and the manifest say better; two sums over two axes of devices are meant;
    # and compiled layers that are computed again have no operations in place.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("torch.distributed.tensor._redistribute", "torch._higher_order_ops.wrap"):
        logging.getLogger(name).setLevel(logging.ERROR)
    run_dir = Path(config.run_dir)
    checkpoint = resume_point(config)
    data, settings = build(config.data), build(config.trainer)
    # What this machine cannot do is said before the data are read, which may take hours.
    here = resolve(settings, batch_size=data.batch_size, micro_batch_size=data.micro_batch_size)
    _prepare(config, data, checkpoint)
    module = assemble.build_module(config, data, settings, here, checkpoint)
    about = {
        **manifest(seed=config.seed, scale=config.scale.name),
        "precision": here.precision,
        "is_compiled": here.is_compiled,
    }
    if (trained := checkpoint or config.init_from) is not None:
        about["tokenizer_of"] = str(trained)  # whatever `config.tokenizer` says
    trainer, history = assemble.build_trainer(config, data, settings, here, module, checkpoint)
    # When the weights are there: a start that is refused leaves nothing behind.
    told = json.dumps({**about, "config": to_plain(config)}, indent=1)
    trainer.callbacks.append(AtStart(partial(write_text, run_dir / "manifest.json", told)))  # type: ignore[attr-defined]
    # Before a checkpoint is read: it fits the data of all processes or of none.
    check = partial(_check_rows, data=data, checkpoint=checkpoint)
    trainer.callbacks.append(LambdaCallback(setup=lambda trainer, module, stage: check(trainer, module)))  # type: ignore[attr-defined]
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        if checkpoint is not None:
            say_changes(config, checkpoint)
        elif config.init_from is not None and data.tokenizer is not None:
            say_start(config, data.tokenizer, has_conversations=module.about["has_conversations"])
    has_wandb = _has_wandb_run()
    try:
        _fit(trainer, module, data, checkpoint, here, settings)
    finally:
        data.close()
        _end_wandb(trainer.loggers, was_active=has_wandb)
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
    from illada_lab.processes import is_lost_process
    from illada_lab.training.callbacks.guard import TrainingStopped
    from illada_lab.training.callbacks.saving import RollingCheckpoint

    if checkpoint is not None:
        data.start_batch = read_about(checkpoint)["global_step"] * here.accumulate
    handler = signal.getsignal(signal.SIGINT)
    try:
        with warnings.catch_warnings():
            # Hints for other uses of Lightning: our loader is endless by design, its workers are a setting, its folder may exist.
            warnings.filterwarnings(
                "ignore",
                message=".*(does not have many workers|exists and is not empty|LeafSpec|max_epochs|WeightAveraging).*",
            )
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as stop:
        # Lightning makes an exit of Ctrl-C, and leaves its signal ignored; a run that has saved first says so with the status of shells.
        if stop.code == 128 + signal.SIGINT or isinstance(stop.__context__, KeyboardInterrupt):
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, handler or signal.default_int_handler)
            raise KeyboardInterrupt from None
        raise
    except RuntimeError as error:
        if isinstance(error, TrainingStopped) or trainer.world_size == 1 or not is_lost_process(error):
            raise
        raise TrainingStopped(
            f"step = {trainer.global_step}; process {trainer.global_rank} of {trainer.world_size} waited for another that is gone or "
            f"was silent for trainer.timeout_minutes = {settings.timeout_minutes:g} ({str(error).splitlines()[0][:100]}); "
            "look for what the others said, then resume=auto"
        ) from error
    saving = next(callback for callback in trainer.callbacks if isinstance(callback, RollingCheckpoint))  # type: ignore[attr-defined]
    if saving.signal == signal.SIGINT:  # pressed while the last step was saved: what would come next is not to begin
        # One process speaks for all: a launcher that sees another fail would kill this one.
        raise KeyboardInterrupt if trainer.is_global_zero else SystemExit(0)


def _has_wandb_run() -> bool:
    """Whether somebody has begun a run of Weights & Biases in this process."""
    return getattr(sys.modules.get("wandb"), "run", None) is not None


def _end_wandb(loggers: Sequence[Any], *, was_active: bool) -> None:
    """End the run of Weights & Biases that this training has begun: Lightning leaves it open, and the next would write into it."""
    from lightning.pytorch.loggers import WandbLogger

    for logger in loggers:
        if isinstance(logger, WandbLogger) and not was_active and _has_wandb_run():
            logger.experiment.finish()


def _check_rows(trainer: "pl.Trainer", module: Any, data: "DataModule", checkpoint: Path | None) -> None:
    """Refuse rows that cannot be trained on: in every process, whichever has found them.

    Raises:
        ValueError: see `_check_same`; or a row without a response where nothing else is learnt.
    """
    from illada_lab.objectives import ResponseOnly
    from illada_lab.processes import gathered

    _check_same(
        {
            **data.state_dict()["data"],
            "validation documents": module.validation.fingerprint(),
            "step to go on from": None if checkpoint is None else read_about(checkpoint)["global_step"],
        }
    )
    if isinstance(module.objective, ResponseOnly):
        found = gathered(data.row_without_response((trainer.global_rank, trainer.world_size)))
        if (row := next((row for row in found if row is not None), None)) is not None:
            raise ValueError(
                f"data = {row!r}...; a row without a response to learn from; leave the conversation out, a longer data.length, or "
                "objective=sft"
            )


def _check_same(state: dict[str, Any]) -> None:
    """Refuse processes that would not do the same: each has read data and checkpoint for itself, perhaps from another disk.

    Args:
        state: what is to be the same in all of them.

    Raises:
        ValueError: in every process; names those that differ from the first, and in what.
    """
    from illada_lab.processes import gathered

    states: list[Any] = gathered(state)
    ranks = [rank for rank, state in enumerate(states) if state != states[0]]
    if ranks:
        told = [(states[0], states[rank]) for rank in ranks]
        keys = sorted({key for a, b in told for key in {*a, *b} if a.get(key) != b.get(key)})
        raise ValueError(
            f"data; process {', '.join(map(str, ranks))} would train otherwise than process 0 (another {', '.join(keys)}); "
            "the same files, settings, skipped shards and run_dir for every process"
        )


def _prepare(config: DictConfig, data: "DataModule", checkpoint: Path | None) -> None:
    """Read the data, with the tokenizer of the model the run starts from."""
    trained = checkpoint or config.init_from
    with told_as("init_from"):  # what a resumed run needs has been read already
        tokenizer = None if trained is None else start_tokenizer(trained)
    data.prepare(tokenizer, keeps_template=checkpoint is not None and _template_of(checkpoint) == data.chat_template)


def _template_of(checkpoint: Path) -> str | None:
    """The setting `data.chat_template` that a run began with."""
    return read_about(checkpoint)["illada_lab"]["config"]["data"].get("chat_template")
