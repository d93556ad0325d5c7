"""A run before it runs: memory, speed, time, and whether it fits."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from illada_lab.planner.compute import Flops, flops_per_token, paper_budget
from illada_lab.planner.devices import GIB, Device
from illada_lab.planner.job import Job
from illada_lab.planner.memory import Memory, memory_per_device
from illada_lab.planner.settings import PlanSettings

SECONDS_PER_DAY = 86_400


@dataclass(frozen=True)
class Plan:
    """What a run takes.

    Attributes:
        job: the run.
        device: what it runs on.
        settings: what is assumed.
        flops: per token.
        memory: on each device.
        usable_bytes: of each device, 0 where the system does not tell how much there is.
    """

    job: Job
    device: Device
    settings: PlanSettings
    flops: Flops
    memory: Memory
    usable_bytes: int

    @property
    def fits(self) -> bool | None:
        """Whether a step finds the memory it needs; None: it is not known how much there is."""
        return self.holds(self.memory)

    def holds(self, memory: Memory) -> bool | None:
        """Whether a device has room for it; None: not known."""
        return memory.total <= self.usable_bytes if self.usable_bytes else None

    @property
    def tokens_per_second(self) -> float:
        """Of all devices together, at the assumed MFU."""
        rate = self.device.peak_flops(self.job.precision) * self.settings.mfu * self.n_peaks
        return rate / self.flops.total

    @property
    def n_peaks(self) -> int:
        """Devices that multiply at once; processes on one machine's CPU share its peak."""
        return self.job.n_nodes if self.device.is_cpu else self.job.world_size

    @property
    def n_recomputed_layers(self) -> int | None:
        """Layers whose forward pass is computed a second time; None: parts of layers are, and how much that is is not known here."""
        which, n_layers = self.job.recomputed, self.job.spec.n_layers
        if which == "ops":
            return None
        return 0 if which is None else -(-n_layers // which)

    @property
    def work(self) -> float | None:
        """Arithmetic done over `flops`, which do not count what is computed again: 1 without recomputation; None: not known.

        A layer's forward pass is a third of what it takes, of its frozen matrices a half; the head is not computed again.
        """
        if self.n_recomputed_layers is None:
            return None
        forward = self.flops.matrices / (3 if self.job.lora is None else 2) + self.flops.attention / 3
        return 1 + self.n_recomputed_layers / self.job.spec.n_layers * forward / self.flops.total

    @property
    def largest_mfu(self) -> float:
        """At which all of the peak would be reached, rounded down; 1 where the work is not known."""
        return math.floor(1000 / (self.work or 1)) / 1000

    @property
    def is_within_peak(self) -> bool:
        """Whether the assumed MFU asks for no more than the device can do."""
        return self.settings.mfu * (self.work or 1) <= 1

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return self.job.n_tokens / self.tokens_per_second

    @property
    def device_hours(self) -> float:
        """Devices x hours; GPU-hours on GPUs."""
        return self.seconds / 3600 * self.n_peaks

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        job, spec = self.job, self.job.spec
        return {
            "scale": job.scale,
            "device": {
                "name": self.device.name,
                "peak_flops": self.device.peak_flops(job.precision),
                "memory_bytes": self.device.memory_bytes,
                "usable_bytes": self.usable_bytes,
            },
            "assumed": {"mfu": self.settings.mfu, "usable_share": self.settings.usable_share},
            "run": {
                "devices": job.world_size,
                "strategy": job.strategy,
                "precision": job.precision,
                "activation_checkpointing": job.recomputed,
                "is_compiled": job.is_compiled,
                "micro_batch_size": job.micro_batch_size,
                "batch_size": job.batch_size,
                "length": job.length,
                "tokens": job.n_tokens,
            },
            "parameters": {"total": spec.n_parameters, "non_embedding": spec.n_non_embedding_parameters},
            "flops_per_token": {**asdict(self.flops), "total": self.flops.total},
            "flops": self.flops.total * job.n_tokens,
            "paper": paper_budget(),
            "memory": {**asdict(self.memory), "total": self.memory.total},
            "fits": self.fits,
            "tokens_per_second": self.tokens_per_second,
            "days": self.seconds / SECONDS_PER_DAY,
            "device_hours": self.device_hours,
        }


def plan(job: Job, device: Device, settings: PlanSettings) -> Plan:
    """Plan a run.

    Args:
        job: the run.
        device: what it runs on.
        settings: what is assumed.
    """
    usable = device.memory_bytes * settings.usable_share
    if device.is_cpu:
        usable /= job.devices
    return Plan(
        job=job,
        device=device,
        settings=settings,
        flops=flops_per_token(job.spec, job.length, is_frozen=job.lora is not None),
        memory=memory_per_device(job, device),
        usable_bytes=round(usable),
    )


def largest_micro_batch(job: Job, device: Device, settings: PlanSettings) -> int | None:
    """Most rows per forward pass and device that fit and divide the batch; None: not even one, or the device's memory is not known."""
    sizes, low, high = job.micro_batch_sizes, 0, len(job.micro_batch_sizes)
    while low < high:  # all sizes before `low` fit, none from `high` on does
        middle = (low + high) // 2
        if plan(replace(job, micro_batch_size=sizes[middle]), device, settings).fits:
            low = middle + 1
        else:
            high = middle
    return sizes[low - 1] if low else None


def refusal(made: Plan, nearest: list[str]) -> str:
    """Why a plan cannot run, and what could, in one line."""
    job = made.job
    return (
        f"data.micro_batch_size = {job.micro_batch_size}; needs {made.memory.total / GIB:.1f} GiB on each of {job.world_size} x "
        f"{made.device.name}, which can give {made.usable_bytes / GIB:.1f}; "
        + ("these fit: " + " | ".join(nearest) if nearest else "nothing near fits: a smaller model, or a larger device")
    )
