"""Where a run goes on from: which checkpoint, what must be the same, what is said of the rest."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from illada_lab.files import check_writable
from illada_lab.training.checkpoint import find_checkpoint, find_saved, read_about, shards, told_as
from illada_lab.training.recipe import MACHINE, differences, recipe, recipe_of

# What a state cannot be taken over into.
FIXED = ("_target_", "d_model", "n_layers", "n_heads", "n_kv_heads", "d_ffn", "is_tied", "has_qk_norm")
# What has no part in a model that stands at the last step already.
OF_THE_WAY = frozenset(["trainer.max_steps", "lr.n_steps", "trainer.validate_every", "trainer.n_validation_draws"])
# What another of may start from the weights, the state of the old one being of no use to it.
RESTARTS = ("optim._target_", "lora.rank", "lora.targets", "lora.is_base_bf16")


def resume_point(config: DictConfig) -> Path | None:
    """The checkpoint to go on from; None: a new run.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: steps in `run_dir` would be lost unasked, or the checkpoint is of another model, optimiser, adapters or base, or of
            a step at which this run would be over.
    """
    from lightning.pytorch.utilities import rank_zero_only

    run_dir = Path(config.run_dir)
    check_writable("run_dir", run_dir, is_folder=True)
    found, damaged = find_saved(run_dir)
    if found is None and damaged:
        raise ValueError(
            f"run_dir = {run_dir}; what a run has saved there cannot be read and would be lost ({next(iter(damaged.values()))}); mend or "
            "delete it, or another name=..."
        )
    if config.resume == "auto":
        checkpoint = found
    else:
        with told_as("resume"):
            checkpoint = None if config.resume is None else find_checkpoint(config.resume)
            if checkpoint is not None:
                read_about(checkpoint)
        if checkpoint in damaged:
            raise ValueError(f"resume = {damaged[checkpoint].removeprefix('checkpoint = ')}; resume=auto, or another")
        # A process that another one has started for this run comes later than its siblings: it does not judge.
        if found is not None and os.environ.get("LOCAL_RANK", "0") == "0" and _step(found) > _step(checkpoint):
            raise ValueError(
                f"run_dir = {run_dir}; a run has been saved there at step {_step(found)} and would be lost; "
                "resume=auto, another name=..., or delete it"
            )
    if checkpoint is not None:
        _check(config, checkpoint, is_own=checkpoint == found)
        if damaged and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            print(f"goes on from {checkpoint}; {'; '.join(damaged.values())}", flush=True)
            _set_aside(damaged)
    return checkpoint


def _set_aside(damaged: Iterable[Path]) -> None:
    """Rename what is damaged: the next save would put it in the place of the good one."""
    for path in damaged:
        aside = path.with_name(path.name + ".damaged")
        shards.clear(aside)
        path.rename(aside)


def say_changes(config: DictConfig, checkpoint: Path) -> None:
    """What this run is told otherwise than the one that saved: its own settings hold, the checkpoint brings the state."""
    saved = read_about(checkpoint)
    before, now = recipe(saved["illada_lab"]["config"]), recipe(config)
    before.pop("tokenizer")  # always the checkpoint's
    changed = [f"{key} {was} -> {is_now}" for key, was, is_now in differences(before, now)]
    if _has_other_start(config, saved):
        changed.append("init_from (its weights are not read)")
    if changed:
        print(f"goes on from step {saved['global_step']} with other settings: {'; '.join(changed)}", flush=True)


def _has_other_start(config: DictConfig, saved: Mapping[str, Any]) -> bool:
    """Whether a checkpoint began with another model than `init_from`, as far as both say what they have learnt from."""
    try:
        with told_as("init_from"):
            before, now = saved["illada_lab"].get("start"), recipe_of(config.init_from)
    except FileNotFoundError as error:
        if config.get("lora") is not None:  # adapters need their base
            raise
        raise FileNotFoundError(f"{error}; or init_from=null: the run goes on without its weights") from error
    return before is not None and now is not None and any(differences(before, now))


def _step(checkpoint: Path | None) -> int:
    return -1 if checkpoint is None else read_about(checkpoint)["global_step"]


def _name(plain: Mapping[str, Any]) -> str:
    """The adapters of a recipe in a word."""
    return str(plain["lora"]["_target_"]).rpartition(".")[2] if "lora" in plain else "null"


def _check(config: DictConfig, checkpoint: Path, *, is_own: bool) -> None:
    """Refuse what a state cannot go on with."""
    saved = read_about(checkpoint)
    before, now = recipe(saved["illada_lab"]["config"]), recipe(config)
    anew = f"init_from={checkpoint} for a new run from its weights"
    if ("lora" in before) != ("lora" in now):
        holds, right = ("adapters alone", "lora=linear") if "lora" in before else ("a model without them", "lora=null")
        raise ValueError(f"lora = {_name(now)}; {checkpoint} holds {holds}; {right}, as it was trained, or {anew}")
    told = {key: (was, is_now) for key, was, is_now in differences(before, now)}
    if "lora.targets" in told and set(told["lora.targets"][0]) == set(told["lora.targets"][1]):
        del told["lora.targets"]  # in another order
    for key in (*RESTARTS, *(f"model.{name}" for name in FIXED)):
        if key in told:
            was, is_now = told[key]
            # Weights of another size are no start either.
            other = anew if key in RESTARTS else "a new run"
            raise ValueError(f"{key} = {is_now}; {checkpoint} holds the state of {was}; that, or {other}")
    if "data.batch_size" in told:
        was, is_now = told["data.batch_size"]
        raise ValueError(
            f"data.batch_size = {is_now}; {checkpoint} counts the rows it has seen in steps of {was}, others would be left out or seen "
            f"twice; data.batch_size={was}, or {anew}"
        )
    step = saved["global_step"]
    is_over = config.trainer.max_steps == step and is_own
    if _has_other_start(config, saved) and is_over:
        raise ValueError(
            f"init_from = {config.init_from}; {checkpoint} stands at that step, and began with another model; "
            f"trainer.max_steps={step + 1} or more to go on, or another name=... for a new run"
        )
    changed = [key for key in told if key not in MACHINE | OF_THE_WAY and not key.startswith("tokenizer")]
    if is_over and changed:
        was, is_now = told[changed[0]]
        raise ValueError(
            f"{changed[0]} = {is_now}; {checkpoint} stands at that step with {was}; trainer.max_steps={step + 1} or more to go on, or "
            "another name=... for a new run"
        )
    if config.trainer.max_steps < step or (config.trainer.max_steps == step and not is_own):
        raise ValueError(
            f"trainer.max_steps = {config.trainer.max_steps}; {checkpoint} stands at step {step} already; {step + 1} or more"
        )
