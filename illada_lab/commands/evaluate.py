"""`illada-lab evaluate`: score a trained model on the world's questions, or on a benchmark's local file."""

import difflib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

# Settings that a score can depend on; the others belong to training and to `sample`, and would be passed over in silence.
EFFECTIVE = {"checkpoint", "seed", "evaluation", "scale"}
WORLD = "toy"


def translate(overrides: Sequence[str]) -> list[str]:
    """Overrides in the words of the configuration: `tasks=gsm8k data.path=test.jsonl` is `evaluation=gsm8k evaluation.path=test.jsonl`.

    Raises:
        ValueError: an unknown task, or settings that have no effect on it; all of them, one line each.
    """
    from illada_lab.config import groups

    known = groups()["evaluation"]
    words = [_in_our_words(word) for word in overrides]
    tasks = next((word.partition("=")[2].split(",") for word in words if word.startswith("evaluation=")), [WORLD])
    problems = []
    for task in tasks:
        if task not in known:
            near = difflib.get_close_matches(task, known, n=2, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"one of {', '.join(known)}"
            problems.append(f"tasks = {task}; there is no such task here; {hint}")
    for word in words:
        key, _, value = word.lstrip("+~").partition("=")
        top = re.split(r"[.@\[]", key, maxsplit=1)[0]
        is_benchmark = any(task in known and task != WORLD for task in tasks)
        if top not in EFFECTIVE or (top == "scale" and is_benchmark):
            problems.append(f"{key} = {value}; has no effect on {', '.join(tasks)}; {_instead(key, is_benchmark)}")
    if problems:
        raise ValueError("\n".join(problems))
    return words


def _in_our_words(word: str) -> str:
    key, equals, value = word.partition("=")
    return f"{ {'tasks': 'evaluation', 'data.path': 'evaluation.path'}.get(key, key) }{equals}{value}"


def _instead(key: str, is_benchmark: bool) -> str:
    if is_benchmark and key.startswith("sampler."):
        return f"did you mean evaluation.{key}?"
    return "evaluation.*, checkpoint and seed" + ("" if is_benchmark else ", scale")


def run(config: DictConfig) -> int:
    """Print the table and write the results beside the checkpoint, with a manifest."""
    return _world(config) if "_target_" not in config.evaluation else _benchmark(config)


def _benchmark(config: DictConfig) -> int:
    """A benchmark on a local file."""
    from illada_lab.commands.writing import load
    from illada_lab.config import build, to_plain
    from illada_lab.evaluation.harness_task import HarnessTask
    from illada_lab.evaluation.run import run_benchmark
    from illada_lab.manifest import manifest

    benchmark, loaded = build(config.evaluation), load(config)
    folder = Path(benchmark.out or loaded.path.parent.parent / "evaluation" / benchmark.name)
    about = {**manifest(seed=config.seed, scale=loaded.config["scale"]["name"]), **_about(config, loaded)}
    about["evaluation"] = to_plain(config.evaluation)
    is_twin = loaded.predictor.spec.is_causal
    if isinstance(benchmark, HarnessTask):
        found = benchmark.run(str(config.checkpoint), folder, seed=config.seed, about=about, is_twin=is_twin)
        return _tell(found, folder)
    if is_twin:
        _refuse_for_twins(config)
    results = run_benchmark(
        benchmark, loaded.predictor, loaded.tokenizer, folder,
        model={"checkpoint": str(loaded.path), "step": loaded.step}, about=about,
        has_bos=bool(loaded.config["data"].get("adds_bos")), seed=config.seed,
    )  # fmt: skip
    return _tell(results, folder)


def _tell(results: dict[str, Any], folder: Path) -> int:
    from illada_lab.evaluation.run import RESULTS
    from illada_lab.report.tables import print_rows

    print_rows(results["rows"])
    print(f"written: {folder}/{RESULTS}")
    return 0


def _refuse_for_twins(config: DictConfig) -> None:
    """Raise ValueError for settings of the sampler that greedy decoding does not have, where they differ from the file's."""
    sampler, used = config.evaluation.sampler, ("_target_", "max_length", "block_length", "stop_strings", "remasking")
    idle = {"steps_per_block": None, "temperature": 0.0, "end_of_thinking": None}
    for key in sampler:
        if key not in used and sampler[key] != idle.get(key):
            raise ValueError(
                f"evaluation.sampler.{key} = {sampler[key]}; has no effect on an autoregressive model, which answers greedily; leave it out"
            )


def _world(config: DictConfig) -> int:
    """The world's own questions."""
    from illada_lab.commands.writing import is_chat, load
    from illada_lab.data.worlds import World
    from illada_lab.evaluation.sandbox import WARNING
    from illada_lab.evaluation.world_suite import evaluate_base, evaluate_instruct
    from illada_lab.manifest import manifest
    from illada_lab.report.tables import print_rows

    loaded = load(config)
    source = loaded.config["data"]["source"]
    if "world_seed" not in source:
        raise ValueError(
            f"checkpoint = {config.checkpoint}; trained on text, which has no questions; its bits per byte are in history.json, "
            "or a model trained with data=world"
        )
    world = World(seed=source["world_seed"], n_people=source["n_people"])
    n = config.evaluation.n_questions
    if config.evaluation.run_code:
        print(WARNING, file=sys.stderr)
    if (is_chat(loaded.config) or loaded.predictor.spec.is_causal) and (
        config.evaluation.n_mc_samples != config.scale.n_mc_samples
    ):
        raise ValueError(
            f"evaluation.n_mc_samples = {config.evaluation.n_mc_samples}; has no effect on this model, which is scored without masks; "
            "leave it out"
        )
    if is_chat(loaded.config):
        result = evaluate_instruct(
            loaded.predictor,
            loaded.tokenizer,
            world,
            n_questions=n,
            run_code=config.evaluation.run_code,
            seed=config.seed,
        )
    else:
        if config.evaluation.run_code:
            raise ValueError("evaluation.run_code = true; has no effect: base models are asked for no functions; false")
        result = evaluate_base(
            loaded.predictor,
            loaded.tokenizer,
            world,
            n_questions=n,
            n_mc_samples=config.evaluation.n_mc_samples,
            seed=config.seed,
        )
    print_rows(result.rows)
    path = loaded.path.parent.parent / "evaluation.json"
    about = manifest(seed=config.seed, scale=loaded.config["scale"]["name"])
    told = {**about, **_about(config, loaded), "n_items": len(result.items), **result.settings}
    path.write_text(
        json.dumps({"manifest": told, "rows": result.rows, "health": result.health, "items": result.items}, indent=1)
    )
    print(f"written: {path}")
    return 0


def _about(config: DictConfig, loaded: Any) -> dict[str, Any]:
    """What the manifest of a result says of its model."""
    dtype = str(loaded.predictor.head_weight.dtype).removeprefix("torch.")
    return {"checkpoint": str(config.checkpoint), "step": loaded.step, "dtype": dtype, "config": loaded.config}
