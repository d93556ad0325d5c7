"""One training step taken apart: speed, use of the machine, memory, and where the time goes."""

import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from illada_lab.data.batch import Batch
from illada_lab.diffusion import RowRandom
from illada_lab.models import MaskPredictor
from illada_lab.models.kernels import Need, choose
from illada_lab.objectives import Pretrain, RandomCut
from illada_lab.tokens import ILLADA
from illada_lab.training.allocator import keep_freed_memory
from illada_lab.training.distributed.sharding import Recomputed, recompute
from illada_lab.training.machine import matmul_rate
from illada_lab.training.optim import adamw

MAX_NORM, LR, CUT_PROBABILITY = 1.0, 3e-4, 0.3
# The shape for CPUs; every other shape is a scale of conf/.
ABOUT_30M: dict[str, Any] = dict(
    vocab_size=8192, d_model=512, n_layers=8, n_heads=8, n_kv_heads=2, d_ffn=1536, max_length=512, is_tied=True
)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is measured.

    Attributes:
        name: of the scale.
        sizes: of the model.
        n_rows, length: of a batch.
        precision: "32-true", "bf16-mixed" (float32 weights) or "bf16-true" (bf16 weights and moments).
        is_compiled: layers and loss.
        recomputed: what is computed again in the backward pass, see `training.distributed.sharding.recompute`.
        attention: see `MaskPredictor.use_attention`.
        device: where.
    """

    name: str
    sizes: dict[str, Any]
    n_rows: int
    length: int
    precision: str
    is_compiled: bool
    recomputed: Recomputed
    attention: str
    device: str


@dataclass
class Clock:
    """Seconds of the parts of steps; waits for the device at every boundary."""

    device: str
    parts: dict[str, list[float]] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a part."""
        self.wait()
        start = time.perf_counter()
        yield
        self.wait()
        self.parts.setdefault(name, []).append(time.perf_counter() - start)

    def wait(self) -> None:
        """For what the device still has to do."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def shape_of(scale: str) -> tuple[dict[str, Any], int, int]:
    """Sizes, rows per forward pass and length of a scale; "30m" or one of conf/scale."""
    if scale == "30m":
        return ABOUT_30M, 8, 512
    from illada_lab.config import compose, to_plain

    config: Any = to_plain(compose([f"scale={scale}"]))
    sizes = {key: value for key, value in config["model"].items() if not key.startswith("_")}
    sizes["vocab_size"] = sizes["vocab_size"] or config["scale"]["vocab_size"]
    rows = config["scale"]["micro_batch_size"] or config["scale"]["batch_size"]
    return sizes, rows, config["scale"]["length"]


def random_batch(i: int, setting: Setting) -> Batch:
    """Whole rows of random tokens, made on the host and moved."""
    generator = torch.Generator().manual_seed(i)
    shape = (setting.n_rows, setting.length)
    return Batch(
        tokens=torch.randint(7, setting.sizes["vocab_size"], shape, generator=generator),
        segment_ids=torch.ones(shape, dtype=torch.long),
        is_prompt=torch.zeros(shape, dtype=torch.bool),
        index=torch.arange(setting.n_rows) + i * setting.n_rows,
    ).to(setting.device)


def build(setting: Setting) -> MaskPredictor:
    """The model, its weights made where they are used."""
    with torch.device(setting.device):
        model = MaskPredictor(tokens=ILLADA, **setting.sizes).train()
    if setting.precision == "bf16-true":
        model.to(torch.bfloat16)
    model.use_attention(setting.attention)
    if setting.is_compiled:
        model.compile_parts()
    recompute(model, setting.recomputed)
    return model


def autocast(setting: Setting) -> Any:
    """The context of the forward pass."""
    is_mixed = setting.precision == "bf16-mixed"
    return torch.autocast(setting.device, dtype=torch.bfloat16) if is_mixed else nullcontext()


def stepper(setting: Setting, model: MaskPredictor, clock: Clock) -> Callable[[int], int]:
    """A function that does step i and returns how many positions it predicted."""
    optimizer, objective = adamw(model, lr=LR), Pretrain(shorten=RandomCut(probability=CUT_PROBABILITY))

    def step(i: int) -> int:
        with clock.part("data"):
            batch = random_batch(i, setting)
        with clock.part("forward"), autocast(setting):
            loss = objective(model, batch, RowRandom(0, batch.index))
        with clock.part("backward"):
            loss.value.backward()
        with clock.part("optimiser"):
            torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
            optimizer.step()
            optimizer.zero_grad()
        return loss.n_predicted

    return step


def head_seconds(setting: Setting, model: MaskPredictor, n_predicted: int, rounds: int) -> float:
    """Seconds of the head and the loss alone, forward and backward, at as many positions as a step predicts."""
    clock = Clock(setting.device)
    weight = model.head_weight
    h = torch.randn(n_predicted, weight.shape[1], device=weight.device, dtype=weight.dtype, requires_grad=True)
    targets = torch.randint(7, weight.shape[0], (n_predicted,), device=weight.device)
    for _ in range(rounds + 1):
        with clock.part("head"), autocast(setting):
            model.token_losses(h, targets).sum().backward()
        h.grad = weight.grad = None
    return statistics.median(clock.parts["head"][1:])


def peak_bytes(device: str) -> int:
    """Most memory held so far: of the device, or of this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    # Kilobytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure_step(setting: Setting, rounds: int, n_warm_up: int = 4) -> dict[str, Any]:
    """Speed, use, memory and time split of a step, medians over rounds.

    Args:
        setting: what is measured.
        rounds: measured steps.
        n_warm_up: steps before them; rows come with and without a cut, and both are compiled in them.
    """
    if setting.device == "cpu":
        keep_freed_memory()  # as `illada-lab train` does on a CPU
    precision = "float32" if setting.precision == "32-true" else "bf16"
    peak = matmul_rate(setting.device, precision)
    model, clock = build(setting), Clock(setting.device)
    step = stepper(setting, model, clock)
    for i in range(n_warm_up):
        step(i)
    clock.parts.clear()
    n_predicted = [step(n_warm_up + i) for i in range(rounds)]
    per_step = [sum(parts) for parts in zip(*clock.parts.values(), strict=True)]
    seconds, n_tokens = statistics.median(per_step), setting.n_rows * setting.length
    memory = peak_bytes(setting.device)
    head = head_seconds(setting, model, round(statistics.mean(n_predicted)), min(rounds, 5))
    # A device that had been idle is slow at first: its rate is the higher of before and after.
    matmul_rate.cache_clear()
    peak = max(peak, matmul_rate(setting.device, precision))
    share_predicted = statistics.mean(n_predicted) / n_tokens
    flops = model.spec.flops_per_token(setting.length, share_predicted)
    dtype = torch.float32 if setting.precision == "32-true" else torch.bfloat16
    return {
        "scale": setting.name,
        "parameters": model.spec.n_parameters,
        "sizes": setting.sizes,
        "rows": setting.n_rows,
        "length": setting.length,
        "precision": setting.precision,
        "is_compiled": setting.is_compiled,
        "recomputed": setting.recomputed,
        "attention": choose(setting.attention, Need(torch.device(setting.device), dtype, model.spec.head_size)).name,
        "matmul_peak_flops": peak,
        "flops_per_token": flops,
        "share_predicted": share_predicted,
        "seconds_per_step": seconds,
        "seconds_fastest": min(per_step),
        "seconds_slowest": max(per_step),
        "tokens_per_second": n_tokens / seconds,
        "mfu": n_tokens / seconds * flops / peak,
        "mfu_of_fastest": n_tokens / min(per_step) * flops / peak,
        "peak_bytes": memory,
        "seconds": {name: statistics.median(parts) for name, parts in clock.parts.items()},
        "seconds_head_and_loss": head,
        "head_and_loss_share": head / seconds,
    }
