"""`illada-lab replicate`: the paper's claims, tested over seeds, and the ledger of verdicts."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

# Where no study is named with its scale, those that train many models are run at that one: at toy scale a run takes minutes and they
# need dozens.
MANY_RUNS_SCALE = {"toy": "mini"}
# What belongs to a single run. Sweeps set them, for a folder of each of their jobs.
OF_ONE_RUN = ("run_dir", "name")


def translate(overrides: Sequence[str]) -> list[str]:
    """Overrides in the words of the configuration: an experiment of the paper, `experiment=sampling`, is a study here.

    One that trains many models gets the scale that it has among all of them, unless the overrides name one (in a sweep: always that).

    Raises:
        ValueError: a name or a folder for one run, of which there are many.
    """
    for word in overrides:
        key, _, value = word.lstrip("+").partition("=")
        if key in OF_ONE_RUN:
            raise ValueError(f"{key} = {value}; has no effect on replicate, which has many runs; runs_dir, results_dir")
    words = [re.sub(r"^experiment=", "study=", word) for word in overrides]
    named = [word.partition("=")[2] for word in words if word.startswith("study=")]
    if len(named) != 1 or any(word.startswith("scale=") for word in words):
        return words
    return [*words, *(f"scale={scale}" for scale in _many_runs_scales(named[0]))]


def _many_runs_scales(name: str) -> list[str]:
    """Where a study that is named without a scale is run, if not at the usual one; said on the error stream."""
    from illada_lab.config import build, compose, groups

    if name not in groups()["study"]:
        return []  # a sweep, or a slip of the pen, which `compose` knows what to say of
    config = compose([f"study={name}"])
    usual = config.scale.name
    if usual not in MANY_RUNS_SCALE or not build(config.study).trains_many:
        return []
    _say_scale(name, MANY_RUNS_SCALE[usual], usual)
    return [MANY_RUNS_SCALE[usual]]


def _say_scale(name: str, scale: str, usual: str) -> None:
    line = f"{name}: at scale {scale}; study={name} scale={usual} runs it at {usual}"
    print(line, file=sys.stderr, flush=True)


def run(config: DictConfig) -> int:
    """Run one study, or all, and render the ledger."""
    from illada_lab.experiments.replicate import replicate_all
    from illada_lab.report.ledger import write_ledger
    from illada_lab.report.tables import effect_text

    check_settings(config)
    page = Path(config.results_dir) / "README.md"
    results = replicate_all(
        plans_of(config),
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


def plans_of(config: DictConfig) -> list[Any]:
    """The chosen study at the chosen scale; or all studies, those that train many models at the scale meant for them."""
    from illada_lab.config import build, compose, conf_dir, to_plain
    from illada_lab.experiments.replicate import Plan

    chosen = config.scale.name
    if (name := name_of(config)) is not None:
        return [Plan(name, to_plain(config.study), chosen)]
    plans = []
    for name in sorted(path.stem for path in conf_dir().glob("study/*.yaml")):
        scale = chosen
        node = to_plain(compose([f"scale={scale}", f"study={name}"]).study)
        if build(node).trains_many and chosen in MANY_RUNS_SCALE:
            scale = MANY_RUNS_SCALE[chosen]
            node = to_plain(compose([f"scale={scale}", f"study={name}"]).study)
            _say_scale(name, scale, chosen)
        plans.append(Plan(name, node, scale))
    return plans


def name_of(config: DictConfig) -> str | None:
    """Name of the chosen study, None where none is."""
    from omegaconf import OmegaConf

    from illada_lab.config import conf_dir

    if config.get("study") is None:
        return None
    for path in sorted(conf_dir().glob("study/*.yaml")):
        if OmegaConf.load(path)["_target_"] == config.study["_target_"]:  # type: ignore[index]
            return path.stem
    raise ValueError(f"study._target_ = {config.study['_target_']}; no file of conf/study names it; study=...")


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
