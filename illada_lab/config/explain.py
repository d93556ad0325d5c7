"""What is wrong with an override that Hydra refuses, in one line: what, why, and what is near."""

import difflib
import inspect
import re
from typing import Any

from omegaconf import DictConfig, OmegaConf

from illada_lab.config.building import locate
from illada_lab.config.errors import first_line
from illada_lab.config.places import groups, root_keys
from illada_lab.config.tree import has, near_key, value_at

# Settings that other programs have, and what they are called here.
ELSEWHERE = {
    **dict.fromkeys(
        ("epochs", "n_epochs", "max_epochs", "num_train_epochs"),
        "a run counts steps: trainer.max_steps (its second line says how many epochs they are)",
    ),
    **dict.fromkeys(("learning_rate", "weight_decay"), "optim.*, or lr.peak_ratio for a share of the rate"),
    **dict.fromkeys(("limit", "num_samples"), "evaluation.n_items of a benchmark, evaluation.n_questions of a world"),
    "task": "did you mean tasks? (of evaluate)",
    "steps": "trainer.max_steps, of a sampler sampler.n_steps",
    "gpus": "trainer.devices",
    "num_workers": "data.n_workers",
    "gradient_accumulation_steps": "data.micro_batch_size: the rest of data.batch_size is accumulated",
}
# The length of an answer, by the sampler that has it, and by other programs.
OWN_LENGTHS = ("response_length", "max_length")
LENGTHS = (*OWN_LENGTHS, "length", "max_new_tokens", "gen_length")


def explain(override: str, error: Exception, tree: DictConfig) -> str:
    """One line about an override that Hydra refuses."""
    key, equals, value = override.lstrip("+~").partition("=")
    if not re.fullmatch(r"[\w./@\[\]-]+", key) or (not equals and not override.startswith("~")):
        return f"{override}; not a setting; of the form key=value, for example scale=toy"
    if override.startswith("~") and has(tree, key):
        now = value_at(tree, key)
        why = "is null already, and Hydra deletes no null" if now is None else f"is not {value} but {now}"
        return f"{override}; {why}; {'leave it out' if now is None else f'~{key}'}"
    if key in groups() and "," in value and set(value.split(",")) <= set(groups()[key]):
        return f"{override}; several values; --multirun runs each of them"
    if key == "lr" and re.fullmatch(r"[\d.e+-]+", value):
        return f"lr = {value}; the schedule, one of {', '.join(groups()[key])}; a rate: optim.lr={value}, or a share of it: lr.peak_ratio"
    if key in groups() and value not in groups()[key]:
        near = difflib.get_close_matches(value, groups()[key], n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"one of {', '.join(groups()[key])}"
        return f"{key} = {value}; no such file in conf/{key}; {hint}"
    message = str(error)
    inner = re.search(r"full_key: (\S+)", f"{message} {error.__cause__}")
    if equals and inner and inner[1].startswith(f"{key}.") and OmegaConf.select(tree, key) is not None:
        return f"{inner[1]}; {key} has no such key; +{inner[1]}=... adds it, one key at a time"
    if "Could not override" in message or "not in struct" in message or "Could not delete" in message:
        shown = f"~{key}" if override.startswith("~") else f"{key} = {value}"
        return f"{shown}; there is no such key; {_elsewhere(key, tree) or near_key(key, tree)}"
    if "Ambiguous value" in message:
        return f"{override}; several values; --multirun runs each of them, {key}=[{value}] is one list"
    if any(sign in message for sign in ("mismatched input", "token recognition", "extraneous input", "no viable")):
        return f"{override}; the value cannot be read; put quotes around text with special signs: {key}=\"'...'\""
    return f"{override}; {first_line(error)}; illada-lab config shows all keys"


def _arguments(target: Any) -> set[str]:
    """Names of the arguments of what a node builds, whether its file has them or not."""
    try:
        return set(inspect.signature(locate(str(target))).parameters)
    except (ImportError, AttributeError, TypeError, ValueError):  # said at its own place
        return set()


def _elsewhere(key: str, tree: DictConfig) -> str | None:
    """Where a setting is that goes by this name elsewhere, or in another choice of its group; None: not known."""
    first, _, leaf = key.rpartition(".")
    if key == "data.path" and "worlds" in str(OmegaConf.select(tree, "data.source._target_")):
        return "a world has no files; data=text (jsonl, parquet, shards, hub) data.path=..."
    if first == "sampler" and leaf in LENGTHS:
        own = next((name for name in OWN_LENGTHS if has(tree, f"sampler.{name}")), None)
        other = {"response_length": "variable_length", "max_length": "fixed_length"}.get(own or "")
        if own is not None:
            return f"sampler.{own}" + (f", or sampler={other}, which has {leaf}" if leaf in OWN_LENGTHS else "")
    if first and leaf in _arguments(OmegaConf.select(tree, f"{first}._target_")):
        return f"not in the file; +{key}=... sets it"
    if not first:
        near = difflib.get_close_matches(key, [*root_keys(), "tasks"], n=2, cutoff=0.6)
        return ELSEWHERE.get(leaf) or (
            f"did you mean {' or '.join(near)}?"
            if near
            else f"known: {', '.join(sorted(root_keys() - {'defaults', 'hydra'}))}"
        )
    return ELSEWHERE.get(leaf)
