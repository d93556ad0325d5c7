"""How a run uses the machine: what a file in conf/trainer/ says, and what it comes to here."""

from dataclasses import dataclass
from typing import Any, Literal

import torch

from illada_lab.config.across import remainder
from illada_lab.models.kernels import Attention
from illada_lab.training.machine import best_precision, can_compile

# Compiling costs 10 to 30 s on a CPU and saves up to half of a step: below this many steps it does not pay.
MIN_STEPS_TO_COMPILE = 300
COUNTS = (
    "max_steps",
    "devices",
    "n_nodes",
    "tensor_parallel",
    "validate_every",
    "save_every",
    "log_every",
    "n_validation_draws",
)


@dataclass(kw_only=True)
class TrainerSettings:
    """How a run uses the machine; what Lightning's Trainer is made from.

    Args:
        max_steps: optimiser steps.
        max_norm: gradients are scaled down to this norm, above 0; None: never.
        accelerator: cpu, cuda or auto.
        devices: devices, and so processes, of each node.
        n_nodes: machines.
        strategy: auto (one device, or ddp on several); ddp: the model whole on each device; fsdp: parameters, gradients and
            optimiser's state spread over the devices; fsdp_tp: and each layer's products over `tensor_parallel` of them.
        tensor_parallel: devices that share each layer; fsdp_tp only.
        precision: "auto" takes bf16 where the device has units for it, "32-true" or "bf16-mixed" say it. Weights and the optimiser's state
            are float32 in both.
        activation_checkpointing: None: activations stay in memory; k: those inside every k-th layer are computed again in the backward
            pass (1: in every layer); "ops": all but attention's outcome and every second matrix product of each layer.
        is_compiled: compile the layers; None: where a compiler is there and the run is long.
        attention: kernel of attention; "auto" takes the fastest that runs here (`illada-lab doctor` tells which). One that does not run is
            replaced by the next best, and that is said once.
        validate_every: optimiser steps between validations; None: at the end only.
        save_every: optimiser steps between checkpoints; None: at the end only.
        save_minutes: a checkpoint is due as well where the last one is so old; None: by steps alone.
        keeps_before_decay: keep the checkpoint at which the decay of the learning rate begins, for other decays and longer runs.
        keeps_best: keep the checkpoint with the lowest validation loss so far, as `best.ckpt`.
        is_async_save: go on training while a checkpoint is written; fsdp and fsdp_tp only.
        timeout_minutes: a process that does not answer for so long ends the run.
        log_every: optimiser steps between records of the loss.
        n_validation_draws: mask sets per validation document.
        ema_decay: decay of an exponential moving average of the weights; None: none.
    """

    max_steps: int
    max_norm: float | None = 1.0
    accelerator: Literal["auto", "cpu", "gpu", "cuda"] = "auto"
    devices: int = 1
    n_nodes: int = 1
    strategy: Literal["auto", "ddp", "fsdp", "fsdp_tp"] = "auto"
    tensor_parallel: int = 1
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    activation_checkpointing: int | Literal["ops"] | None = None
    is_compiled: bool | None = None
    attention: Attention = "auto"
    validate_every: int | None = None
    save_every: int | None = None
    save_minutes: float | None = None
    keeps_before_decay: bool = False
    keeps_best: bool = False
    is_async_save: bool = False
    timeout_minutes: float = 30.0
    log_every: int = 10
    n_validation_draws: int = 4
    ema_decay: float | None = None

    @property
    def world_size(self) -> int:
        """Processes of the run."""
        return self.devices * self.n_nodes

    @property
    def n_replicas(self) -> int:
        """Processes, or groups of them, that see different rows of a batch."""
        return self.world_size // self.tensor_parallel

    @property
    def is_sharded(self) -> bool:
        """Whether no device holds the whole model."""
        return self.strategy.startswith("fsdp")

    @staticmethod
    def check_config(**values: Any) -> list[str]:
        """Problems of a set of arguments, for `illada_lab.config.check`."""
        found = []
        for key in COUNTS:
            value = values.get(key)
            if value is not None and value < 1:
                found.append(f"{key} = {value}; counts from 1; 1 or more")
        if (norm := values.get("max_norm")) is not None and not norm > 0:
            found.append(f"max_norm = {norm}; gradients are scaled down to this norm; above 0, or null")
        if (decay := values.get("ema_decay")) is not None and not 0 < decay < 1:
            found.append(f"ema_decay = {decay}; above 0, below 1; for example 0.999")
        if (k := values.get("activation_checkpointing")) is not None and k != "ops" and k < 1:
            found.append(f"activation_checkpointing = {k}; every k-th layer; null, 1 or more, or ops")
        if (minutes := values.get("save_minutes")) is not None and not minutes > 0:
            found.append(f"save_minutes = {minutes}; the age at which a checkpoint is replaced; above 0, or null")
        if (minutes := values.get("timeout_minutes", 1)) <= 0:
            found.append(f"timeout_minutes = {minutes}; how long a process may be silent; above 0, for example 30")
        return found or _parallel_problems(values)


def _parallel_problems(values: dict[str, Any]) -> list[str]:
    strategy, devices = values.get("strategy", "auto"), values.get("devices", 1)
    shared = values.get("tensor_parallel", 1)
    found = []
    if shared > 1 and strategy != "fsdp_tp":
        found.append(f"tensor_parallel = {shared}; strategy={strategy} does not split layers; 1, or strategy=fsdp_tp")
    if strategy == "fsdp_tp" and (shared < 2 or devices % shared):
        nearest = [n for n in range(2, devices + 1) if devices % n == 0]
        hint = " or ".join(map(str, nearest)) or "devices=2 or more"
        found.append(f"tensor_parallel = {shared}; must divide devices = {devices}, 2 or more; {hint}")
    if values.get("is_async_save") and not strategy.startswith("fsdp"):
        found.append(f"is_async_save = true; strategy={strategy} writes one file at once; false, or strategy=fsdp")
    if values.get("ema_decay") is not None and strategy.startswith("fsdp"):
        found.append(f"ema_decay = {values['ema_decay']}; the average is not sharded; null, or strategy=ddp")
    return found


@dataclass(frozen=True)
class Resolved:
    """What the settings come to on this machine, for this data.

    Attributes:
        device: kind of device.
        precision: Lightning's name.
        is_compiled: whether layers are compiled.
        accumulate: forward passes of each device per optimiser step.
    """

    device: torch.device
    precision: str
    is_compiled: bool
    accumulate: int

    @property
    def is_bf16(self) -> bool:
        """Whether products are computed in bf16."""
        return "bf16" in self.precision


def resolve(settings: TrainerSettings, *, batch_size: int, micro_batch_size: int | None) -> Resolved:
    """Look at the machine and at the batch.

    Raises:
        ValueError: no compiler, too few devices, or a batch that does not divide.
    """
    device = find_device(settings.accelerator)
    if device.type == "cuda" and settings.devices > torch.cuda.device_count():
        here = torch.cuda.device_count()
        raise ValueError(f"trainer.devices = {settings.devices}; this machine has {here}; at most {here}")
    is_compiled = settings.is_compiled
    if is_compiled is None:
        is_compiled = settings.max_steps >= MIN_STEPS_TO_COMPILE and can_compile(device)
    elif is_compiled and not can_compile(device):
        raise ValueError("trainer.is_compiled = true; there is no C++ compiler here; install one (g++), or false")
    per_pass = (micro_batch_size or 1) * settings.n_replicas
    if problems := remainder(batch_size, per_pass):
        raise ValueError(problems[0])
    precision = best_precision(device) if settings.precision == "auto" else settings.precision
    return Resolved(device, precision, is_compiled, batch_size // per_pass if micro_batch_size else 1)


def find_device(accelerator: str) -> torch.device:
    """Kind of device that a choice of accelerator means here.

    Raises:
        ValueError: one is asked for by its name that this machine does not have.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.device("cuda")
    if accelerator == "mps":
        raise ValueError("trainer.accelerator = mps; masks and draws are made in float64, which Apple's GPU lacks; cpu")
    if accelerator not in ("auto", "cpu"):
        raise ValueError(f"trainer.accelerator = {accelerator}; this machine has none that can be used; auto or cpu")
    return torch.device("cpu")
