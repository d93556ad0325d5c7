"""Optimisers: the paper's AdamW, and Muon for the hidden matrices."""

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from illada_lab.training.distributed.gradients import meshes
from illada_lab.training.muon import Muon

P = ParamSpec("P")
T = TypeVar("T")
Betas = Sequence[float]
Named = tuple[str, nn.Parameter]
NEVER_NEGATIVE = {
    "lr": "would lead uphill",
    "adamw_lr": "would lead uphill",
    "weight_decay": "would let weights grow",
    "eps": "keeps a root from zero",
}


def check_config(**values: Any) -> list[str]:
    """Problems of an optimiser's arguments, for `illada_lab.config.check`."""
    found = []
    for name, why in NEVER_NEGATIVE.items():
        if name in values and not values[name] >= 0:
            found.append(f"{name} = {values[name]}; {why}; 0 or more")
    if len(betas := values.get("betas", (0.9, 0.95))) != 2:
        found.append(
            f"betas = {list(betas)}; two running means, of gradients and of their squares; for example [0.9, 0.95]"
        )
    for name, shares in (("momentum", [values.get("momentum", 0)]), ("betas", values.get("betas", ()))):
        if not all(0 <= share < 1 for share in shares):
            found.append(f"{name} = {values[name]}; the share of a running mean that is kept; 0 to below 1")
    return found


def _checked(make: Callable[P, T]) -> Callable[P, T]:
    """Look at the numbers first; with `check_config`, which classes have as a static method, also before anything is built."""

    @wraps(make)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        if problems := check_config(**kwargs):
            raise ValueError("; ".join(problems))
        return make(*args, **kwargs)

    checked.check_config = check_config  # type: ignore[attr-defined]
    return checked


@_checked
def adamw(
    predictor: nn.Module, *, lr: float, weight_decay: float = 0.1, betas: Betas = (0.9, 0.95), eps: float = 1e-8
) -> AdamW:
    """AdamW with weight decay on matrices only.

    Args:
        predictor: its parameters are optimised.
        lr: peak learning rate (the schedule multiplies it).
        weight_decay: on parameters with two axes; norms have none.
        betas: decay of the two moment estimates.
        eps: added to the root of the second moment.

    Raises:
        ValueError: a number out of range.

    Source: iLLaDA, pre-training recipe: AdamW, weight decay 0.1. Betas and "matrices only" are our choice: the field's usual
        ones, the paper gives none.
    """
    return _adamw(predictor.named_parameters(), lr=lr, weight_decay=weight_decay, betas=betas, eps=eps)


@_checked
def muon(
    predictor: nn.Module,
    *,
    lr: float,
    adamw_lr: float,
    momentum: float = 0.95,
    weight_decay: float = 0.1,
    betas: Betas = (0.9, 0.95),
    eps: float = 1e-8,
) -> "MuonAdamW":
    """Muon on the matrices inside the layers, AdamW on the embedding, the head and the norms.

    Args:
        predictor: its parameters are optimised.
        lr: peak learning rate of Muon, per orthogonalised update.
        adamw_lr: peak learning rate of the rest.
        momentum: Muon's momentum.
        weight_decay: on parameters with two axes.
        betas: AdamW's.
        eps: AdamW's.

    Raises:
        ValueError: a number out of range.

    Source: our deviation from the paper: copying a name over a distance is learnt several times sooner than with AdamW at toy size.
        Which parameters Muon takes follows its author (Jordan et al. 2024).
    """
    hidden, rest = [], []
    for name, parameter in predictor.named_parameters():
        is_hidden = parameter.ndim == 2 and "layers." in name
        (hidden if is_hidden else rest).append((name, parameter))
    return MuonAdamW(
        Muon([p for _, p in hidden], lr=lr, momentum=momentum, weight_decay=weight_decay),
        _adamw(rest, lr=adamw_lr, weight_decay=weight_decay, betas=betas, eps=eps),
    )


class MuonAdamW(Optimizer):
    """Two optimisers that step together and show their parameter groups as one, as schedules and Lightning expect.

    Args:
        muon: optimiser of the hidden matrices.
        adamw: optimiser of the rest.
    """

    def __init__(self, muon: Optimizer, adamw: Optimizer) -> None:
        self.named_parts = {"muon": muon, "adamw": adamw}
        # The groups are the parts' own dictionaries: a schedule that writes a learning rate here writes it there.
        super().__init__([group for part in self.named_parts.values() for group in part.param_groups], defaults={})

    def step(self, closure: Any = None) -> Any:
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.named_parts.values():
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """State of both parts."""
        return {name: part.state_dict() for name, part in self.named_parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore both parts."""
        for name, part in self.named_parts.items():
            part.load_state_dict(state_dict[name])
        # Loading made new group dictionaries; show those.
        self.param_groups = [group for part in self.named_parts.values() for group in part.param_groups]


def _adamw(named: Iterable[Named], *, lr: float, weight_decay: float, betas: Betas, eps: float) -> AdamW:
    """AdamW in one kernel for all parameters; with tensor parallelism they lie on two meshes, which no kernel takes at once."""
    named = list(named)
    is_fused = len(meshes(p for _, p in named)) < 2
    return AdamW(
        _decayed(named, weight_decay),
        lr=lr,
        betas=(betas[0], betas[1]),
        eps=eps,
        fused=is_fused,
        foreach=None if is_fused else False,
    )


def _decayed(named: Iterable[Named], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices with weight decay, the others without; empty groups are left out."""
    matrices, others = [], []
    for _, parameter in named:
        (matrices if parameter.ndim > 1 else others).append(parameter)
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
