"""Looking into a composed tree: keys, raw values, references."""

import difflib
import re
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException


def walk(node: Any, path: str = "") -> list[tuple[str, Any]]:
    """All keys below a node with their raw values, as (full path, value)."""
    found: list[tuple[str, Any]] = []
    if isinstance(node, DictConfig | ListConfig) and (
        node._is_none() or node._is_missing() or node._is_interpolation()
    ):
        return found
    if isinstance(node, DictConfig):
        for key in node:
            where = f"{path}.{key}" if path else str(key)
            raw = node._get_node(key)
            found.append((where, raw))
            found += walk(raw, where)
    elif isinstance(node, ListConfig):
        for i in range(len(node)):
            found += walk(node._get_node(i), f"{path}[{i}]")
    return found


def value_at(tree: DictConfig, path: str) -> Any:
    """Resolved value of a key, None where there is none."""
    try:
        return OmegaConf.select(tree, path)
    except OmegaConfBaseException:
        return None


def to_plain(node: Any) -> Any:
    """Resolved plain data: what checkpoints and results store."""
    return OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig | ListConfig) else node


def near_key(key: str, tree: DictConfig) -> str:
    """The nearest keys that exist, as full paths in a question."""
    known = [path for path, _ in walk(tree)]
    parent, _, leaf = key.rpartition(".")
    siblings = [path for path in known if path.rpartition(".")[0] == parent]
    by_leaf = {path.rpartition(".")[2]: path for path in siblings}
    near = [by_leaf[match] for match in difflib.get_close_matches(leaf, by_leaf, n=2, cutoff=0.6)]
    near = near or [path for path in known if path.rpartition(".")[2] == leaf][:2]
    near = near or ([] if siblings else difflib.get_close_matches(key, known, n=2, cutoff=0.7))
    if near:
        return "did you mean " + " or ".join(near) + "?"
    return f"known: {', '.join(siblings)}" if siblings else "illada-lab config shows all keys"


def has(tree: DictConfig, path: str) -> bool:
    """Whether there is such a key, whatever stands there."""
    parent, _, leaf = path.rpartition(".")
    node = OmegaConf.select(tree, parent) if parent else tree
    return isinstance(node, DictConfig) and leaf in node


def raw_value(node: DictConfig, key: str) -> Any:
    """Value of a key, or its text where it cannot be resolved."""
    try:
        return to_plain(node[key])
    except OmegaConfBaseException:
        return node._get_node(key)._value()  # type: ignore[union-attr]


def origin(node: DictConfig, key: str, path: str) -> str:
    """The key where a value stands that is only referred to here: ${scale.length} leads to scale.length."""
    raw = node._get_node(key)
    while raw is not None and raw._is_interpolation():  # type: ignore[union-attr]
        reference = re.fullmatch(r"\$\{([\w.]+)\}", raw._value())  # type: ignore[union-attr]
        if reference is None:
            break
        path = reference[1]
        raw = OmegaConf.select(node._get_root(), path.rpartition(".")[0] or "", default=node._get_root())
        raw = raw._get_node(path.rpartition(".")[2])
    return path


def is_referred(node: DictConfig, key: str) -> bool:
    """Whether another key of a node refers to this one, given as its full path."""
    return any(
        raw is not None and raw._is_interpolation() and "${" + key + "}" in raw._value() for _, raw in walk(node)
    )


def is_touched(path: str, broken: set[str]) -> bool:
    """Whether a key, or one below it, is among those that cannot be read."""
    return any(other == path or other.startswith((f"{path}.", f"{path}[")) for other in broken) or (
        not path and bool(broken)
    )
