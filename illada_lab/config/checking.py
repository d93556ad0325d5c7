"""What is wrong with a composed configuration: `check` compares every node with the constructor it names."""

import difflib
import importlib.util
import inspect
import re
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from illada_lab.config.across import between_groups
from illada_lab.config.building import HYDRA_KEYS, locate
from illada_lab.config.errors import ConfigError, first_line
from illada_lab.config.tree import has, is_referred, is_touched, near_key, origin, raw_value, to_plain, value_at, walk
from illada_lab.config.types import annotations, fits, name_of, nearest_value, shown, unfit
from illada_lab.extras import NEEDED_BY, how_to_install

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
    "is_chat": bool | None,
    "n_samples": int,
    "n_turns": int | None,
    "seeds": int,
    "n_processes": int | None,
    "tokens_per_shard": int,
    "out": str | None,
    "runs_dir": str,
    "results_dir": str,
    "evaluation.n_questions": int,
    "evaluation.n_mc_samples": int,
    "evaluation.run_code": bool,
}
# Whole numbers and their limits; Lightning takes no seed above the second.
ROOT_LIMITS: dict[str, tuple[int, int | None]] = {
    "seed": (0, 2**32 - 1),
    "n_samples": (1, None),
    "n_turns": (0, None),
    "evaluation.n_questions": (1, None),
    "evaluation.n_mc_samples": (1, None),
}
# Constructors in here only keep and compare numbers, so they are called: their own messages are the most exact ones.
PURE = (
    "illada_lab.diffusion",
    "illada_lab.objectives",
    "illada_lab.samplers",
    "illada_lab.data.packing",
    "illada_lab.evaluation.benchmarks",
    "illada_lab.evaluation.harness_task",
    "illada_lab.experiments",
)


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
        if not is_touched(key, broken) and has(tree, key) and not fits(value, hint):
            problems.append(f"{key} = {shown(value)}; {name_of(type(value))} is not what it takes; {name_of(hint)}")
    for path, node in [("", tree), *walk(tree)]:
        if isinstance(node, DictConfig) and "_target_" in node:
            problems += _check_node(path, node, broken)
    problems += _out_of_range(tree)
    # By key: a value that several keys refer to is wrong once, and what its constructor says of it goes first.
    problems += between_groups(tree)
    problems = list({line.partition("; ")[0]: line for line in reversed(problems)}.values())[::-1]
    if problems:
        raise ConfigError(problems)


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


def _out_of_range(tree: DictConfig) -> list[str]:
    """Problems of whole numbers beyond their limits; a study needs at least one of everything that it counts."""
    counts = [key for key in map(str, value_at(tree, "study") or ()) if key.startswith("n_")]
    limits = {**ROOT_LIMITS, **{f"study.{key}": (1, None) for key in counts}}
    problems = []
    for path, (least, most) in limits.items():
        value, (parent, _, key) = value_at(tree, path), path.rpartition(".")
        if isinstance(value, int) and (value < least or (most is not None and value > most)):
            where = origin(value_at(tree, parent) if parent else tree, key, path)
            problems.append(f"{where} = {value}; out of range; {least} {'or more' if most is None else f'to {most}'}")
    return problems


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
        if not takes_any and not is_referred(node, at(key)):
            known = [name for name in parameters if name not in at_run_time or name in given]
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean {at(near[0])}?" if near else f"known: {', '.join(known)}"
            hint = hint if known else f"it has none; '~{at(key)}' leaves it out"
            problems.append(f"{at(key)} = {shown(raw_value(node, key))}; {short} has no such argument; {hint}")
    for name, p in parameters.items():
        is_required = p.default is p.empty and p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
        if is_required and name not in given and not is_partial and name not in at_run_time:
            problems.append(f"{at(name)} = (not given); {short} needs it; pass {at(name)}=...")
    hints = annotations(called)
    plain: dict[str, Any] = {}
    for key in sorted(given & set(parameters)):
        if is_touched(at(key), broken):
            continue
        value = node[key]
        if isinstance(value, DictConfig) and "_target_" in value:
            continue
        value = plain[key] = to_plain(value)
        if key in hints and not (value is None and key in at_run_time) and not fits(value, hints[key]):
            where, wanted = origin(node, key, at(key)), nearest_value(value, hints[key])
            problems.append(f"{where} = {shown(value)}; {unfit(value, hints[key], short)}; {wanted}")
    if not problems and hasattr(called, "check_config"):
        problems += [at(text) for text in called.check_config(**plain)]  # type: ignore[attr-defined]
    if not problems and not is_partial and target.startswith(PURE) and not is_touched(path, broken):
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
