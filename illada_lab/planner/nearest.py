"""Runs that fit where the one asked for does not, the fewest changes first."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any

from illada_lab.planner.devices import GIB, Device
from illada_lab.planner.job import Job
from illada_lab.planner.plan import Plan, plan
from illada_lab.planner.settings import PlanSettings

MAX_DEVICES = 4096


@dataclass(frozen=True)
class Change:
    """One setting that is changed.

    Attributes:
        text: as on the command line.
        values: fields of the job.
    """

    text: str
    values: dict[str, Any]


def nearest_that_fit(made: Plan) -> list[str]:
    """Settings with which the run fits: all ways with the fewest changes, the smallest change of each kind.

    Args:
        made: a plan that does not fit.

    Returns:
        Overrides and the memory they need, one text per way; empty where nothing fits.
    """
    job = made.job
    places = [kind for kind in (_sharding(job), _devices(job)) if kind]
    kinds = [kind for kind in (_rows(job), _checkpointing(job)) if kind]
    for n_changes in range(1, len(kinds) + 2):
        # Where it runs is changed in one way or not at all.
        chosen = [*combinations(kinds, n_changes)]
        chosen += [(*others, place) for place in places for others in combinations(kinds, n_changes - 1)]
        ways = [_first_fit(changes, job, made.device, made.settings) for changes in chosen]
        if found := [way for way in ways if way is not None]:
            return found
    return []


def _first_fit(kinds: tuple[list[Change], ...], job: Job, device: Device, settings: PlanSettings) -> str | None:
    for changes in product(*kinds):
        changed = replace(job, **{key: value for change in changes for key, value in change.values.items()})
        if changed.micro_batch_size not in changed.micro_batch_sizes or changed.batch_size % changed.n_replicas:
            continue
        made = plan(changed, device, settings)
        if made.fits and made.is_within_peak:
            return f"{' '.join(change.text for change in changes)} ({made.memory.total / GIB:.1f} GiB)"
    return None


def _rows(job: Job) -> list[Change]:
    """Fewer rows per pass, the most first. The data's own key: what it is given goes before the scale's, which it only refers to."""
    smaller = [n for n in reversed(job.micro_batch_sizes) if n < job.micro_batch_size]
    return [Change(f"data.micro_batch_size={n}", {"micro_batch_size": n}) for n in smaller]


def _checkpointing(job: Job) -> list[Change]:
    every_layer = Change("trainer.activation_checkpointing=1", {"recomputed": 1})
    return [] if job.recomputed == 1 else [every_layer]


def _sharding(job: Job) -> list[Change]:
    """Spread over the devices there are, or over more; FSDP brings checkpointing with it (conf/trainer/fsdp.yaml)."""
    if job.is_sharded or job.lora is not None or job.has_ema:  # adapters and averages are not sharded
        return []
    numbers = [*([job.devices] if job.world_size > 1 else []), *_doubled(job)]
    values = {"strategy": "fsdp", "recomputed": 1}
    return [Change(f"trainer=fsdp trainer.devices={n}", {**values, "devices": n}) for n in numbers]


def _devices(job: Job) -> list[Change]:
    """More devices, trained as before; where each holds the whole model, that saves nothing but rows."""
    return [Change(f"trainer.devices={n}", {"devices": n}) for n in _doubled(job)] if job.is_sharded else []


def _doubled(job: Job) -> Iterator[int]:
    n = 2 * job.devices
    while n * job.n_nodes <= min(MAX_DEVICES, job.batch_size * job.tensor_parallel):
        yield n
        n *= 2
