"""The parts of a run, put together: model, module, callbacks, Lightning's Trainer."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.loggers import Logger, WandbLogger
from omegaconf import DictConfig

from illada_lab.config import build, to_plain
from illada_lab.data.datamodule import DataModule
from illada_lab.files import write_text
from illada_lab.models.mask_predictor import MaskPredictor
from illada_lab.objectives import Objective
from illada_lab.tokens import has_bos_of
from illada_lab.training import callbacks as cb
from illada_lab.training.callbacks.guard import LossGuard
from illada_lab.training.callbacks.progress import LiveProgress
from illada_lab.training.callbacks.samples import Samples
from illada_lab.training.callbacks.saving import AtomicCheckpointIO, RollingCheckpoint
from illada_lab.training.checkpoint import read_about, told_as
from illada_lab.training.checkpoint.adapters import Adapters, add_adapters
from illada_lab.training.distributed.placement import Placement, from_seed, from_trained, to_be_loaded
from illada_lab.training.distributed.strategy import make_strategy
from illada_lab.training.module import DiffusionModule
from illada_lab.training.recipe import recipe_of
from illada_lab.training.reference import Reference, reference_for
from illada_lab.training.settings import Resolved, TrainerSettings
from illada_lab.training.validation import FrozenMasks

# Length of the samples written during training: a few sentences.
SAMPLE_TOKENS = 48
# File in the run's folder with the id of its run of Weights & Biases.
WANDB_ID = "wandb_id.txt"


def build_predictor(config: DictConfig, data: DataModule) -> MaskPredictor:
    """The model without weights (on the meta device), for the tokenizer and rows of the data.

    Raises:
        ValueError: sizes that do not fit the data.
    """
    tokenizer = data.tokenizer
    assert tokenizer is not None, "prepare() comes first"
    sizes: dict[str, Any] = {"tokens": tokenizer.tokens}
    if config.model.vocab_size is None:
        sizes["vocab_size"] = tokenizer.vocab_size
    elif config.model.vocab_size < tokenizer.vocab_size:
        raise ValueError(
            f"model.vocab_size = {config.model.vocab_size}; the tokenizer has {tokenizer.vocab_size} tokens; null, or as many"
        )
    with torch.device("meta"):
        predictor = build(config.model, **sizes)
    if not isinstance(predictor, MaskPredictor) or any(True for _ in predictor.buffers()):
        why = "has buffers, which no checkpoint keeps" if isinstance(predictor, MaskPredictor) else "no MaskPredictor"
        raise ValueError(f"model._target_ = {config.model._target_}; {why}; a subclass of it with parameters alone")
    if data.length > predictor.spec.max_length:
        raise ValueError(
            f"data.length = {data.length}; longer than model.max_length; at most {predictor.spec.max_length}"
        )
    # Before it has weights this costs nothing.
    return build(config.lora).cast_base(predictor) if config.get("lora") is not None else predictor


def build_module(
    config: DictConfig, data: DataModule, settings: TrainerSettings, here: Resolved, checkpoint: Path | None
) -> DiffusionModule:
    """Model, objective, optimiser, schedule and validation; the model gets its weights when the devices are there."""
    pl.seed_everything(config.seed, verbose=False)
    predictor, tokenizer = build_predictor(config, data), data.tokenizer
    assert tokenizer is not None, "prepare() comes first"
    if problem := _undivided(predictor, settings.tensor_parallel):
        raise ValueError(problem)
    predictor.use_attention(settings.attention)
    is_adapted = config.get("lora") is not None
    if checkpoint is not None and not is_adapted:
        start = to_be_loaded
    else:  # a checkpoint of adapters does not hold their base
        start = from_seed(config.seed) if config.init_from is None else from_trained(config.init_from)
    documents, objective = data.validation_documents(), build_objective(config)
    with told_as("init_from"):
        start_recipe = (
            recipe_of(config.init_from) if checkpoint is None else read_about(checkpoint)["illada_lab"].get("start")
        )
    validation = FrozenMasks(
        documents,
        # As in training: a BOS that is EOS as well is learnt, so it is counted too.
        bos=tokenizer.tokens.anchor if _has_bos(data, documents) else None,
        n_draws=settings.n_validation_draws,
        is_response_only=objective.is_response_only,
    )
    return DiffusionModule(
        predictor=predictor,
        objective=objective,
        optim=build(config.optim),
        lr=build(config.lr),
        seed=config.seed,
        validation=validation,
        max_norm=settings.max_norm,
        is_compiled=here.is_compiled,
        has_fixed_length=not data.is_padded,
        placement=Placement(
            start=start,
            adapt=partial(add_adapters, config=config) if is_adapted else None,
            recomputed=settings.activation_checkpointing,
            has_dropout=is_adapted and config.lora.get("dropout", 0) > 0,
            is_bf16=here.is_bf16,
        ),
        about={
            "config": to_plain(config),
            "tokenizer": tokenizer.to_dict(),
            "start": start_recipe,
            # Held-out documents have the form of the others, whatever source, shards or stream they come from; prompts are conversations'.
            "has_conversations": any(any(document["is_prompt"]) for document in documents),
        },
    )


def build_objective(config: DictConfig) -> Objective:
    """The objective of a run.

    Raises:
        ValueError: somebody's own lacks something.
    """
    objective = build(config.objective)
    for name in ("needs_causal", "is_response_only", "__call__"):
        if not hasattr(objective, name):
            raise ValueError(
                f"objective._target_ = {config.objective._target_}; has no {name}; all of illada_lab.objectives.Objective"
            )
    return objective


def build_trainer(
    config: DictConfig,
    data: DataModule,
    settings: TrainerSettings,
    here: Resolved,
    module: DiffusionModule,
    checkpoint: Path | None = None,
) -> tuple[pl.Trainer, cb.History]:
    """Lightning's Trainer with our callbacks, and the history that it is going to write; `checkpoint`: that the run goes on from."""
    reference = reference_for(config, module.about["start"], checkpoint)
    path = Path(config.run_dir) / "history.json"
    history = cb.History(
        every=settings.log_every,
        path=path,
        landmarks=landmarks(module),
        facts=facts(config, data, settings, module),
    )
    loggers, files = build_loggers(config, checkpoint), AtomicCheckpointIO()
    plugins: list[Any] = [] if settings.is_sharded else [files]
    if SLURMEnvironment.detect():
        # Its own saving on a signal would write another file, of which `resume` knows nothing.
        plugins.append(SLURMEnvironment(auto_requeue=False))
    trainer = pl.Trainer(
        max_steps=settings.max_steps,
        accelerator=here.device.type,  # Lightning's own "auto" may take a device that cannot be used here
        devices=settings.devices,
        num_nodes=settings.n_nodes,
        strategy=make_strategy(settings),
        precision=here.precision,  # type: ignore[arg-type]
        accumulate_grad_batches=here.accumulate,
        logger=loggers,
        log_every_n_steps=settings.log_every,
        callbacks=[
            *_callbacks(config, data, settings, here, module, history, files, reference),
            cb.AtStart(partial(tell_config, loggers, config)),
        ],
        plugins=plugins,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
    return trainer, history


def _callbacks(
    config: DictConfig,
    data: DataModule,
    settings: TrainerSettings,
    here: Resolved,
    module: DiffusionModule,
    history: cb.History,
    files: AtomicCheckpointIO,
    reference: Reference | None,
) -> list[pl.Callback]:
    """In the order in which they act: guard, record, validate, sample, save, show."""
    run_dir, predictor = Path(config.run_dir), module.predictor
    assert data.tokenizer is not None and module.validation is not None, "prepare() and build_module() come first"
    found: list[pl.Callback] = []
    if settings.ema_decay is not None:
        from lightning.pytorch.callbacks import EMAWeightAveraging

        found.append(EMAWeightAveraging(decay=settings.ema_decay, device=here.device))
    if config.get("lora") is not None:
        found.append(Adapters(seed=config.seed))
    return found + [
        LossGuard(path=run_dir / "stopped.json"),
        history,
        cb.Validation(every=settings.validate_every, history=history, reference=reference),
        cb.Throughput(length=data.length, is_frozen=config.get("lora") is not None),
        Samples(
            path=run_dir / "samples.jsonl",
            tokenizer=data.tokenizer,
            length=min(SAMPLE_TOKENS, predictor.spec.max_length - 1),
            opening=_opening(config, data, module.validation.documents),
            every=settings.validate_every,
            seed=config.seed,
        ),
        RollingCheckpoint(
            folder=run_dir / "checkpoints",
            every=settings.save_every,
            minutes=settings.save_minutes,
            keeps_before_decay=settings.keeps_before_decay,
            best_of=history if settings.keeps_best else None,
            files=files,
        ),
        LiveProgress(history=history, title=config.name, reference=reference),
    ]


def build_loggers(config: DictConfig, checkpoint: Path | None = None) -> list[Logger]:
    """The loggers of a run; one that goes on in its own folder goes on with its run of Weights & Biases as well.

    Args:
        config: of the run.
        checkpoint: that it goes on from; None: a new run.
    """
    run_dir, found = Path(config.run_dir), []
    is_own = checkpoint is not None and checkpoint.resolve().is_relative_to(run_dir.resolve())
    for node in (config.logger or {}).values():
        has_id = node.get("id") is not None or node.get("version") is not None
        is_wandb = str(node["_target_"]).endswith(WandbLogger.__name__)
        if is_wandb and is_own and not has_id and (run_dir / WANDB_ID).is_file():
            found.append(build(node, id=(run_dir / WANDB_ID).read_text().strip()))
        else:
            found.append(build(node))
    return found


def tell_config(loggers: Sequence[Logger], config: DictConfig) -> None:
    """Give the loggers the resolved configuration, and take down which run of Weights & Biases this is."""
    plain = to_plain(config)
    for logger in loggers:
        logger.log_hyperparams(plain)
        if isinstance(logger, WandbLogger):
            write_text(Path(config.run_dir) / WANDB_ID, f"{logger.version}\n")


def facts(config: DictConfig, data: DataModule, settings: TrainerSettings, module: DiffusionModule) -> dict[str, Any]:
    """What a run is going to do, as plain data.

    Args:
        config: of the run.
        data: prepared.
        settings: of the run.
        module: of the run, with its validation.

    Returns:
        `n_steps`, `batch_size` (rows per step), `length` (tokens per row), `is_padded` (rows are as long as the longest of their step),
        `n_rows` and `epochs` (None for a stream), `is_weighted` (rows are drawn by the weights of a mixture), `peak_ratio` (see
        `training.lr`), `loss` (what the objective's loss is; None where it does not say), `held_out` (names the text of the
        validation and what of it can be masked).
    """
    assert module.validation is not None, "build_module() comes first"
    return {
        "n_steps": settings.max_steps,
        "batch_size": data.batch_size,
        "length": data.length,
        "is_padded": data.is_padded,
        "n_rows": data.n_rows,
        "epochs": None if data.steps_per_epoch is None else settings.max_steps / data.steps_per_epoch,
        "is_weighted": getattr(data.source, "weights", None) is not None,
        "peak_ratio": config.lr.get("peak_ratio", 1.0),
        "loss": getattr(module.objective, "meaning", None),
        "held_out": module.validation.fingerprint(),
    }


def landmarks(module: DiffusionModule) -> dict[str, float]:
    """Losses that a reader should know, nats per token: `uniform`, of a predictor that knows nothing; `no_context`, of one that knows how
    often each token comes; `entropy`, where it is known exactly, of one that knows all there is to know of the held-out text.
    """
    assert module.validation is not None, "build_module() comes first"
    found = {
        "uniform": math.log(module.predictor.spec.vocab_size),
        "no_context": module.validation.no_context_per_token,
    }
    is_causal = module.predictor.spec.is_causal
    if (entropy := module.validation.entropy_per_token(is_causal=is_causal)) is not None:
        found["entropy"] = entropy
    return found


def _has_bos(data: DataModule, documents: Sequence[dict[str, Any]]) -> bool:
    """Whether texts begin with BOS: the data may add it, and conversations bring their own."""
    assert data.tokenizer is not None, "prepare() comes first"
    return data.adds_bos or any(document["ids"][0] == data.tokenizer.tokens.bos for document in documents)


def _opening(config: DictConfig, data: DataModule, documents: Sequence[dict[str, Any]]) -> int:
    """What stands in front of a text in training, as `sample` puts it there."""
    assert data.tokenizer is not None, "prepare() comes first"
    has_bos = _has_bos(data, documents) or has_bos_of(to_plain(config.data))
    return data.tokenizer.tokens.opened([], has_bos)[0]


def _undivided(predictor: MaskPredictor, n: int) -> str | None:
    """Why layers cannot be shared by `n` devices; None where they can."""
    spec = predictor.spec
    for name, size in (("n_heads", spec.n_heads), ("n_kv_heads", spec.n_kv_heads), ("d_ffn", spec.d_ffn)):
        if size % n:
            return f"trainer.tensor_parallel = {n}; must divide model.{name} = {size}; 1, or a divisor"
    return None
