"""What is wrong with a composed configuration: `check` compares every node with the constructor it names."""

import difflib
import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from illada_lab.config_types import annotations, fits, name_of, nearest_value, shown
from illada_lab.extras import NEEDED_BY, how_to_install

# Hydra's own keys in a node.
HYDRA_KEYS = {"_target_", "_partial_", "_args_", "_recursive_", "_convert_"}
# Keys that no constructor takes, with what they must be.
ROOT_TYPES: dict[str, Any] = {
    "seed": int,
    "name": str,
    "run_dir": str,
    "init_from": str | None,
    "resume": str | None,
    "checkpoint": str | None,
    "prompt": str | None,
    "text": str | None,
    "trace": str | None,
    "n_samples": int,
    "n_turns": int | None,
    "seeds": int,
    "n_processes": int,
    "tokens_per_shard": int,
    "out": str | None,
    "runs_dir": str,
    "results_dir": str,
    "evaluation.n_questions": int,
    "evaluation.n_mc_samples": int,
    "evaluation.run_code": bool,
}
# Whole numbers and their limits; torch takes no seed above the second.
ROOT_LIMITS: dict[str, tuple[int, int | None]] = {"seed": (0, 2**63 - 1), "n_samples": (1, None), "n_turns": (0, None)}
# Constructors in here only keep and compare numbers, so they are called: their own messages are the most exact ones.
PURE = (
    "illada_lab.diffusion",
    "illada_lab.objectives",
    "illada_lab.samplers",
    "illada_lab.data.packing",
    "illada_lab.evaluation.benchmarks",
    "illada_lab.evaluation.harness_task",
)


class ConfigError(ValueError):
    """A configuration cannot be used; the message lists every problem, one line each.

    Args:
        problems: lines of the form "key = value; why it is wrong; nearest legal values".
        usable: what could be composed in spite of them, so that `check` can look for more; None: nothing.
    """

    def __init__(self, problems: Sequence[str], usable: DictConfig | None = None) -> None:
        self.problems, self.usable = list(problems), usable
        super().__init__("\n".join(self.problems))


def check(tree: DictConfig) -> None:
    """Compare every `_target_` with its constructor, before anything is built.

    Arguments that are known at run time only may be missing: those in the target's `runtime_arguments` (a class
    attribute, set of names; null is then allowed too) and all of a `_partial_` node. A target may look at its own
    numbers in a static method `check_config(**values) -> list[str]`, each line beginning with the key.

    Args:
        tree: the whole composed tree.

    Raises:
        ConfigError: every problem: missing values, broken references, unknown or missing arguments, wrong types,
            missing optional packages, numbers that do not fit together.
    """
    problems, broken = _unresolved(tree)
    for key, hint in ROOT_TYPES.items():
        value = value_at(tree, key)
        if not _is_touched(key, broken) and _has(tree, key) and not fits(value, hint):
            problems.append(f"{key} = {shown(value)}; {name_of(type(value))} is not what it takes; {name_of(hint)}")
    for key, (least, most) in ROOT_LIMITS.items():
        value = value_at(tree, key)
        if isinstance(value, int) and (value < least or (most is not None and value > most)):
            problems.append(f"{key} = {value}; out of range; {least} {'or more' if most is None else f'to {most}'}")
    for path, node in [("", tree), *walk(tree)]:
        if isinstance(node, DictConfig) and "_target_" in node:
            problems += _check_node(path, node, broken)
    # By key: a value that several keys refer to is wrong once.
    problems += _across(tree)
    problems = list({line.partition("; ")[0]: line for line in reversed(problems)}.values())[::-1]
    if problems:
        raise ConfigError(problems)


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


def _unresolved(tree: DictConfig) -> tuple[list[str], set[str]]:
    """Problems of values that cannot be read, and all keys that cannot be read (also those that only refer to one)."""
    problems: list[str] = []
    broken: set[str] = set()
    for path, raw in walk(tree):
        if raw is None or raw._is_missing():
            broken.add(path)
            problems.append(f"{path} = ???; must be given; pass {path}=...")
            continue
        if not raw._is_interpolation():
            continue
        try:
            OmegaConf.select(tree, path, throw_on_missing=True)
        except OmegaConfBaseException as error:
            broken.add(path)
            text = raw._value()
            missing = re.search(r"Interpolation key '([^']+)' not found", str(error))
            # Only where the reference itself is wrong: what it refers to is reported at its own place.
            if missing and "${" + missing[1] + "}" in text:
                problems.append(f"{path} = {text}; there is no key {missing[1]}; {near_key(missing[1], tree)}")
            elif not missing and "MissingMandatory" not in str(error) and "Missing mandatory" not in str(error):
                problems.append(f"{path} = {text}; {first_line(error)}; a key that exists")
    return problems, broken


def _check_node(path: str, node: DictConfig, broken: set[str]) -> list[str]:
    """Problems of one node with a `_target_`."""
    at = (lambda key: f"{path}.{key}") if path else str
    if at("_target_") in broken:
        return []
    target = str(node["_target_"])
    short = target.rpartition(".")[2]
    if (package := NEEDED_BY.get(short)) and importlib.util.find_spec(package) is None:
        return [f"{at('_target_')} = {target}; {package} is not installed; {how_to_install(package)}"]
    try:
        called = locate(target)
    except (ImportError, AttributeError) as error:
        return [f"{at('_target_')} = {target}; {error}; the dotted path of a class or function"]
    parameters = {name: p for name, p in inspect.signature(called).parameters.items() if name != "self"}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    is_partial = bool(node.get("_partial_", False))
    at_run_time = set(getattr(called, "runtime_arguments", ()))
    given = {str(key) for key in node} - HYDRA_KEYS
    problems = []
    for key in sorted(given - set(parameters)):
        # Keys that only other keys refer to (data.path) stand in the node but are no argument.
        if not takes_any and not _is_referred(node, at(key)):
            known = [name for name in parameters if name not in at_run_time or name in given]
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean {at(near[0])}?" if near else f"known: {', '.join(known)}"
            problems.append(f"{at(key)} = {shown(_raw(node, key))}; {short} has no such argument; {hint}")
    for name, p in parameters.items():
        is_required = p.default is p.empty and p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
        if is_required and name not in given and not is_partial and name not in at_run_time:
            problems.append(f"{at(name)} = (not given); {short} needs it; pass {at(name)}=...")
    hints = annotations(called)
    plain: dict[str, Any] = {}
    for key in sorted(given & set(parameters)):
        if _is_touched(at(key), broken):
            continue
        value = node[key]
        if isinstance(value, DictConfig) and "_target_" in value:
            continue
        value = plain[key] = to_plain(value)
        if key in hints and not (value is None and key in at_run_time) and not fits(value, hints[key]):
            where, wanted = _origin(node, key, at(key)), nearest_value(value, hints[key])
            problems.append(f"{where} = {shown(value)}; {name_of(type(value))} is not what {short} takes; {wanted}")
    if not problems and hasattr(called, "check_config"):
        problems += [at(text) for text in called.check_config(**plain)]  # type: ignore[attr-defined]
    if not problems and not is_partial and target.startswith(PURE) and not _is_touched(path, broken):
        problems += _try(path, node)
    return problems


def _try(path: str, node: DictConfig) -> list[str]:
    """What the constructor itself says, for those that only keep numbers; inner nodes speak for themselves."""
    if any(_refusal(inner) for _, inner in walk(node) if isinstance(inner, DictConfig) and "_target_" in inner):
        return []
    refusal = _refusal(node)
    return [f"{path}.{refusal}"] if refusal else []


def _refusal(node: DictConfig) -> str | None:
    """The message with which a constructor refuses its arguments, None where it does not."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        instantiate(node, _convert_="all")
    except InstantiationException as error:
        return first_line(error.__cause__) if isinstance(error.__cause__, ValueError) else None
    return None


def _across(tree: DictConfig) -> list[str]:
    """Problems between groups, each of which is fine alone."""
    problems = []
    length, longest = value_at(tree, "data.length"), value_at(tree, "model.max_length")
    if isinstance(length, int) and isinstance(longest, int) and length > longest:
        problems.append(
            f"data.length = {length}; longer than model.max_length; at most {longest}, or model.max_length={length}"
        )
    rows, micro = value_at(tree, "data.batch_size"), value_at(tree, "data.micro_batch_size")
    devices = _n_replicas(tree)
    if all(isinstance(n, int) and n > 0 for n in (rows, micro or 1, devices)):
        per_pass = (micro or 1) * devices
        if rows % per_pass:
            nearest = max(1, round(rows / per_pass)) * per_pass
            problems.append(
                f"data.batch_size = {rows}; must be a multiple of micro_batch_size * devices = {per_pass}; "
                f"nearest: {nearest}"
            )
    if value_at(tree, "lora._target_") and value_at(tree, "init_from") is None:
        problems.append("init_from = null; adapters (lora) need a trained model to adapt; a run, a folder or a hub id")
    if value_at(tree, "lora._target_") and value_at(tree, "trainer.ema_decay") is not None:
        problems.append(f"trainer.ema_decay = {value_at(tree, 'trainer.ema_decay')}; not with adapters (lora); null")
    if value_at(tree, "lora._target_") and str(value_at(tree, "trainer.strategy")).startswith("fsdp"):
        problems.append(
            f"trainer.strategy = {value_at(tree, 'trainer.strategy')}; not with adapters (lora); auto or ddp"
        )
    rows_of_embedding, n_tokens = value_at(tree, "model.vocab_size"), value_at(tree, "tokenizer.vocab_size")
    if isinstance(rows_of_embedding, int) and isinstance(n_tokens, int) and rows_of_embedding < n_tokens:
        problems.append(
            f"model.vocab_size = {rows_of_embedding}; the tokenizer has {n_tokens} tokens; null, or as many"
        )
    try:
        needs_causal = getattr(locate(str(value_at(tree, "objective._target_"))), "needs_causal", None)
    except (ImportError, AttributeError):  # reported at its own place
        needs_causal = None
    is_causal = value_at(tree, "model.is_causal")
    if needs_causal is not None and is_causal is not None and bool(is_causal) != needs_causal:
        why = "would see its own targets" if needs_causal else "predicts from both sides"
        problems.append(f"model.is_causal = {shown(is_causal)}; the objective {why}; {shown(needs_causal)}")
    return problems


def _n_replicas(tree: DictConfig) -> Any:
    """Processes that see different rows; None where a number is missing or wrong, which is reported at its own place."""
    keys = ("devices", "n_nodes", "tensor_parallel")
    devices, n_nodes, shared = (value_at(tree, f"trainer.{key}") or 1 for key in keys)
    are_counts = all(isinstance(n, int) and n > 0 for n in (devices, n_nodes, shared))
    return max(1, devices * n_nodes // shared) if are_counts else None


def _origin(node: DictConfig, key: str, path: str) -> str:
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


def _is_referred(node: DictConfig, key: str) -> bool:
    return any(
        raw is not None and raw._is_interpolation() and "${" + key + "}" in raw._value() for _, raw in walk(node)
    )


def _is_touched(path: str, broken: set[str]) -> bool:
    return any(other == path or other.startswith((f"{path}.", f"{path}[")) for other in broken) or (
        not path and bool(broken)
    )


def _has(tree: DictConfig, path: str) -> bool:
    parent, _, leaf = path.rpartition(".")
    node = OmegaConf.select(tree, parent) if parent else tree
    return isinstance(node, DictConfig) and leaf in node


def _raw(node: DictConfig, key: str) -> Any:
    try:
        return to_plain(node[key])
    except OmegaConfBaseException:
        return node._get_node(key)._value()  # type: ignore[union-attr]


def first_line(error: BaseException) -> str:
    """First line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
