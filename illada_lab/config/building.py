"""From a node of the configuration to the object that it describes."""

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from illada_lab.config.errors import ConfigError, first_line
from illada_lab.config.tree import to_plain

# Hydra's own keys in a node.
HYDRA_KEYS = {"_target_", "_partial_", "_args_", "_recursive_", "_convert_"}


def locate(target: str) -> Callable[..., Any]:
    """Import what a dotted path names.

    Raises:
        ImportError, AttributeError: no such module, or nothing of that name in it; the message says what is near.
    """
    module_name, _, name = target.rpartition(".")
    if not module_name:
        raise ImportError("not a dotted path")
    module = importlib.import_module(module_name)
    if not hasattr(module, name):
        known = [n for n in dir(module) if not n.startswith("_")]
        near = difflib.get_close_matches(name, known, n=2, cutoff=0.4)
        raise AttributeError(f"{module_name} has no {name}" + (f", but {' and '.join(near)}" if near else ""))
    return getattr(module, name)


def build(node: Any, **run_time: Any) -> Any:
    """Build the object a node describes.

    Args:
        node: a node with a `_target_`, from YAML or plain data.
        run_time: arguments that are known only now (the tokenizer's vocabulary, the optimiser's parameters).

    Raises:
        ValueError, FileNotFoundError, ImportError: what the constructor raises, as it is.
        ConfigError: anything else it does, in one line.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    if isinstance(node, Mapping) and not isinstance(node, DictConfig):
        node = OmegaConf.create(dict(node))
    if isinstance(node, DictConfig):
        known = inspect.signature(locate(str(node["_target_"]))).parameters
        takes_any = any(p.kind is p.VAR_KEYWORD for p in known.values())
        extra = {str(key) for key in node} - set(known) - HYDRA_KEYS
        if extra and not takes_any:
            # Keys that only other keys refer to (data.path).
            node = OmegaConf.create({key: value for key, value in to_plain(node).items() if key not in extra})
    try:
        if run_time:
            # In two steps: Hydra would turn dataclasses among its arguments into dictionaries.
            return instantiate(node, _partial_=True, _convert_="all")(**run_time)
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ValueError | FileNotFoundError | ImportError):
            raise cause from None
        raise ConfigError([first_line(cause or error)]) from error


def build_all(node: Mapping[str, Any] | None) -> list[Any]:
    """Build every entry of a node of nodes (loggers)."""
    return [build(part) for part in (node or {}).values()]
