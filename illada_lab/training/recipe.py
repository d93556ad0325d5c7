"""What a run learns from, and where two runs differ in it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from illada_lab.config import to_plain

# Everything else says where a run stands, what it shows, or belongs to other commands. What a scale says stands in these already,
# resolved: a pre-trained model stays good where the scale's fine-tuning changes.
LEARNT_FROM = ("seed", "model", "tokenizer", "data", "objective", "optim", "lr", "trainer")


def recipe(config: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """What a run of this configuration, composed or resolved, learns from, as plain data."""
    plain = to_plain(config) if isinstance(config, DictConfig) else config
    return {key: plain[key] for key in LEARNT_FROM}


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
