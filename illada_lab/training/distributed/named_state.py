"""An optimiser's state under the names of the parameters, which do not depend on how many processes hold them."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from illada_lab.training.distributed.materialise import part_like

Groups = dict[str, list[dict[str, Any]]]
Names = Mapping[Any, str]  # of parameters


def parts(optimizer: Optimizer) -> dict[str, Optimizer]:
    """The optimisers inside one that is made of several, by name; otherwise itself, under no name."""
    return getattr(optimizer, "named_parts", {"": optimizer})


def tensors(optimizer: Optimizer, names: Names) -> dict[str, Tensor]:
    """Every tensor of the state as `<name of the parameter>/<name of the state>`; the tensors themselves, sharded ones sharded."""
    return {
        f"{names[p]}/{key}": value
        for part in parts(optimizer).values()
        for p, state in part.state.items()
        for key, value in state.items()
    }


def groups(optimizer: Optimizer, names: Names) -> Groups:
    """Parameter groups of each part as plain data, parameters by name."""
    return {
        label: [{**group, "params": [names[p] for p in group["params"]]} for group in part.param_groups]
        for label, part in parts(optimizer).items()
    }


def keep_settings(optimizer: Optimizer) -> None:
    """Let `load_state_dict` bring state only: rates, decay, moments' decay and kernels stay those that this run was told."""
    for part in parts(optimizer).values():
        part.register_load_state_dict_pre_hook(_with_own_settings)


def _with_own_settings(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    own = [
        {**group, "params": old["params"]}
        for group, old in zip(optimizer.param_groups, state_dict["param_groups"], strict=True)
    ]
    return {**state_dict, "param_groups": own}


@torch.no_grad()
def restore(optimizer: Optimizer, names: Names, saved: Mapping[str, Tensor], saved_groups: Groups) -> None:
    """Put a saved state into an optimiser, whatever number of processes saved it and holds it now; its settings stay its own.

    Args:
        optimizer: of the same kind, over the same parameters.
        names: names of its parameters.
        saved: as `tensors` gives it; whole, or sharded as the parameters are.
        saved_groups: as `groups` gives it.
    """
    states = _by_parameter(saved)
    for label, part in parts(optimizer).items():
        for group, old in zip(part.param_groups, saved_groups[label], strict=True):
            assert [names[p] for p in group["params"]] == old["params"], "the same parameters in the same order"
            for p in group["params"]:
                for key, value in states.get(names[p], {}).items():
                    part.state[p][key] = _placed(value, p, is_fused=bool(group.get("fused") or group.get("capturable")))


def indexed(saved: Mapping[str, Tensor], saved_groups: Groups) -> dict[str, Any]:
    """The same as an optimiser's own `state_dict`, which counts its parameters: what checkpoints of one file hold."""
    states, found = _by_parameter(saved), {}
    for label, part_groups in saved_groups.items():
        number = {name: i for i, name in enumerate(name for group in part_groups for name in group["params"])}
        found[label] = {
            "state": {i: states[name] for name, i in number.items() if name in states},
            "param_groups": [_counted(group, number) for group in part_groups],
        }
    return found.get("", found)


def _counted(group: dict[str, Any], number: dict[str, int]) -> dict[str, Any]:
    return {**group, "params": [number[name] for name in group["params"]]}


def named(state_dict: Mapping[str, Any], optimizer: Optimizer, names: Names) -> dict[str, Any]:
    """The other way: an optimiser's `state_dict` as `{"tensors": ..., "groups": ...}`, with the names an optimiser has now."""
    found: dict[str, Tensor] = {}
    found_groups: Groups = {}
    for label, part in parts(optimizer).items():
        saved = state_dict[label] if label else state_dict
        order = [names[p] for group in part.param_groups for p in group["params"]]
        for i, state in saved["state"].items():
            found |= {f"{order[i]}/{key}": value for key, value in state.items()}
        found_groups[label] = [{**g, "params": [order[i] for i in g["params"]]} for g in saved["param_groups"]]
    return {"tensors": found, "groups": found_groups}


def _by_parameter(saved: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    states: dict[str, dict[str, Tensor]] = {}
    for name, key, value in _split(saved):
        states.setdefault(name, {})[key] = value
    return states


def _split(saved: Mapping[str, Tensor]) -> Iterator[tuple[str, str, Tensor]]:
    for full_name, value in saved.items():
        name, _, key = full_name.rpartition("/")
        yield name, key, value


def _placed(value: Tensor, p: nn.Parameter, *, is_fused: bool = False) -> Tensor:
    """A piece of state where its parameter lies; counters of steps only where a kernel reads them there."""
    if isinstance(value, DTensor) or value.shape != p.shape:
        return value.to(p.device) if is_fused else value
    return part_like(value, p).clone()
