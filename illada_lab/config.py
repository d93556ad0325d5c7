"""From YAML to objects: compose, check, build. The only module that knows Hydra, and where all configuration errors come from."""

import difflib
import importlib
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

# Hydra's own keys in a node.
HYDRA_KEYS = {"_target_", "_partial_", "_args_", "_recursive_", "_convert_"}


class ConfigError(ValueError):
    """A configuration cannot be used; the message lists every problem, one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


def conf_dir() -> Path:
    """Folder of the YAML files: inside an installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise FileNotFoundError(f"conf = {package.parent / 'conf'}; the configuration files are missing; install illada_lab again")


def compose(overrides: Sequence[str] = (), *, config_name: str = "config") -> DictConfig:
    """Compose a configuration.

    Args:
        overrides: as on the command line: "scale=toy", "model.n_layers=4".
        config_name: root file.

    Returns:
        The composed tree, not checked and not built.

    Raises:
        ConfigError: unknown keys, groups or choices, all of them, with the nearest that exist.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    if GlobalHydra.instance().is_initialized():
        GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        try:
            return hydra_compose(config_name, overrides=list(overrides))
        except (HydraException, OmegaConfBaseException) as error:
            # Hydra stops at the first problem; try each override alone on top of those that work, to name them all.
            problems: list[str] = []
            good: list[str] = []
            for override in overrides:
                try:
                    hydra_compose(config_name, overrides=[*good, override])
                    good.append(override)
                except (HydraException, OmegaConfBaseException) as single:
                    problems.append(_explain(override, single, hydra_compose(config_name, overrides=good)))
            raise ConfigError(problems or [_first_line(error)]) from error


def _explain(override: str, error: Exception, tree: DictConfig) -> str:
    """One line about an override that Hydra refuses."""
    key, _, value = override.lstrip("+~").partition("=")
    group = conf_dir() / key
    if group.is_dir():
        choices = sorted(path.stem for path in group.glob("*.yaml"))
        near = difflib.get_close_matches(value, choices) or choices
        if value not in choices:
            return f"{key} = {value}; no such choice; {', '.join(near)}"
    if "=" not in override:
        return f"{override}; not of the form key=value; for example scale=toy"
    if OmegaConf.select(tree, key, default=None) is None and "Could not override" in str(error) or "not in struct" in str(error):
        return f"{key} = {value}; no such key; {_near_key(key, tree)}"
    return f"{override}; {_first_line(error)}"


def _near_key(key: str, tree: Any) -> str:
    """The nearest keys that exist, as full paths."""
    known = [path for path, _ in walk(tree)]
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    last = key.rsplit(".", 1)[-1]
    near = near or [path for path in known if path.rsplit(".", 1)[-1] == last][:3]
    if not near:
        parent, _, leaf = key.rpartition(".")
        siblings = [p for p in known if p.rpartition(".")[0] == parent]
        near = difflib.get_close_matches(leaf, siblings, n=3, cutoff=0.0) or siblings[:3]
    return "did you mean " + " or ".join(near) + "?" if near else "see illada-lab config"


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


def walk(node: Any, path: str = "") -> list[tuple[str, Any]]:
    """All keys below a node with their raw values, as (full path, value)."""
    found: list[tuple[str, Any]] = []
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


def to_plain(node: Any) -> Any:
    """Resolved plain data: what checkpoints and results store."""
    return OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig | ListConfig) else node


def check(tree: DictConfig) -> None:
    """Compare every `_target_` with its constructor, before anything is built.

    Raises:
        ConfigError: every problem: missing values, broken references, unknown or missing arguments, wrong types, sizes that do not fit
            together (`check_config` of the target).
    """
    problems: list[str] = []
    for path, raw in walk(tree):
        if isinstance(raw, DictConfig | ListConfig):
            continue
        if OmegaConf.is_missing(raw._get_parent(), raw._key()):  # type: ignore[union-attr]
            problems.append(f"{path} = ???; must be given; pass {path}=...")
            continue
        try:
            OmegaConf.select(tree, path)
        except OmegaConfBaseException as error:
            problems.append(f"{path} = {raw._value()}; {_first_line(error)}; a key that exists")
    if not problems:
        for path, raw in [("", tree), *walk(tree)]:
            if isinstance(raw, DictConfig) and "_target_" in raw:
                problems += _check_node(path, raw)
    if problems:
        raise ConfigError(problems)


def _check_node(path: str, node: DictConfig) -> list[str]:
    """Problems of one node with a `_target_`."""
    target = str(node["_target_"])
    try:
        called = locate(target)
    except (ImportError, AttributeError) as error:
        return [f"{path}._target_ = {target}; {error}; the dotted path of a class or function"]
    signature = inspect.signature(called)
    parameters = {name: p for name, p in signature.parameters.items() if name != "self"}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    given = {str(key) for key in node} - HYDRA_KEYS
    # Keys that only other keys refer to (data.path) stand in the node but are no argument.
    referred = {key for key in given if _is_referred(node, path, key)}
    problems = []
    for key in sorted(given - set(parameters) - referred):
        if not takes_any:
            near = difflib.get_close_matches(key, parameters, n=1, cutoff=0.5) or sorted(parameters)
            hint = f"did you mean {path}.{near[0]}?" if len(near) == 1 else f"known: {', '.join(near)}"
            problems.append(f"{path}.{key} = {node[key]}; {target.rsplit('.', 1)[-1]} has no such argument; {hint}")
    is_partial = bool(node.get("_partial_", False))
    at_run_time = set(getattr(called, "runtime_arguments", ()))
    for name, p in parameters.items():
        required = p.default is p.empty and p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
        if required and name not in given and not is_partial and name not in at_run_time:
            problems.append(f"{path}.{name}; {target.rsplit('.', 1)[-1]} needs it; pass {path}.{name}=...")
    hints = _hints(called)
    plain = {key: node[key] for key in given if key in parameters}
    for key, value in plain.items():
        is_node = isinstance(value, DictConfig) and "_target_" in value
        if is_node or key not in hints or (value is None and key in at_run_time):
            continue
        if not _fits(to_plain(value), hints[key]):
            problems.append(
                f"{path}.{key} = {value!r}; {type(value).__name__} is not what {target.rsplit('.', 1)[-1]} takes; {_name(hints[key])}"
            )
    if not problems and hasattr(called, "check_config"):
        simple = {k: v for k, v in plain.items() if not isinstance(v, DictConfig | ListConfig)}
        problems += [f"{path}.{text}" for text in called.check_config(**simple)]
    return problems


def _is_referred(node: DictConfig, path: str, key: str) -> bool:
    reference = "${" + (f"{path}.{key}" if path else key) + "}"
    return any(
        reference in str(raw._value()) for _, raw in walk(node) if not isinstance(raw, DictConfig | ListConfig) and raw is not None
    )


def locate(target: str) -> Callable[..., Any]:
    """Import what a dotted path names."""
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError:
        known = [n for n in dir(importlib.import_module(module)) if not n.startswith("_")]
        near = difflib.get_close_matches(name, known)
        raise AttributeError(f"{module} has no {name}" + (f" (nearest: {', '.join(near)})" if near else "")) from None


def _hints(called: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(called.__init__ if inspect.isclass(called) else called)
    except Exception:  # hints that need names we do not have: nothing to check against
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value can be what an annotation says; annotations of our own classes are left to the constructor."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, str | typing.TypeVar):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in arguments)
    if origin is typing.Literal:
        return value in arguments
    if hint is type(None):
        return value is None
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is str:
        return isinstance(value, str)
    if origin in (list, tuple, set, frozenset) or hint in (list, tuple):
        if not isinstance(value, list | tuple):
            return False
        if origin is tuple and arguments and Ellipsis not in arguments:
            return len(value) == len(arguments) and all(_fits(v, a) for v, a in zip(value, arguments, strict=True))
        return not arguments or all(_fits(v, arguments[0]) for v in value)
    if origin is dict or hint is dict:
        return isinstance(value, dict)
    return value is not None or origin is not None


def _name(hint: Any) -> str:
    text = re.sub(r"typing\.|<class '|'>", "", str(hint))
    return text.replace("NoneType", "null").replace("None", "null").replace("Literal", "one of ")


def build(node: Any, **run_time: Any) -> Any:
    """Build the object a node describes.

    Args:
        node: a node with a `_target_`.
        run_time: arguments that are known only now (the tokenizer's vocabulary, the optimiser's parameters).

    Raises:
        ConfigError: the constructor refuses its arguments; its message, with the target.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    if isinstance(node, DictConfig):
        known = inspect.signature(locate(str(node["_target_"]))).parameters
        takes_any = any(p.kind is p.VAR_KEYWORD for p in known.values())
        drop = [k for k in node if str(k) not in known and str(k) not in HYDRA_KEYS and not takes_any]
        if drop:
            resolved = OmegaConf.create(to_plain(node))
            for key in drop:
                del resolved[key]
            node = resolved
    try:
        if run_time:
            # In two steps: Hydra would turn dataclasses among its arguments into dictionaries.
            return instantiate(node, _partial_=True, _convert_="all")(**run_time)
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ValueError | FileNotFoundError):
            raise cause from None
        raise ConfigError([_first_line(cause or error)]) from error


def build_all(node: Mapping[str, Any] | None) -> list[Any]:
    """Build every entry of a node of nodes (loggers)."""
    return [build(part) for part in (node or {}).values()]
