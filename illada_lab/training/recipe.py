"""What a run learns from, and where two runs differ in it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from illada_lab.config import to_plain
from illada_lab.interop import is_published
from illada_lab.training.checkpoint import read_about

# Everything else says where a run stands, what it shows, or belongs to other commands. What a scale says stands in these already,
# resolved: a pre-trained model stays good where the scale's fine-tuning changes.
LEARNT_FROM = ("seed", "model", "tokenizer", "data", "objective", "optim", "lr", "trainer")
# Settings that say on what a run is done, and how; what is learnt differs by no more than roundings.
MACHINE = frozenset(
    ["data.micro_batch_size", "data.n_workers"]
    + [
        f"trainer.{name}"
        for name in ("accelerator", "devices", "n_nodes", "strategy", "tensor_parallel", "precision",
                     "activation_checkpointing", "is_compiled", "attention")
    ]
)  # fmt: skip
# Of the trainer's settings those that decide when something is written or shown, not what is learnt.
HOUSEKEEPING = ("save_every", "save_minutes", "keeps_before_decay", "keeps_best", "is_async_save", "log_every",
                "timeout_minutes")  # fmt: skip


def recipe(config: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """What a run of this configuration, composed or resolved, learns from, as plain data."""
    plain = to_plain(config) if isinstance(config, DictConfig) else config
    found = {key: plain[key] for key in LEARNT_FROM}
    # Only where there are adapters: older runs do not have the key, and a recipe without them stays what it was.
    if plain.get("lora") is not None:
        found["lora"] = plain["lora"]
    return {**found, "trainer": {key: value for key, value in found["trainer"].items() if key not in HOUSEKEEPING}}


def recipe_of(path: str | Path | None) -> dict[str, Any] | None:
    """What a trained model has learnt from; None where it does not say: a published one, or nothing."""
    if path is None or is_published(path):
        return None
    return recipe(read_about(path)["illada_lab"]["config"])


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], path: Sequence[str] = ()
) -> Iterator[tuple[str, Any, Any]]:
    """Each setting by which two recipes differ: its name with dots, what it was, what it is.

    A setting that one of them does not know is none: it came into the world between the two.
    """
    for key in sorted(set(before) & set(now)):
        was, is_now = before[key], now[key]
        if isinstance(was, Mapping) and isinstance(is_now, Mapping):
            yield from differences(was, is_now, (*path, key))
        elif key == "_target_" and str(was).rpartition(".")[2] == str(is_now).rpartition(".")[2]:
            continue  # the same class, moved
        elif was != is_now:
            yield ".".join((*path, key)), was, is_now
