"""A training step on tensors without data: what it allocates, at any size, in seconds and without the memory."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer

from illada_lab.models import MaskPredictor, ModelSpec, head_loss
from illada_lab.models.lora import Lora
from illada_lab.objectives import cross_entropy_at
from illada_lab.planner.compiled import as_compiled
from illada_lab.planner.gathered import Gathered
from illada_lab.planner.ledger import FLOAT32, ExpectedCount, Ledger
from illada_lab.tokens import ILLADA
from illada_lab.training import muon
from illada_lab.training.distributed.sharding import Recomputed, recompute

WEIGHTS, GRADIENTS, OPTIMISER = "weights", "gradients", "optimiser"
ACTIVATIONS, HEAD, BUFFERS = "activations", "head", "buffers"
LASTING = (WEIGHTS, GRADIENTS, OPTIMISER)
PARTS = (*LASTING, ACTIVATIONS, HEAD, BUFFERS)


@dataclass(frozen=True, kw_only=True)
class Step:
    """What decides the memory of a training step on one device.

    Args:
        spec: the model.
        n_rows: rows per forward pass.
        length: tokens per row.
        optim: predictor -> optimiser, as a YAML of conf/optim builds it.
        precision: Lightning's name; with bf16-mixed weights are float32 and products run in bf16.
        share_predicted: share of the positions the head is applied to; None: `largest_share`.
        recomputed: activations computed again in the backward pass, see `recompute`.
        keeps_gradients: gradients stay between the passes: several are accumulated, or DDP's buckets hold them.
        attention: kernel, as `trainer.attention` names it.
        is_on_cpu: kernels and masks of a CPU; otherwise those of a GPU.
        is_compiled: layers and loss are compiled, and keep less.
        is_sharded: FSDP2's view of a layer: its weights arrive in the precision of the products (see `planner.gathered`), and are not
            autocast's copies. Gradients outside of the layers are buffers: they are whole until the backward pass is over. Without
            the update (see `rehearse_sharded_update`), which sees parts in float32.
        lora: adapters, where only they are trained.
    """

    spec: ModelSpec
    n_rows: int
    length: int
    optim: Callable[[MaskPredictor], Optimizer]
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    share_predicted: float | None = None
    recomputed: Recomputed = None
    keeps_gradients: bool = False
    attention: str = "auto"
    is_on_cpu: bool = False
    is_compiled: bool = False
    is_sharded: bool = False
    lora: Lora | None = None

    @property
    def n_predicted(self) -> int:
        """Positions the head is applied to."""
        share = largest_share(self.spec, self.n_rows) if self.share_predicted is None else self.share_predicted
        return max(1, round(share * self.n_rows * self.length))


@dataclass(frozen=True)
class Rehearsal:
    """Bytes by part (`PARTS`) at the fullest moments of a step.

    Attributes:
        passes: forward and backward pass, everything counted.
        forward, backward: of a sharded step, when what does not outlive it was most; the last step's gradients are there until the
            backward pass begins, if they are not kept.
        update: clipping and optimiser; empty where that is not rehearsed.
    """

    passes: Counter[str]
    forward: Counter[str]
    backward: Counter[str]
    update: Counter[str]

    @property
    def peak(self) -> Counter[str]:
        """The fuller of the two."""
        return max(self.passes, self.update, key=Counter.total)


def largest_share(spec: ModelSpec, n_rows: int) -> float:
    """Largest share of the positions that are predicted in a pass; all of them by the autoregressive twin.

    Of 2^k rows whose t is stratified at most 1/2 + 1/2^(k + 1) are masked on average (see `StratifiedTimes`); other numbers of rows fall
    into several such blocks.
    """
    return min(1.0, spec.share_predicted + 0.5 * _n_blocks(n_rows) / n_rows)


@cache
def _n_blocks(n_rows: int, group_size: int = 64) -> int:
    """Blocks of evenly spread rows, 2^k from a multiple of 2^k on, that a batch falls into, in the worst place it can stand."""
    most = 0
    for first in range(0, n_rows * group_size, n_rows):
        n, place = 0, first
        while place < first + n_rows:
            size = min(group_size, place & -place or group_size)
            while place + size > first + n_rows:
                size //= 2
            n, place = n + 1, place + size
        most = max(most, n)
    return most


@cache
def rehearse(step: Step) -> Rehearsal:
    """Run forward pass, backward pass and update on fake tensors, as they come after many others, and keep books.

    Source: our choice: running the code that trains, because formulas of activation memory drift away from it.
    """
    shapes = _shapes(step)
    with _books(step) as ledger:
        predictor = _predictor(step, shapes)
        for parameter in _trained(predictor.layers if step.is_sharded else predictor):
            # A gradient is one as soon as it is there, not only when the pass is over.
            parameter.register_post_accumulate_grad_hook(lambda p: ledger.relabel([p.grad], GRADIENTS))
        # Behind the last norm comes the head.
        predictor.norm.register_forward_hook(lambda *_: setattr(ledger, "label", ledger.label and HEAD))
        optimizer = step.optim(predictor)
        _prepare(step, predictor, optimizer, ledger)
        return _run(step, predictor, optimizer, ledger)


@cache
def rehearse_sharded_update(step: Step) -> Counter[str]:
    """The optimiser's update where parameters are spread over devices, every one of them counted whole.

    Each parameter is updated alone. AdamW takes parts, and no memory but its state; Muon gathers one matrix after the other.

    Args:
        step: of its rows nothing depends.

    Returns:
        Bytes by part: weights and the optimiser's state, and as `BUFFERS` what the greediest parameter takes for a while.
    """
    step = replace(step, is_sharded=False, is_compiled=False)  # the optimiser sees float32 parameters
    shapes = _shapes(step)
    with _books(step) as ledger:
        predictor = _predictor(step, shapes)
        optimizer = step.optim(predictor)
        # What they take hangs on their shape alone, and on who updates them.
        one_of_each = [p for group in optimizer.param_groups for p in {p.shape: p for p in group["params"]}.values()]
        _make_state(predictor, optimizer, ledger)
        optimizer.zero_grad()
        ledger.reset_peak()
        for parameter in one_of_each:
            ledger.label = GRADIENTS
            parameter.grad = torch.empty_like(parameter)
            ledger.label = BUFFERS
            optimizer.step()
            parameter.grad = None
        peak = ledger.passing_peak
    return Counter({part: peak[part] for part in (WEIGHTS, OPTIMISER, BUFFERS)})


@contextmanager
def _books(step: Step) -> Iterator[Ledger]:
    """Fake tensors, and books that begin with the weights."""
    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode())
        stack.enter_context(_few_slices())
        ledger = stack.enter_context(Ledger(lasting=LASTING))
        stack.enter_context(ExpectedCount(step.n_predicted))
        if not step.is_on_cpu:
            stack.enter_context(_muon_of_a_gpu(ledger))
        ledger.label = WEIGHTS
        yield ledger


@contextmanager
def _muon_of_a_gpu(ledger: Ledger) -> Iterator[None]:
    """Muon computes in bf16 on anything but a CPU, whose tensors the fake ones are; those without a device count the same."""
    every = muon.orthogonalise

    def elsewhere(update: Tensor) -> Tensor:
        label, ledger.label = ledger.label, None  # the update itself is in the books
        update_elsewhere = torch.empty_like(update, device="meta")
        ledger.label = label
        every(update_elsewhere)
        return torch.empty_like(update)

    muon.orthogonalise = elsewhere
    try:
        yield
    finally:
        muon.orthogonalise = every


@contextmanager
def _few_slices() -> Iterator[None]:
    """Behind the head go the first slices of the vocabulary and the last; each of the hundreds between them takes what the third does."""
    every = head_loss.slices

    def few(weight: Tensor, size: int, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
        starts = range(0, len(weight), size)
        for start in sorted({*starts[:3], *starts[-1:]}):
            yield start, weight[start : start + size].to(dtype)

    head_loss.slices = few
    try:
        yield
    finally:
        head_loss.slices = every


def _shapes(step: Step) -> MaskPredictor:
    """The model on the meta device, where peft can do its work; it moves adapters about, which fake tensors do not let it do."""
    with torch.device("meta"):
        predictor = MaskPredictor(tokens=ILLADA, **asdict(step.spec))
        return predictor if step.lora is None else step.lora.add_to(predictor)


def _predictor(step: Step, predictor: MaskPredictor) -> MaskPredictor:
    """The model with tensors of these shapes, as a run has it."""
    predictor.train()
    for part in predictor.modules():
        for name, weight in list(part.named_parameters(recurse=False)):
            fake = torch.empty(weight.shape, dtype=weight.dtype)
            setattr(part, name, nn.Parameter(fake, requires_grad=weight.requires_grad))
    if step.is_on_cpu:
        predictor.use_attention(step.attention)
    else:
        # Fused kernels keep the same: their outcome, and one float32 number per query and head.
        predictor.use_attention("plain" if step.attention == "plain" else "sdpa")
    if step.is_compiled:
        as_compiled(predictor)
    if step.is_sharded and step.precision == "bf16-mixed":
        for module in predictor.layers.modules():
            # `module.to` swaps tensors in place, which fake ones do not let it do.
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(parameter.detach().to(torch.bfloat16)))
    return predictor


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _prepare(step: Step, predictor: MaskPredictor, optimizer: Optimizer, ledger: Ledger) -> None:
    """What is there before any step but the first: traced layers, the last step's gradients, the optimiser's state."""
    if step.is_compiled:
        ledger.label = None  # a trace keeps some of what it was made with
        layers, predictor.layers = predictor.layers, predictor.layers[:1]  # they share what is traced
        _loss(step, predictor).backward()
        predictor.layers = layers
    # Not before: tracing does not go into a checkpoint.
    recompute(predictor, step.recomputed)
    if step.is_sharded:
        _make_gradients(predictor, ledger)
        arriving = torch.bfloat16.itemsize if step.precision == "bf16-mixed" else FLOAT32
        Gathered(ledger, BUFFERS, step.spec.n_layer_parameters, arriving).watch(predictor.layers)
    else:
        _make_state(predictor, optimizer, ledger)


def _make_gradients(predictor: MaskPredictor, ledger: Ledger) -> None:
    ledger.label = GRADIENTS
    for parameter in _trained(predictor):
        parameter.grad = torch.empty_like(parameter)
    ledger.label = BUFFERS


def _make_state(predictor: MaskPredictor, optimizer: Optimizer, ledger: Ledger) -> None:
    """The optimiser's, as the first step leaves it."""
    _make_gradients(predictor, ledger)
    optimizer.step()
    ledger.relabel_all(BUFFERS, OPTIMISER)


def _loss(step: Step, predictor: MaskPredictor) -> Tensor:
    """Of a batch of the step's size."""
    shape = (step.n_rows, step.length)
    tokens = torch.empty(shape, dtype=torch.long)
    # Kernels of GPUs are told where segments end; on a CPU a mask keeps them apart.
    segment_ids = torch.empty(shape, dtype=torch.long) if step.is_on_cpu else None
    is_masked = torch.empty(shape, dtype=torch.bool)
    is_bf16 = step.precision == "bf16-mixed"
    with torch.autocast("cpu", dtype=torch.bfloat16) if is_bf16 else nullcontext():
        return cross_entropy_at(predictor, tokens, tokens, is_masked, segment_ids).sum()


def _run(step: Step, predictor: MaskPredictor, optimizer: Optimizer, ledger: Ledger) -> Rehearsal:
    """One step in Lightning's order: forward, drop the old gradients, backward, clip, update."""
    ledger.reset_peak()
    ledger.label = ACTIVATIONS
    loss = _loss(step, predictor)
    if step.is_sharded or not step.keeps_gradients:  # sharded: parts are kept, and what is whole comes anew
        optimizer.zero_grad()
    ledger.label = BUFFERS
    if step.is_sharded:
        forward = ledger.passing_peak
        ledger.reset_peak()
        loss.backward()
        return Rehearsal(ledger.peak, forward, ledger.passing_peak, Counter())
    loss.backward()
    passes = ledger.peak
    del loss
    ledger.reset_peak()
    torch.nn.utils.clip_grad_norm_(predictor.parameters(), 1.0)
    ledger.relabel_all(BUFFERS, "before the update")  # the norm: what appears from here on and stays is the optimiser's
    optimizer.step()
    ledger.relabel_all(BUFFERS, OPTIMISER)
    return Rehearsal(passes, Counter(), Counter(), ledger.peak)
