"""The norm of all gradients, whole or sharded, on one mesh or on two."""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


def meshes(parameters: Iterable[Tensor]) -> dict[object, list[Tensor]]:
    """Parameters by the device mesh they lie on (None: whole). Fused kernels take a list on one mesh only."""
    found: dict[object, list[Tensor]] = defaultdict(list)
    for p in parameters:
        found[p.device_mesh if isinstance(p, DTensor) else None].append(p)
    return found


@torch.no_grad()
def total_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Euclidean norm of all gradients together, the same in every process.

    `torch.nn.utils.clip_grad_norm_` refuses parameters on different meshes, which tensor parallelism makes.
    """
    norms = []
    for alike in meshes(p for p in parameters if p.grad is not None).values():
        norm = torch.nn.utils.get_total_norm([p.grad for p in alike if p.grad is not None])
        norms.append(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))


def clip(parameters: Iterable[Tensor], max_norm: float, norm: Tensor) -> None:
    """Scale gradients down to `max_norm`, given their norm; the arithmetic of `torch.nn.utils.clip_grad_norm_`."""
    scale(parameters, float((max_norm / (norm + 1e-6)).clamp(max=1.0)))


@torch.no_grad()
def scale(parameters: Iterable[Tensor], factor: float) -> None:
    """Multiply all gradients by a number."""
    if factor == 1.0:
        return
    for alike in meshes(p for p in parameters if p.grad is not None).values():
        torch._foreach_mul_([p.grad for p in alike if p.grad is not None], factor)
