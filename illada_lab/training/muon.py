"""Muon: momentum, then the nearest orthogonal matrix, for the matrices inside the layers."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from illada_lab.training.distributed.materialise import part_like

# Quintic iteration of Jordan et al. 2024: steepest at zero, so that five rounds bring every singular value near one.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
N_ROUNDS = 5


def orthogonalise(update: Float[Tensor, "n a b"]) -> Float[Tensor, "n a b"]:
    """Near-orthogonal matrices with the singular vectors of the given ones; all but the smallest singular values become about one.

    Args:
        update: a stack of matrices of one shape. On a GPU computed in bf16, as its author does, on a CPU in float32.

    Source: Newton-Schulz iteration as in Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/).
    """
    a, b, c = COEFFICIENTS
    x = update.to(torch.float32 if update.device.type == "cpu" else torch.bfloat16)
    is_tall = x.shape[1] > x.shape[2]
    if is_tall:
        x = x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(N_ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if is_tall else x).to(update.dtype)


class Muon(Optimizer):
    """Muon with decoupled weight decay; the arithmetic of `torch.optim.Muon`.

    Why not that one: it orthogonalises in bf16 everywhere, which processors without bf16 units emulate (86 % of a toy step there),
    and one matrix at a time; here matrices of one shape are a single batch.

    Of a sharded matrix (FSDP) the momentum is kept in parts, and the update is gathered whole in every process, one matrix after the
    other, orthogonalised there, and cut again: the same update as in one process, at the price of that arithmetic in every process
    and of one more gathering of the weights a step. At toy sizes that is nothing; at 8B prefer optim=adamw, the paper's.

    Args:
        params: matrices.
        lr: peak learning rate; an update has root mean square lr / sqrt(larger axis) before the shape's factor.
        momentum: of the running mean of gradients, applied in Nesterov's form.
        weight_decay: share of a weight that decays per step, times lr.

    Raises:
        ValueError: a parameter that is no matrix.

    Source: Jordan et al. 2024; the factor sqrt(max(1, rows / columns)) is theirs.
    """

    def __init__(
        self, params: Iterable[Tensor], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.1
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            for p in group["params"]:
                if p.ndim != 2:
                    raise ValueError(
                        f"parameter = shape {list(p.shape)}; Muon is for matrices; optim=adamw for the others"
                    )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: dict[tuple[torch.Size, torch.device], list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None and isinstance(p, DTensor):
                    self._step_sharded(p, group)
                elif p.grad is not None:
                    alike[p.shape, p.device].append(p)
            for (shape, _), parameters in alike.items():
                # Nesterov: the gradient once more, mixed with the running mean that already holds it.
                update = torch.stack([self._momentum(p, group["momentum"]) for p in parameters])
                scale = _scale(group["lr"], shape)
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(parameters, list(orthogonalise(update).unbind()), alpha=-scale)
        return loss

    def _step_sharded(self, p: DTensor, group: dict[str, Any]) -> None:
        """One matrix of which this process holds a part: momentum in parts, the rest on the whole."""
        assert isinstance(p.grad, DTensor), "a sharded matrix has a sharded gradient"
        state, part = self.state[p], p.grad.to_local()
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p.grad)
        mean = state["momentum_buffer"].to_local().lerp_(part, 1 - group["momentum"])
        update = part.lerp(mean, group["momentum"])
        whole = DTensor.from_local(
            update, p.device_mesh, p.placements, run_check=False, shape=p.shape, stride=p.stride()
        ).full_tensor()
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.add_(part_like(orthogonalise(whole[None])[0], p), alpha=-_scale(group["lr"], p.shape))

    def _momentum(self, p: Tensor, momentum: float) -> Tensor:
        assert p.grad is not None, "only parameters with a gradient come here"
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p.grad)
        mean = state["momentum_buffer"].lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(mean, momentum)


def _scale(lr: float, shape: torch.Size) -> float:
    """Learning rate of a matrix: taller ones move further."""
    return lr * math.sqrt(max(1.0, shape[0] / shape[1]))
