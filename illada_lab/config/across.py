"""What is wrong between groups of a configuration, each of which is fine alone."""

from math import gcd
from typing import Any

from omegaconf import DictConfig

from illada_lab.config.building import locate
from illada_lab.config.tree import value_at
from illada_lab.config.types import shown


def between_groups(tree: DictConfig) -> list[str]:
    """Problems between groups, each of which is fine alone."""
    problems = [] if value_at(tree, "run_dir") != "" else ["run_dir = ''; no folder; a name, such as runs/mine"]
    if ".." in str(value_at(tree, "name")).split("/"):
        problems.append(f"name = {value_at(tree, 'name')!r}; leads out of runs/; another name, or run_dir=...")
    length, longest = value_at(tree, "data.length"), value_at(tree, "model.max_length")
    if isinstance(length, int) and isinstance(longest, int) and length > longest:
        problems.append(
            f"data.length = {length}; longer than model.max_length; at most {longest}, or model.max_length={length}"
        )
    part = value_at(tree, "data.max_validation_length")
    if (
        isinstance(part, int)
        and isinstance(longest, int)
        and part > longest
        and value_at(tree, "data.validates_rows") is False
    ):
        problems.append(
            f"data.max_validation_length = {part}; longer than model.max_length; at most {longest}, or null"
        )
    rows, micro = value_at(tree, "data.batch_size"), value_at(tree, "data.micro_batch_size")
    devices = _n_replicas(tree)
    if all(isinstance(n, int) and n > 0 for n in (rows, micro or 1, devices)):
        problems += remainder(rows, (micro or 1) * devices)
    problems += _undivided_layers(tree)
    if value_at(tree, "lora._target_") and value_at(tree, "init_from") is None:
        problems.append("init_from = null; adapters (lora) need a trained model to adapt; a run, a folder or a hub id")
    if value_at(tree, "lora._target_") and value_at(tree, "trainer.ema_decay") is not None:
        problems.append(f"trainer.ema_decay = {value_at(tree, 'trainer.ema_decay')}; not with adapters (lora); null")
    if value_at(tree, "lora._target_") and str(value_at(tree, "trainer.strategy")).startswith("fsdp"):
        problems.append(
            f"trainer.strategy = {value_at(tree, 'trainer.strategy')}; not with adapters (lora); auto or ddp"
        )
    if value_at(tree, "lr.decay_start") == "plateau" and value_at(tree, "trainer.validate_every") is None:
        problems.append(
            "trainer.validate_every = null; lr.decay_start=plateau watches the validations, and the only one is at the end; "
            "1 or more steps"
        )
    problems += _unseen_plateau(tree)
    rows_of_embedding, n_tokens = value_at(tree, "model.vocab_size"), value_at(tree, "tokenizer.vocab_size")
    if isinstance(rows_of_embedding, int) and isinstance(n_tokens, int) and rows_of_embedding < n_tokens:
        problems.append(
            f"model.vocab_size = {rows_of_embedding}; the tokenizer has {n_tokens} tokens; null, or as many"
        )
    try:
        needs_causal = getattr(locate(str(value_at(tree, "objective._target_"))), "needs_causal", None)
    except (ImportError, AttributeError):  # reported at its own place
        needs_causal = None
    is_causal = value_at(tree, "model.is_causal")
    if needs_causal is not None and is_causal is not None and bool(is_causal) != needs_causal:
        why = "would see its own targets" if needs_causal else "predicts from both sides"
        problems.append(f"model.is_causal = {shown(is_causal)}; the objective {why}; {shown(needs_causal)}")
    return problems


def _unseen_plateau(tree: DictConfig) -> list[str]:
    """What keeps a schedule that waits for a plateau from ever seeing one; nothing where a number is missing, reported at its own place."""
    keys = ("trainer.validate_every", "lr.patience", "lr.n_steps", "lr.n_warmup_steps")
    every, patience, n_steps, n_warmup = (value_at(tree, key) for key in keys)
    if value_at(tree, "lr.decay_start") != "plateau" or not all(
        isinstance(n, int) for n in (every, patience, n_steps, n_warmup)
    ):
        return []

    def n_seen(every: int) -> int:
        """Validations behind the warm-up and before the last step."""
        return (n_steps - 1) // every - max(0, n_warmup - 1) // every

    n_needed = patience + 1  # one to compare with, and so many without progress
    if every < 1 or n_seen(every) >= n_needed:
        return []
    most = next((fewer for fewer in range(min(every - 1, n_steps), 0, -1) if n_seen(fewer) >= n_needed), None)
    hint = f"more steps, or lr.patience below {patience}" if most is None else f"at most {most}"
    return [
        f"trainer.validate_every = {every}; lr.decay_start=plateau needs {n_needed} validations between warm-up and end, and sees "
        f"{n_seen(every)}, so it would never decay; {hint}"
    ]


def remainder(rows: int, per_pass: int) -> list[str]:
    """What is wrong with a batch that does not come out even; nothing where it does.

    Args:
        rows: of an optimiser step.
        per_pass: rows that all devices together take in one forward pass.
    """
    if rows % per_pass == 0:
        return []
    nearest = max(1, round(rows / per_pass)) * per_pass
    return [
        f"data.batch_size = {rows}; must be a multiple of micro_batch_size * devices = {per_pass}; nearest: {nearest}"
    ]


def _undivided_layers(tree: DictConfig) -> list[str]:
    """What tensor parallelism cannot split evenly; nothing where layers are whole or a number is missing, reported at its own place."""
    n, devices = value_at(tree, "trainer.tensor_parallel"), value_at(tree, "trainer.devices")
    sizes = {key: value_at(tree, f"model.{key}") for key in ("n_heads", "n_kv_heads", "d_ffn")}
    if not all(isinstance(number, int) and number > 0 for number in (n, devices, *sizes.values())):
        return []
    undivided = [f"model.{key} = {size}" for key, size in sizes.items() if size % n]
    if not undivided:
        return []
    shared = gcd(devices, *sizes.values())
    legal = [k for k in range(2, shared + 1) if shared % k == 0]
    nearest = min(legal, key=lambda k: abs(k - n), default=None)
    hint = "1, with trainer=fsdp" if nearest is None else f"nearest: {nearest}"
    return [f"trainer.tensor_parallel = {n}; must divide {' and '.join(undivided)}; {hint}"]


def _n_replicas(tree: DictConfig) -> Any:
    """Processes that see different rows; None where a number is missing or wrong, which is reported at its own place."""
    keys = ("devices", "n_nodes", "tensor_parallel")
    devices, n_nodes, shared = (value_at(tree, f"trainer.{key}") or 1 for key in keys)
    are_counts = all(isinstance(n, int) and n > 0 for n in (devices, n_nodes, shared))
    return max(1, devices * n_nodes // shared) if are_counts else None
