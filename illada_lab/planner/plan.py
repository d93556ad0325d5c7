"""A run before it runs: memory, speed, time, and whether it fits."""

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
        usable_bytes: of each device.
    """

    job: Job
    device: Device
    settings: PlanSettings
    flops: Flops
    memory: Memory
    usable_bytes: int

    @property
    def fits(self) -> bool:
        """Whether a step finds the memory it needs."""
        return self.memory.total <= self.usable_bytes

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
    """Most rows per forward pass and device that fit and divide the batch; None: not even one."""
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
