"""`illada-lab replicate`: the paper's claims, tested over seeds, and the ledger of verdicts."""

import json
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from illada_lab.report.tables import duration

# Where no study is named with its scale, those that train many models are run at that one: at toy scale a run takes minutes and they
# need dozens.
MANY_RUNS_SCALE = {"toy": "mini"}
# A study chosen by its file, or described in place: `study=sampling`, `+study={_target_:mine.Study}`.
CHOICE = re.compile(r"study=|\+{1,2}study=\{")
# What belongs to a single run. Sweeps set them, for a folder of each of their jobs.
OF_ONE_RUN = ("run_dir", "name")
SEEDS = 3  # that give a verdict


def translate(overrides: Sequence[str]) -> list[str]:
    """Overrides in the words of the configuration: an experiment of the paper, `experiment=sampling`, is a study here.

    One that trains many models gets the scale that it has among all of them, unless the overrides name one (in a sweep: always that).

    Raises:
        ValueError: a name or a folder for one run, of which there are many; or another class for a study that has a file.
    """
    from illada_lab.config import groups

    for word in overrides:
        key, _, value = word.lstrip("+").partition("=")
        if key in OF_ONE_RUN:
            raise ValueError(f"{key} = {value}; has no effect on replicate, which has many runs; runs_dir, results_dir")
        if key == "seed":
            raise ValueError(
                f"seed = {value}; has no effect on replicate, which measures several; seeds={SEEDS} measures 0 to {SEEDS - 1}"
            )
        if not value and key in groups()["study"]:
            raise ValueError(f"{word}; not a setting; did you mean study={word}?")
        if word.startswith("study._target_="):
            raise ValueError(
                f"{key} = {value}; a study of conf/study keeps its class; '+study={{_target_:{value}}}', with settings behind commas, "
                "is a study of its own"
            )
    words = [re.sub(r"^experiment=", "study=", word) for word in overrides]
    named = [word for word in words if CHOICE.match(word)]
    if len(named) != 1 or any(word.startswith("scale=") for word in words):
        return words
    return [*words, *(f"scale={scale}" for scale in _many_runs_scales(named[0]))]


def _many_runs_scales(choice: str) -> list[str]:
    """Where a study that is chosen without a scale is run, if not at the usual one; said on the error stream."""
    from illada_lab.config import ConfigError, compose
    from illada_lab.config.building import locate

    try:
        config = compose([choice])
        trains_many = getattr(locate(str(config.study.get("_target_"))), "trains_many", False)
    except (ConfigError, ImportError, AttributeError):
        return []  # a sweep, or a slip of the pen, of which those know what to say who come after
    usual = config.scale.name
    if usual not in MANY_RUNS_SCALE or not trains_many:
        return []
    _say_scale(name_of(config), MANY_RUNS_SCALE[usual], usual, choice)
    return [MANY_RUNS_SCALE[usual]]


def _say_scale(name: str | None, scale: str, usual: str, choice: str) -> None:
    line = f"{name}: at scale {scale}; {choice if choice.startswith('study=') else repr(choice)} scale={usual} runs it at {usual}"
    print(line, file=sys.stderr, flush=True)


def run(config: DictConfig) -> int:
    """Run one study, or all, and render the ledger."""
    from illada_lab.experiments.replicate import replicate_all
    from illada_lab.report.ledger import write_ledger
    from illada_lab.report.tables import effect_text

    check_settings(config)
    plans = plans_of(config)
    if len(plans) > 1:
        _say_size(plans, config)
    page = Path(config.results_dir) / "README.md"
    results = replicate_all(
        plans,
        seeds=range(config.seeds),
        runs_dir=config.runs_dir,
        results_dir=config.results_dir,
        n_processes=config.n_processes,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    for result in results:
        for claim in result["claims"]:
            print(f"{result['study']}: {claim['id']}: {effect_text(claim)}: {claim['verdict']}", flush=True)
        # After each study: a call that is broken off leaves a ledger of what it has measured.
        page = write_ledger(Path(config.results_dir))
    print(f"ledger: {page}")
    return 0


def _say_size(plans: Sequence[Any], config: DictConfig) -> None:
    """What a call of all studies begins, before it does: on the error stream."""
    seconds = list[float]()
    for plan in plans:
        path = Path(config.results_dir) / plan.scale / f"{plan.name}.json"
        with suppress(
            OSError, ValueError, LookupError, TypeError, ZeroDivisionError
        ):  # a file that is none is said when it is its turn
            told = json.loads(path.read_text(encoding="utf-8"))
            seconds.append(told["manifest"]["seconds"] / len(told["seeds"]))
    took = f"; a seed of the {len(seconds)} recorded ones took {duration(sum(seconds))} in all" if seconds else ""
    seeds = "one seed" if config.seeds == 1 else f"{config.seeds} seeds"
    print(
        f"{len(plans)} studies, {seeds} each, into {config.results_dir}{took}; Ctrl-C stops, the same command goes on; one of them: "
        "study=NAME",
        file=sys.stderr,
        flush=True,
    )


def plans_of(config: DictConfig) -> list[Any]:
    """The chosen study at the chosen scale; or all studies, those that train many models at the scale meant for them."""
    from illada_lab.config import build, compose, groups, to_plain
    from illada_lab.experiments.replicate import Plan
    from illada_lab.experiments.study import check_study

    chosen = config.scale.name
    if (name := name_of(config)) is not None:
        return [Plan(name, to_plain(config.study), chosen)]
    plans = []
    for name in groups()["study"]:
        scale = chosen
        node = to_plain(compose([f"scale={scale}", f"study={name}"]).study)
        check_study(study := build(node), name)
        if study.trains_many and chosen in MANY_RUNS_SCALE:
            scale = MANY_RUNS_SCALE[chosen]
            node = to_plain(compose([f"scale={scale}", f"study={name}"]).study)
            _say_scale(name, scale, chosen, f"study={name}")
        plans.append(Plan(name, node, scale))
    return plans


def name_of(config: DictConfig) -> str | None:
    """Name of the chosen study, None where none is: of its file in conf/study, otherwise of its class, in small letters.

    Raises:
        ValueError: no class is named, or a file in conf/study has its name.
    """
    from omegaconf import OmegaConf

    from illada_lab.config import compose, group_files, to_plain

    if config.get("study") is None:
        return None
    node = to_plain(config.study)
    if not isinstance(node, dict) or "_target_" not in node:
        raise ValueError(f"study = {node}; names no class; '+study={{_target_:my_study.MyStudy}}', or study=...")
    target = str(node["_target_"])
    files = group_files()["study"]
    found = [known for known, path in files.items() if OmegaConf.load(path).get("_target_") == target]  # type: ignore[union-attr]
    if (
        len(found) > 1
    ):  # one class with several files of settings: the file that was chosen is the one most of them are from
        scale = f"scale={config.scale.name}"
        told = {name: to_plain(compose([scale, f"study={name}"]).study) for name in found}
        found.sort(key=lambda name: -sum(told[name].get(key) == value for key, value in node.items()))
    if found:
        return found[0]
    # HTMLPage is html_page.
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", target.rpartition(".")[2]).lower()
    if name in files:
        raise ValueError(
            f"study._target_ = {target}; conf/study/{name}.yaml is another study, whose results it would take; another name of the class"
        )
    return name


def check_settings(config: DictConfig) -> None:
    """Refuse settings that would have no effect: studies train the recipes of their scale.

    Raises:
        ValueError: a setting other than scale, study, seeds and folders differs from its scale's own.
    """
    from illada_lab.config import compose, to_plain

    if config.seeds < 1:
        raise ValueError(f"seeds = {config.seeds}; how many, counted from seed 0; 3 or more give a verdict")
    if config.n_processes is not None and config.n_processes < 1:
        raise ValueError(
            f"n_processes = {config.n_processes}; seeds measured at once; 1 or more, null: as many as pay here"
        )
    usual = compose([f"scale={config.scale.name}"])
    for key in OF_ONE_RUN:  # others refer to them: the logger writes into the folder of the run
        usual[key] = config[key]
    own, mine = to_plain(usual), to_plain(config)
    for key in sorted(set(own) - {"study", "seeds", "runs_dir", "results_dir", "n_processes"}):
        if (found := _first_difference(own[key], mine.get(key), key)) is not None:
            raise ValueError(
                f"{found}; has no effect on replicate, which trains the recipes of its scale; study.*, seeds, scale"
            )


def _first_difference(own: Any, mine: Any, path: str) -> str | None:
    if isinstance(own, dict) and isinstance(mine, dict):
        for key in sorted(set(own) | set(mine)):
            if (found := _first_difference(own.get(key), mine.get(key), f"{path}.{key}")) is not None:
                return found
        return None
    return None if own == mine else f"{path} = {mine}"
