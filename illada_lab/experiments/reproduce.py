"""The main job: pre-train on a world, fine-tune on questions about it, evaluate both models, sample, report."""

import json
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict

from illada_lab.config import ConfigError, build, check, compose
from illada_lab.data.worlds import World, world_of
from illada_lab.evaluation.generation import Generated, generate
from illada_lab.evaluation.world_suite import BLOCK_LENGTH, SuiteResult, evaluate_base, evaluate_instruct
from illada_lab.experiments.lab import begun, locked
from illada_lab.manifest import manifest
from illada_lab.report.html import write_report
from illada_lab.report.results import write_results
from illada_lab.report.runs import stage_results
from illada_lab.samplers import FixedLength
from illada_lab.tokens import has_bos_of, has_eos_of
from illada_lab.training.checkpoint import LoadedRun, find_resumable, load_run
from illada_lab.training.run import TrainedRun, train

# A story of the world has 27 to 37 words; with EOS this window holds one of middle length.
STORY_TOKENS = 33
STORY_STEPS = 33


def reproduce(config: DictConfig) -> tuple[dict[str, Any], Path]:
    """Run the main job in `run_dir`.

    Stages that have finished there are not run again, broken-off ones go on from their last checkpoint.

    Args:
        config: composed and checked. Scale, seed, model, tokenizer, optimiser, logger, the world, rows per step and what says where and
            how to compute hold for both stages; objective, schedule, number of steps and all else of the data for pre-training, and
            fine-tuning has those of `experiment=sft` at the same scale.

    Returns:
        The results (see `report.results` for the schema) and the path of the report.

    Raises:
        ValueError: data that are not a world's, a setting that one of the stages cannot have, or the folder holds a run with others.
    """
    begin = time.perf_counter()
    if not {"world_seed", "n_people"} <= set(config.data.source):
        raise ValueError(
            f"data.source = {config.data.source['_target_']}; the main job asks questions about a world; data=world, or illada-lab train"
        )
    folder = folder_of(config)
    # Both before the first is trained, which may take hours.
    first = _staged(config, folder / "pretrain", "pretrain")
    second = _staged(config, folder / "sft", "sft", init_from=folder / "pretrain")
    is_continued = find_resumable(folder / "pretrain") is not None
    pretrained, tuned = (_trained(staged) for staged in (first, second))

    base, instruct = load_run(folder / "pretrain"), load_run(folder / "sft")
    world = world_of(config.data.source)
    n, sampler = config.evaluation.n_questions, build(config.evaluation.sampler)
    base_result = evaluate_base(
        base.predictor,
        base.tokenizer,
        world,
        n_questions=n,
        n_mc_samples=config.evaluation.n_mc_samples,
        has_bos=has_bos_of(base.config["data"]),
        has_eos=has_eos_of(base.config["data"]),
        sampler=sampler,
        seed=config.seed,
    )
    instruct_result = evaluate_instruct(
        instruct.predictor, instruct.tokenizer, world, n_questions=n, sampler=sampler, seed=config.seed
    )
    stories, _ = _stories(base, n=6, seed=config.seed)

    seconds = time.perf_counter() - begin
    about = manifest(seed=config.seed, scale=config.scale.name)
    results = {
        "schema": 1,
        "manifest": {**about, "seconds": seconds, "is_continued": is_continued, "precision": pretrained.manifest["precision"],
                     "is_compiled": pretrained.manifest["is_compiled"]},
        "config": {"pretrain": pretrained.config, "sft": tuned.config},
        "parameters": {"total": pretrained.n_parameters, "non_embedding": pretrained.n_non_embedding},
        "stages": [stage_results("pretrain", pretrained.history), stage_results("sft", tuned.history)],
        "tables": [
            {"title": "Base model: after pre-training", "model": "base", "rows": base_result.rows},
            {"title": "Instruct model: after fine-tuning", "model": "instruct", "rows": instruct_result.rows},
        ],
        "samples": _samples(world, stories, base_result, instruct_result),
        "health": instruct_result.health,
        "traces": _traces(base, instruct, stories, instruct_result),
    }  # fmt: skip
    write_results(folder / "results.json", results)
    report = write_report(folder / "report.html", results)
    return results, report


def folder_of(config: DictConfig) -> Path:
    """The folder that was asked for; the configuration's own is that of a single stage, so the main job has another in its place."""
    # As they are written: a folder that was asked for may have the name that the configuration's own comes to.
    written, usual = (OmegaConf.to_container(tree, resolve=False) for tree in (config, compose()))
    is_given = written["run_dir"] != usual["run_dir"]  # type: ignore[index,call-overload]
    return Path(config.run_dir if is_given else f"runs/reproduce-{config.scale.name}-seed{config.seed}")


def _staged(config: DictConfig, run_dir: Path, stage: str, init_from: Path | None = None) -> DictConfig:
    """The configuration of one stage, checked, with the settings of `config`."""
    overrides = [f"scale={config.scale.name}"]
    if stage == "sft":
        overrides.append("experiment=sft")
    staged = compose(overrides)
    with open_dict(staged):
        # What the user set for the main job holds for both stages; what makes a stage a stage does not.
        for key in ("scale", "model", "tokenizer", "optim", "logger", "evaluation", "seed"):
            staged[key] = config[key]
        if stage == "pretrain":
            for key in ("data", "objective", "lr", "trainer"):
                staged[key] = config[key]
        else:
            for key in ("world_seed", "n_people", "sizes"):
                if key in config.data.source:
                    staged.data.source[key] = config.data.source[key]
            for key in ("length", "batch_size", "micro_batch_size", "n_workers"):
                staged.data[key] = config.data[key]
            for key in set(config.trainer) - {"max_steps", "ema_decay"}:
                staged.trainer[key] = config.trainer[key]
        staged.run_dir, staged.name, staged.resume = str(run_dir), f"{stage}-{config.scale.name}", "auto"
        staged.init_from = None if init_from is None else str(init_from)
    try:
        check(staged)
    except ConfigError as error:
        where = {"pretrain": "in pre-training", "sft": "in fine-tuning, which is experiment=sft"}[stage]
        raise ConfigError([f"{line} ({where})" for line in error.problems]) from error
    return staged


def _trained(config: DictConfig) -> TrainedRun:
    """The run of this configuration, finished now if it was not."""
    # Several processes of one run all come here, and would wait for the first.
    is_alone = config.trainer.devices * config.trainer.n_nodes == 1
    with locked(Path(config.run_dir)) if is_alone else nullcontext():
        return _finished(config) or train(config)


def _finished(config: DictConfig) -> TrainedRun | None:
    """The run of this configuration, if it has come to its end; raises as `begun`."""
    folder, found = Path(config.run_dir), begun(config)
    if found is None or found.step < config.trainer.max_steps:
        return None
    spec = found.predictor.spec
    return TrainedRun(
        run_dir=folder,
        history=json.loads((folder / "history.json").read_text()),
        checkpoint=found.path,
        manifest=json.loads((folder / "manifest.json").read_text()),
        config=found.config,
        n_parameters=spec.n_parameters,
        n_non_embedding=spec.n_non_embedding_parameters,
    )


def _stories(run: LoadedRun, n: int, seed: int) -> tuple[list[Generated], float]:
    """Stories from nothing but BOS, one token per step, at temperature 1: ancestral sampling of the model's own language."""
    front = run.predictor.tokens.opened([], has_bos_of(run.config["data"]))
    sampler = FixedLength(response_length=STORY_TOKENS, n_steps=STORY_STEPS, remasking="random", temperature=1.0)
    generator = torch.Generator().manual_seed(seed)
    return generate(run.predictor, run.tokenizer, [front] * n, sampler, generator=generator)


def _samples(world: World, stories: list[Generated], base: SuiteResult, instruct: SuiteResult) -> list[dict[str, Any]]:
    """Stories, checked by parsing, and a few questions of every kind."""
    found = [
        {"model": "base", "kind": "story", "prompt": "", "text": g.text, "answer": None,
         "is_correct": world.stories.parse(g.text) is not None}
        for g in stories
    ]  # fmt: skip
    for model, result in (("base", base), ("instruct", instruct)):
        for task in dict.fromkeys(item["task"] for item in result.items):
            items = [item for item in result.items if item["task"] == task]
            # Right and wrong ones alike: first of each, then the next in order.
            wrong = [item for item in items if not item["is_correct"]][:2]
            chosen = [item for item in items if item["is_correct"]][: 4 - len(wrong)] + wrong
            found += [
                {"model": model, "kind": task, **{key: item[key] for key in ("prompt", "text", "answer", "is_correct")}}
                for item in chosen
            ]
    return found


def _traces(
    base: LoadedRun, instruct: LoadedRun, stories: list[Generated], result: SuiteResult
) -> list[dict[str, Any]]:
    """Generations to step through: two stories and one answer of each kind."""
    front = [base.tokenizer.token_text(i) for i in base.predictor.tokens.opened([], has_bos_of(base.config["data"]))]
    found = [
        _trace(base, f"story {i + 1}", front, g.trace,
               model="base", sampler="fixed length, random order", block_length=None, is_growing=False)
        for i, g in enumerate(stories[:2])
    ]  # fmt: skip
    for task in dict.fromkeys(item["task"] for item in result.items):
        item = next(item for item in result.items if item["task"] == task)
        found.append(
            _trace(instruct, f"{task}: {item['prompt']}", item["prompt"].split(), item["trace"],
                   model="instruct", sampler=f"variable length, blocks of {BLOCK_LENGTH}",
                   block_length=BLOCK_LENGTH, is_growing=True)
        )  # fmt: skip
    return [trace for trace in found if trace["records"]]


def _trace(
    run: LoadedRun, title: str, prompt: list[str], records: list[dict[str, Any]], **about: Any
) -> dict[str, Any]:
    """A trace with tokens as text; `about` is what the schema of the report says of its sampler."""
    text = run.tokenizer.token_text
    n = 1 + max((record["position"] for record in records), default=-1)
    final = [""] * n
    for record in records:
        final[record["position"]] = text(record["token"])
    return {
        **about,
        "title": title,
        "prompt_tokens": prompt,
        "tokens": final,
        "mask": "▢",
        "records": [
            {**record, "token": text(record["token"]), "runner_up": text(record["runner_up"])} for record in records
        ],
    }
