"""Which kernel is used."""

import functools
import warnings
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from illada_lab.models.kernels.dense import BySize, Plain, Sdpa
from illada_lab.models.kernels.flex import Flex
from illada_lab.models.kernels.kernel import Kernel, Need, outside_of_graphs
from illada_lab.models.kernels.say import say_once
from illada_lab.models.kernels.sight import Sight
from illada_lab.models.kernels.varlen import Flash2, Flash3, OnCuda, TorchVarlen, WholeRowsDense

Attention = Literal["auto", "flash", "varlen", "flex", "sdpa", "plain"]
ATTENTION: tuple[str, ...] = ("auto", "flash", "varlen", "flex", "sdpa", "plain")

KERNELS: dict[str, tuple[Kernel, ...]] = {
    "flash": (Flash3(), Flash2()),
    "varlen": (TorchVarlen(),),
    "flex": (Flex(),),
    "sdpa": (Sdpa(),),
    "plain": (Plain(),),
}
"""Name of a choice -> the kernels it stands for, best first."""

# Fastest first where they run. Flex is not among them: it compiles for minutes, and is no faster for segments. Our choice.
ORDER = ("flash", "varlen", "sdpa")

# bf16 has 8 bits: two roundings of numbers near 1, and a softmax between them.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}


@outside_of_graphs
def choose(name: str, need: Need) -> Kernel:
    """The kernel for a name: itself where it runs, else the next best, which is said once.

    Args:
        name: one of `ATTENTION`; "auto" takes the fastest that runs.
        need: what it must take.

    Raises:
        ValueError: there is no such name.
    """
    if name not in ATTENTION:
        raise ValueError(f"attention = {name}; there is no such kernel; one of {', '.join(ATTENTION)}")
    return _choose(name, need)


@functools.cache
def _choose(name: str, need: Need) -> Kernel:
    if name == "auto" and need.device.type == "cpu" and need.dtype == torch.bfloat16:
        return BySize()
    wanted = ORDER if name == "auto" else (name,)
    kernel, problems = _first(wanted, need)
    if kernel is None:
        kernel, _ = _first(ORDER, need)
    assert kernel is not None, "sdpa runs everywhere"
    # On a CPU sdpa is no second best: torch has no variable-length kernel for it.
    if problems and (name != "auto" or need.device.type == "cuda"):
        say_once(f"attention = {name}; {'; '.join(problems)}; {kernel.name} is used instead")
    if name == "auto" and _has_faster_dense(kernel, need.device):
        assert isinstance(kernel, OnCuda)
        return WholeRowsDense(kernel)
    return kernel


def _has_faster_dense(kernel: Kernel, device: torch.device) -> bool:
    """From Hopper on torch has cuDNN's attention for whole rows, about twice as fast as FlashAttention 2."""
    is_second = isinstance(kernel, OnCuda) and not isinstance(kernel, Flash3)
    return is_second and torch.cuda.get_device_capability(device) >= (9, 0)


def _first(names: Iterable[str], need: Need) -> tuple[Kernel | None, list[str]]:
    """The first kernel that runs, and what is wrong with those before it."""
    problems = []
    for kernel in (kernel for name in names for kernel in KERNELS[name]):
        problem = kernel.problem(need)
        if problem is None and _must_be_tried(kernel, need):
            problem = trial(kernel, need)
        if problem is None:
            return kernel, problems
        problems.append(f"{kernel.name} {problem}")
    return None, problems


def _must_be_tried(kernel: Kernel, need: Need) -> bool:
    """A package may be there and still not run: built for another torch, or for another device."""
    return need.device.type == "cuda" and isinstance(kernel, OnCuda)


@functools.cache
def trial(kernel: Kernel, need: Need) -> str | None:
    """Run a kernel on two segments with grouped queries, against plain arithmetic in float32.

    Args:
        kernel: which.
        need: device, precision, head size and sight; whether the backward pass is tried too.

    Returns:
        None: it gives the right answer. Else what is wrong, in a line.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, heads, 48, need.head_size) for heads in (4, 2, 2, 4)]
    with torch.inference_mode(False):
        *qkv, weight = (torch.randn(shape, generator=generator).to(need.device, need.dtype) for shape in shapes)
        ids = torch.tensor([1] * 16 + [2] * 32, device=need.device)[None]
    sight = Sight(ids, need.causal_block)
    try:
        # Whatever the caller is in the middle of: a pass in inference mode, under autocast.
        with torch.inference_mode(False), torch.autocast(need.device.type, enabled=False), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Compiling takes a minute and has its own tests.
            with torch.compiler.set_stance("force_eager"):
                found = _run(kernel, sight, qkv, weight, need.needs_gradient)
            expected = _run(Plain(), sight, [x.float() for x in qkv], weight.float(), need.needs_gradient)
    except Exception as error:  # any failure of a kernel is an answer here
        return "fails: " + ((str(error).strip().splitlines() or [type(error).__name__])[0])[:120]
    # A tensor's maximum keeps a NaN, Python's does not.
    worst = float(torch.stack([(a.float() - b).abs().max() for a, b in zip(found, expected, strict=True)]).max())
    # A gradient sums over up to 32 positions and reaches a few times the size of an output.
    limit = (4 if need.needs_gradient else 1) * TOLERANCE.get(need.dtype, 1e-5)
    return None if worst < limit else f"is wrong by {worst:.2g} (at most {limit:.2g} in {need.dtype})"


def _run(kernel: Kernel, sight: Sight, qkv: list[Tensor], weight: Tensor, has_gradient: bool) -> list[Tensor]:
    """Output, and with `has_gradient` the gradients of its weighted sum."""
    with torch.set_grad_enabled(has_gradient):
        inputs = [x.detach().requires_grad_(has_gradient) for x in qkv]
        out = kernel.view(sight)(*inputs)
        return [out.detach(), *torch.autograd.grad((out * weight).sum(), inputs)] if has_gradient else [out]
