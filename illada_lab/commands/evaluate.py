"""`illada-lab evaluate`: score a trained model on the world's questions, or on a benchmark's local file."""

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from illada_lab.commands.world_questions import TWIN, WORLD, frame_of, suite_of

# Settings that a score can depend on; the others belong to training and to `sample`, and would be passed over in silence.
EFFECTIVE = {"checkpoint", "dtype", "seed", "evaluation", "scale"}
# Settings of tasks that an autoregressive model has no use for: it answers greedily and is scored by the chain rule.
MASKED_ONLY = ("scoring", "n_samples", "has_eos", "block_length", "thinking_power")
GREEDY = ("_target_", "max_length", "response_length", "stop_strings")


def translate(overrides: Sequence[str]) -> list[str]:
    """Overrides in the words of the configuration: `tasks=gsm8k data.path=test.jsonl` is `evaluation=gsm8k evaluation.path=test.jsonl`.

    Raises:
        ValueError: an unknown task, or settings that have no effect on it; all of them, one line each.
    """
    from illada_lab.config import groups, root_keys

    known = groups()["evaluation"]
    words = [_in_our_words(word) for word in overrides]
    tasks = next((word.partition("=")[2].split(",") for word in words if word.startswith("evaluation=")), [WORLD])
    is_benchmark = any(task in known and task != WORLD for task in tasks)
    command = f"evaluate tasks={','.join(tasks)}" if is_benchmark else "evaluate"
    problems = []
    for task in tasks:
        if task not in known:
            near = difflib.get_close_matches(task, known, n=2, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"one of {', '.join(known)}"
            hint += f"; lm-eval's own tasks: tasks=lm_eval evaluation.task={task}"
            problems.append(f"tasks = {task}; there is no such task here; {hint}")
    for word in words:
        key, _, value = word.lstrip("+~").partition("=")
        top = re.split(r"[.@\[]", key, maxsplit=1)[0]
        # What is no setting at all is left to `compose`, which knows what is near.
        if key == "trainer.accelerator" or not (word.startswith("+") or top in root_keys()):
            continue
        if top not in EFFECTIVE or (top == "scale" and is_benchmark):
            problems.append(f"{key} = {value}; has no effect on {command}; {_instead(key, tasks, is_benchmark)}")
    if problems:
        raise ValueError("\n".join(problems))
    return words


def _in_our_words(word: str) -> str:
    key, equals, value = word.partition("=")
    return f"{ {'tasks': 'evaluation', 'data.path': 'evaluation.path'}.get(key, key) }{equals}{value}"


def _instead(key: str, tasks: Sequence[str], is_benchmark: bool) -> str:
    """What to write instead: the same setting of the tasks, where all of them have it."""
    from illada_lab.config import groups

    if key.startswith("sampler.") and set(tasks) <= set(groups()["evaluation"]):
        places = {_place(task, key) for task in tasks}
        if len(places) == 1 and (place := places.pop()) is not None:
            return f"did you mean {place}?"
    return "evaluation.*, checkpoint, dtype and seed" + ("" if is_benchmark else ", scale")


def _place(task: str, key: str) -> str | None:
    """Where a task has a setting of `sampler`; None: it has none of that name."""
    import inspect

    from omegaconf import OmegaConf

    from illada_lab.config import group_files
    from illada_lab.config.building import locate

    file, name = OmegaConf.load(group_files()["evaluation"][task]), key.removeprefix("sampler.")
    if "sampler" not in file:  # a task of lm-eval, which has some of them among its own
        return f"evaluation.{name}" if name in file else None
    top = name.partition(".")[0]
    if top in file.sampler:
        return f"evaluation.{key}"
    return f"+evaluation.{key}" if top in inspect.signature(locate(file.sampler["_target_"])).parameters else None


def run(config: DictConfig) -> int:
    """Print the table and write the results beside the checkpoint, with a manifest."""
    measured(config)
    return 0


def measured(config: DictConfig) -> list[dict[str, Any]]:
    """The same; returns the table's rows. Processes that torchrun or srun has started share the questions; the first tells and writes."""
    from illada_lab.processes import join, waiting_for_others

    join()
    with waiting_for_others("answers are kept: the same command again"):
        return _world(config) if "_target_" not in config.evaluation else _benchmark(config)


def _benchmark(config: DictConfig) -> list[dict[str, Any]]:
    """A benchmark on a local file."""
    from illada_lab.commands.writing import load
    from illada_lab.config import build, to_plain
    from illada_lab.evaluation.harness_task import HarnessTask
    from illada_lab.evaluation.run import run_benchmark
    from illada_lab.manifest import manifest
    from illada_lab.tokens import has_bos_of

    benchmark, loaded = build(config.evaluation), load(config)
    folder = _folder(config, benchmark, _home(config, loaded))
    about = {**manifest(seed=config.seed, scale=loaded.config["scale"]["name"]), **_about(config, loaded)}
    about["evaluation"] = to_plain(config.evaluation)
    is_twin = loaded.predictor.spec.is_causal
    if is_twin:
        _refuse_for_twins(config)
    if isinstance(benchmark, HarnessTask):
        found = benchmark.run(str(config.checkpoint), loaded, folder, seed=config.seed, about=about, is_twin=is_twin)
        return _tell(found, folder)
    results = run_benchmark(
        benchmark, loaded.predictor, loaded.tokenizer, folder, model=_model(loaded), about=about,
        has_bos=has_bos_of(loaded.config["data"]), seed=config.seed,
    )  # fmt: skip
    return _tell(results, folder)


def _folder(config: DictConfig, benchmark: Any, home: Path) -> Path:
    """Where the results of a benchmark go; of a sweep each job has a folder of its own in there, named after what differs from job to job.

    The task is no part of that name where it is part of the path already.
    """
    folder = Path(benchmark.out or home / "evaluation" / benchmark.name)
    # A sweep puts its job behind the name, which this command takes from nobody else.
    job = str(config.name).partition("/")[2]
    if not benchmark.out:
        job = job.replace(f"evaluation-{benchmark.name}", "", 1).strip("_")
    return folder / job if job else folder


def _tell(results: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    from illada_lab.evaluation.run import RESULTS
    from illada_lab.processes import rank
    from illada_lab.report.tables import print_rows

    if rank() > 0:
        return results["rows"]
    told = results["manifest"]
    print_rows(results["rows"])
    _tell_health(results.get("health") or [])
    print(f"written: {folder}/{RESULTS}")
    if "n_short_of_room" in told:
        few, hint = f"{told['n_short_of_room']} of {told['n_items']}", "a model with more context"
        print(
            f"max_length = {told['max_length']}; the model's context had less room for {few} answers, "
            f"{told['smallest_budget']} tokens at the least; {f'fewer evaluation.n_shots, or {hint}' if told['n_shots'] else hint}"
        )
    if "n_prompts_cut" in told:
        print(
            f"{told['n_prompts_cut']:,} prompts lost their beginning: longer than the model's context; a model with more context"
        )
    return results["rows"]


def _tell_health(health: list[dict[str, Any]]) -> None:
    """What to look at before believing the scores; nothing where no answer was written."""
    from illada_lab.evaluation.health import panel

    if health:
        print(panel(health))


def _refuse_for_twins(config: DictConfig) -> None:
    """Raise ValueError for settings of the task that greedy decoding and the chain rule do not have.

    The task's own file was written for mask predictors, so what it says is passed over (and told in the result); what differs from it
    was meant.
    """
    from illada_lab.config import compose, groups, to_plain

    own, name = to_plain(config.evaluation), config.evaluation.name
    file: dict[str, Any] = (
        to_plain(compose([f"evaluation={name}"]).evaluation) if name in groups()["evaluation"] else {}
    )
    parts = [("evaluation", own, file, lambda key: key not in MASKED_ONLY)]
    if "sampler" in own:
        # A budget below the file's block is legal with a smaller block only, so that has its effect.
        sampler, usual = own["sampler"], file.get("sampler", {})
        budget = sampler.get("max_length") or sampler.get("response_length")
        used = (*GREEDY, "block_length") if budget < (usual.get("block_length") or 0) else GREEDY
        parts.append(("evaluation.sampler", sampler, usual, lambda key: key in used))
    for place, given, usual, has_effect in parts:
        for key, value in given.items():
            if not has_effect(key) and value != usual.get(key):
                raise ValueError(f"{place}.{key} = {value}; has no effect on {TWIN}; leave it out")


def _world(config: DictConfig) -> list[dict[str, Any]]:
    """The world's own questions."""
    from illada_lab.commands.writing import load
    from illada_lab.evaluation.folder import claim_folder, digest_of
    from illada_lab.evaluation.journal import Journal
    from illada_lab.evaluation.run import ITEMS, RESULTS
    from illada_lab.files import write_text
    from illada_lab.manifest import manifest
    from illada_lab.processes import n_processes, rank
    from illada_lab.report.tables import print_rows

    loaded = load(config)
    ask = suite_of(config, loaded)
    # Every combination of settings has a folder of its own: nothing is in the way of a second run with others.
    settings = {"model": _model(loaded), "seed": config.seed, **_asked(config), **frame_of(loaded)}
    home = _home(config, loaded)
    folder = home / "evaluation" / f"world-{digest_of(settings)}"
    claim_folder(folder, settings)
    result = ask(journal=Journal(folder / ITEMS))
    if rank() > 0:
        return result.rows
    print_rows(result.rows)
    _tell_health(result.health)
    path = home / "evaluation.json"
    about = manifest(seed=config.seed, scale=loaded.config["scale"]["name"])
    told = {
        **about,
        **_about(config, loaded),
        **settings,
        "n_items": len(result.items),
        "n_processes": n_processes(),
        **result.settings,
    }
    written = {"manifest": told, "rows": result.rows, "health": result.health, "items": result.items}
    # Kept with its settings, and as the newest of the run, which the next evaluation takes the place of.
    for file in (folder / RESULTS, path):
        write_text(file, json.dumps(written, indent=1) + "\n")
    print(f"written: {path}\nkept: {folder}/{RESULTS}\nitems: {folder}/{ITEMS}")
    return result.rows


def _asked(config: DictConfig) -> dict[str, Any]:
    from illada_lab.config import to_plain
    from illada_lab.evaluation.sandbox import missing_protections

    asked = {"evaluation": to_plain(config.evaluation)}
    # Programs that ran less protected are results of another kind.
    return {**asked, "missing_protections": list(missing_protections())} if config.evaluation.run_code else asked


def _home(config: DictConfig, loaded: Any) -> Path:
    """Where the results of a model go: the folder of its run, or of a published checkpoint.

    One from the hub has a folder of its own in runs/: its files lie in a cache, which may be cleared. A sharded checkpoint is a folder too,
    and the next one takes its place.
    """
    from illada_lab.interop import is_published
    from illada_lab.interop.hub import is_hub_id

    if is_hub_id(config.checkpoint):
        return Path("runs", str(config.checkpoint).replace("/", "--"))
    path = loaded.path
    if is_published(path):
        return path
    return path.parent.parent if path.parent.name == "checkpoints" else path.parent


def _model(loaded: Any) -> dict[str, Any]:
    """What tells this model from others."""
    from illada_lab.evaluation.folder import fingerprint

    return {"checkpoint": str(loaded.path), "step": loaded.step, "weights": fingerprint(loaded.predictor)}


def _about(config: DictConfig, loaded: Any) -> dict[str, Any]:
    """What the manifest of a result says of its model."""
    weight = loaded.predictor.head_weight
    return {"checkpoint": str(config.checkpoint), "step": loaded.step, "dtype": str(weight.dtype).removeprefix("torch."),
            "device": str(weight.device), "config": loaded.config, "weights": _model(loaded)["weights"]}  # fmt: skip
