"""One training run, from a checked configuration to a checkpoint."""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from omegaconf import DictConfig

from illada_lab.config import build, build_all, to_plain
from illada_lab.manifest import manifest
from illada_lab.models.kernels.choice import Attention
from illada_lab.training.allocator import keep_freed_memory
from illada_lab.training.checkpoint import LAST, find_checkpoint, find_resumable, read_checkpoint
from illada_lab.training.machine import best_precision, can_compile
from illada_lab.training.start import load_start, start_tokenizer

# Compiling costs 10 to 30 s on a CPU and saves up to half of a step: below this many steps it does not pay.
MIN_STEPS_TO_COMPILE = 300
# Length of the samples written during training: a few sentences.
SAMPLE_TOKENS = 48


@dataclass(kw_only=True)
class TrainerSettings:
    """How a run uses the machine; what Lightning's Trainer is made from.

    Args:
        max_steps: optimiser steps.
        max_norm: gradients are scaled down to this norm; None: never.
        accelerator: cpu, cuda, mps or auto.
        devices: number of devices.
        strategy: Lightning's strategy.
        precision: "auto" takes bf16 where it pays (measured), "32-true" or "bf16-mixed" say it.
        is_compiled: compile the layers; None: where a compiler is there and the run is long.
        attention: kernel of attention; "auto" takes the fastest that runs here (`illada-lab doctor` tells which). One that does not run is
            replaced by the next best, and that is said once.
        validate_every: optimiser steps between validations; None: at the end only.
        save_every: optimiser steps between checkpoints; None: at the end only.
        log_every: optimiser steps between records of the loss.
        n_validation_draws: mask sets per validation document.
        ema_decay: decay of an exponential moving average of the weights; None: none.
    """

    max_steps: int
    max_norm: float | None = 1.0
    accelerator: str = "auto"
    devices: int = 1
    strategy: str = "auto"
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    is_compiled: bool | None = None
    attention: Attention = "auto"
    validate_every: int | None = None
    save_every: int | None = None
    log_every: int = 10
    n_validation_draws: int = 4
    ema_decay: float | None = None

    @staticmethod
    def check_config(**values: Any) -> list[str]:
        """Problems of a set of arguments, for `illada_lab.config.check`."""
        found = []
        for key in ("max_steps", "devices", "validate_every", "save_every", "log_every", "n_validation_draws"):
            value = values.get(key)
            if value is not None and value < 1:
                found.append(f"{key} = {value}; counts from 1; 1 or more")
        decay = values.get("ema_decay")
        if decay is not None and not 0 < decay < 1:
            found.append(f"ema_decay = {decay}; above 0, below 1; for example 0.999")
        return found


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
    """Run one stage of training: pre-training, fine-tuning, or the twin's.

    Args:
        config: composed and checked.

    Returns:
        What was measured, and where the checkpoint is.

    Raises:
        ValueError, FileNotFoundError: data, checkpoint or sizes that cannot be used; nothing has been trained then.
        TrainingStopped: a guard stopped the run.
    """
    import logging

    import lightning.pytorch as pl

    from illada_lab.training import callbacks as cb
    from illada_lab.training.adapters import Adapters, add_adapters
    from illada_lab.training.module import DiffusionModule
    from illada_lab.training.progress import LiveProgress
    from illada_lab.training.samples import Samples
    from illada_lab.training.validation import FrozenMasks

    # What Lightning says at its start and end, the progress line and the manifest say better.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    run_dir = Path(config.run_dir)
    checkpoint = _resume_from(config, run_dir)

    # 1. Data, with the tokenizer of the model the run starts from.
    data = build(config.data)
    data.prepare(_tokenizer(checkpoint or config.init_from))
    tokenizer = data.tokenizer

    # 2. Model.
    pl.seed_everything(config.seed, verbose=False)
    sizes: dict[str, Any] = {"tokens": tokenizer.tokens}
    if config.model.vocab_size is None:
        sizes["vocab_size"] = tokenizer.vocab_size
    elif config.model.vocab_size < tokenizer.vocab_size:
        raise ValueError(
            f"model.vocab_size = {config.model.vocab_size}; the tokenizer has {tokenizer.vocab_size} tokens; null, or as many"
        )
    predictor = build(config.model, **sizes)
    if data.length > predictor.spec.max_length:
        raise ValueError(
            f"data.length = {data.length}; longer than model.max_length; at most {predictor.spec.max_length}"
        )
    if config.init_from is not None:
        load_start(predictor, config.init_from)
    is_adapted = config.get("lora") is not None
    adapters = add_adapters(predictor, config) if is_adapted else {}

    # 3. Trainer.
    settings: TrainerSettings = build(config.trainer)
    predictor.use_attention(settings.attention)
    device = _device(settings.accelerator)
    if device.type == "cpu":
        keep_freed_memory()
    precision = best_precision(device) if settings.precision == "auto" else settings.precision
    is_compiled = settings.is_compiled
    if is_compiled is None:
        is_compiled = settings.max_steps >= MIN_STEPS_TO_COMPILE and can_compile(device)
    elif is_compiled and not can_compile(device):
        raise ValueError("trainer.is_compiled = true; there is no C++ compiler here; install one (g++), or false")
    per_pass = data.micro_batch_size * settings.devices
    if data.batch_size % per_pass:
        raise ValueError(
            f"data.batch_size = {data.batch_size}; must be a multiple of micro_batch_size * devices = {per_pass}; "
            f"nearest: {max(1, round(data.batch_size / per_pass)) * per_pass}"
        )
    accumulate = data.batch_size // per_pass

    history = cb.History(every=settings.log_every, path=run_dir / "history.json")
    documents = data.validation_documents()
    bos = tokenizer.tokens.bos if data.adds_bos or any(d["ids"][0] == tokenizer.tokens.bos for d in documents) else None
    module = DiffusionModule(
        predictor=predictor,
        objective=build(config.objective),
        optim=build(config.optim),
        lr=build(config.lr),
        seed=config.seed,
        validation=FrozenMasks(documents, bos=bos, n_draws=settings.n_validation_draws),
        max_norm=settings.max_norm,
        is_compiled=is_compiled,
        about={"config": to_plain(config), "tokenizer": tokenizer.to_dict(), **adapters},
    )
    about = manifest(seed=config.seed, scale=config.scale.name)
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "manifest.json").write_text(
        json.dumps({**about, "precision": precision, "is_compiled": is_compiled, "config": to_plain(config)}, indent=1)
    )
    callbacks: list[Any] = [
        cb.LossGuard(path=run_dir / "stopped.json"),
        history,
        cb.Validation(every=settings.validate_every, history=history),
        cb.Throughput(length=data.length),
        Samples(
            path=run_dir / "samples.jsonl",
            tokenizer=tokenizer,
            length=min(SAMPLE_TOKENS, predictor.spec.max_length - 1),
            opening=predictor.tokens.opening(data.adds_bos),
            every=settings.validate_every,
            seed=config.seed,
        ),
        cb.RollingCheckpoint(folder=run_dir / "checkpoints", every=settings.save_every),
        LiveProgress(history=history, title=config.name),
        *([Adapters(seed=config.seed)] if is_adapted else []),
    ]
    if settings.ema_decay is not None:
        from lightning.pytorch.callbacks import EMAWeightAveraging

        callbacks.insert(0, EMAWeightAveraging(decay=settings.ema_decay))
    with warnings.catch_warnings():
        # Hints for other uses of Lightning: our loader is endless by design, its workers are a setting, its folder may exist.
        warnings.filterwarnings(
            "ignore", message=".*(does not have many workers|exists and is not empty|LeafSpec|max_epochs).*"
        )
        trainer = pl.Trainer(
            max_steps=settings.max_steps,
            accelerator=settings.accelerator,
            devices=settings.devices,
            strategy=settings.strategy,
            precision=precision,  # type: ignore[arg-type]
            accumulate_grad_batches=accumulate,
            logger=build_all(config.logger),
            log_every_n_steps=settings.log_every,
            callbacks=callbacks,
            plugins=[cb.AtomicCheckpointIO()],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
        )
        if checkpoint is not None:
            data.start_batch = read_checkpoint(checkpoint)["global_step"] * accumulate
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return TrainedRun(
        run_dir=run_dir,
        history=history.to_dict(),
        checkpoint=run_dir / "checkpoints" / LAST,
        manifest={**about, "precision": precision, "is_compiled": is_compiled},
        config=to_plain(config),
        n_parameters=predictor.spec.n_parameters,
        n_non_embedding=predictor.spec.n_non_embedding_parameters,
    )


def _resume_from(config: DictConfig, run_dir: Path) -> Path | None:
    """The checkpoint to go on from; refuses to overwrite a finished or broken-off run unasked."""
    if config.resume is None:
        if find_resumable(run_dir) is not None:
            raise ValueError(
                f"run_dir = {run_dir}; a run has been saved there and would be lost; resume=auto, another name=..., or delete it"
            )
        return None
    if config.resume == "auto":
        return find_resumable(run_dir)
    return find_checkpoint(config.resume)


def _tokenizer(checkpoint: Any) -> Any:
    """The tokenizer a checkpoint was trained with, or None."""
    return None if checkpoint is None else start_tokenizer(checkpoint)


def _device(accelerator: str) -> torch.device:
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.device("cuda")
    if accelerator in ("auto", "mps") and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")
