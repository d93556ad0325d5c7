"""The part of a configured run that a plan depends on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig
from torch.optim import Optimizer

from illada_lab.config import build
from illada_lab.models import MaskPredictor, ModelSpec
from illada_lab.models.lora import Lora
from illada_lab.planner.devices import Device
from illada_lab.planner.settings import PlanSettings
from illada_lab.planner.size import model_spec
from illada_lab.training.distributed.sharding import Recomputed
from illada_lab.training.settings import MIN_STEPS_TO_COMPILE


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training run as a plan sees it.

    Args:
        scale: its name.
        spec: the model.
        length: tokens per row.
        batch_size: rows per optimiser step.
        micro_batch_size: rows per forward pass and device.
        n_tokens: tokens of the whole run.
        optim: predictor -> optimiser.
        precision: Lightning's name.
        devices: of each node.
        n_nodes: machines.
        strategy: auto, ddp, fsdp or fsdp_tp, see conf/trainer/.
        tensor_parallel: devices that share each layer.
        recomputed: activations computed again in the backward pass.
        attention: kernel.
        is_compiled: layers and loss are compiled.
        has_ema: a second copy of the weights is averaged.
        lora: adapters, where only they are trained.
    """

    scale: str
    spec: ModelSpec
    length: int
    batch_size: int
    micro_batch_size: int
    n_tokens: int | float
    optim: Callable[[MaskPredictor], Optimizer]
    precision: str
    devices: int = 1
    n_nodes: int = 1
    strategy: str = "auto"
    tensor_parallel: int = 1
    recomputed: Recomputed = None
    attention: str = "auto"
    is_compiled: bool = False
    has_ema: bool = False
    lora: Lora | None = None

    @property
    def world_size(self) -> int:
        """Devices of the run."""
        return self.devices * self.n_nodes

    @property
    def n_replicas(self) -> int:
        """Devices, or groups of them, that see different rows."""
        return self.world_size // self.tensor_parallel

    @property
    def is_sharded(self) -> bool:
        """Whether no device holds the whole model."""
        return self.strategy.startswith("fsdp")

    @property
    def keeps_gradients(self) -> bool:
        """Whether gradients stay in memory between passes: several are accumulated, or DDP's buckets hold them."""
        return self.batch_size > self.micro_batch_size * self.n_replicas or (
            self.world_size > 1 and not self.is_sharded
        )

    @property
    def micro_batch_sizes(self) -> list[int]:
        """Rows per forward pass that divide the batch, the smallest first."""
        rows = self.batch_size // self.n_replicas
        return [n for n in range(1, rows + 1) if rows % n == 0]


def job(config: DictConfig, settings: PlanSettings, device: Device) -> Job:
    """Read a composed configuration.

    Args:
        config: composed and checked.
        settings: the token budget, if it is not that of the run.
        device: decides what precision=auto is.

    Raises:
        ValueError: more devices than rows.
    """
    trainer, data = config.trainer, config.data
    strategy = str(trainer.get("strategy") or "auto")
    found = Job(
        scale=str(config.scale.name),
        spec=model_spec(config),
        length=data.length,
        batch_size=data.batch_size,
        micro_batch_size=data.micro_batch_size or _whole(data.batch_size, trainer),
        n_tokens=settings.n_tokens or trainer.max_steps * data.batch_size * data.length,
        optim=build(config.optim),
        precision=device.resolve_precision(trainer.precision),
        devices=trainer.devices,
        n_nodes=trainer.get("n_nodes", 1),
        strategy=strategy,
        tensor_parallel=trainer.get("tensor_parallel", 1),
        recomputed=trainer.get("activation_checkpointing"),
        attention=trainer.attention,
        is_compiled=_is_compiled(trainer),
        has_ema=trainer.get("ema_decay") is not None,
        lora=None if config.get("lora") is None else build(config.lora),
    )
    if not found.micro_batch_sizes:
        raise ValueError(
            f"trainer.devices = {found.devices}; more than rows in a batch; at most {found.batch_size}, or a larger scale.batch_size"
        )
    return found


def _whole(batch_size: int, trainer: Any) -> int:
    """Rows per device when nothing else is said: all of the batch."""
    n_replicas = trainer.devices * trainer.get("n_nodes", 1) // trainer.get("tensor_parallel", 1)
    return max(1, batch_size // n_replicas)


def _is_compiled(trainer: Any) -> bool:
    """As the run decides it where there is a compiler."""
    said = trainer.get("is_compiled")
    return trainer.max_steps >= MIN_STEPS_TO_COMPILE if said is None else bool(said)
