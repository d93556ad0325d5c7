"""The questions of a run's world: what asks its model, by which sampler, and which settings have no effect on it."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from omegaconf import DictConfig

WORLD = "toy"  # its file in conf/evaluation
# Of its sampler what only an instruct model has a use for: a base model completes statements, whose length is given.
OF_ANSWERS = ("max_length", "block_length", "steps_per_block", "stop_ids", "stop_sequences", "stop_strings")
TWIN = "an autoregressive model, which answers greedily"


def suite_of(config: DictConfig, loaded: Any) -> Any:
    """What asks a model the questions of its world: a call with `journal` as its argument.

    Raises:
        ValueError: a model of no world, or a setting that has no effect on it.
    """
    from illada_lab.commands.writing import is_chat
    from illada_lab.data.worlds import world_of
    from illada_lab.evaluation.sandbox import announce
    from illada_lab.evaluation.world_suite import evaluate_base, evaluate_instruct
    from illada_lab.interop import is_published
    from illada_lab.tokens import has_bos_of, has_eos_of

    source, asked = loaded.config["data"]["source"], config.evaluation
    if not _is_world(source):
        own = str(source.get("_target_", ""))
        why = "trained on text, which has no questions"
        if is_published(loaded.path):
            why = "a published layout says nothing of a world"
        elif own and not own.startswith("illada_lab."):
            why = f"trained on {own}, an own source; it has no questions"
        raise ValueError(
            f"checkpoint = {config.checkpoint}; {why}; tasks=text evaluation.path=held_out.jsonl, tasks=gsm8k data.path=..., or a run "
            "trained with data=world"
        )
    has_masks = not (is_chat(loaded.config) or loaded.predictor.spec.is_causal)
    if not has_masks and asked.n_mc_samples != config.scale.n_mc_samples:
        raise ValueError(
            f"evaluation.n_mc_samples = {asked.n_mc_samples}; has no effect on this model, which is scored without masks; "
            "leave it out"
        )
    world, sampler = world_of(source), _sampler(config, loaded)
    parts = (loaded.predictor, loaded.tokenizer, world)
    if is_chat(loaded.config):
        if asked.run_code:
            announce()
        return partial(
            evaluate_instruct, *parts, n_questions=asked.n_questions, sampler=sampler, run_code=asked.run_code,
            seed=config.seed,
        )  # fmt: skip
    if asked.run_code:
        raise ValueError("evaluation.run_code = true; has no effect: base models are asked for no functions; false")
    data = loaded.config["data"]
    return partial(
        evaluate_base, *parts, n_questions=asked.n_questions, n_mc_samples=asked.n_mc_samples,
        has_bos=has_bos_of(data), has_eos=has_eos_of(data), sampler=sampler, seed=config.seed,
    )  # fmt: skip


def _is_world(source: Mapping[str, Any]) -> bool:
    """Whether a run's data were a world's, by the class: a source of one's own may have settings of the same names."""
    from illada_lab.config.building import locate
    from illada_lab.data.worlds import WorldSource

    if not {"world_seed", "n_people"} <= set(source):
        return False
    target = str(source.get("_target_"))
    # Ours, wherever it stood when the run was trained.
    if target.startswith("illada_lab.") and target.endswith(".WorldSource"):
        return True
    try:
        found = locate(target)
    except (ImportError, AttributeError):  # somebody's own, which is not here
        return False
    return isinstance(found, type) and issubclass(found, WorldSource)


def _sampler(config: DictConfig, loaded: Any) -> Any:
    """How the world's questions are answered; None: as usual.

    Raises:
        ValueError: a setting of the sampler that has no effect on this model.
    """
    from illada_lab.commands.writing import is_chat
    from illada_lab.config import build, compose, to_plain
    from illada_lab.evaluation.autoregressive import Greedy

    node = config.evaluation.get("sampler")
    if node is None:
        return None
    own, usual = to_plain(node), to_plain(compose([f"evaluation={WORLD}"]).evaluation.sampler)
    idle: set[str] = set()
    if is_twin := loaded.predictor.spec.is_causal:
        idle = set(own) - ({"max_length"} if is_chat(loaded.config) else set())
    elif not is_chat(loaded.config) and own["_target_"] == usual["_target_"]:
        idle = set(OF_ANSWERS)
    whom = TWIN if is_twin else "a base model, which completes statements of a given length"
    for key, value in own.items():
        if key in idle and value != usual.get(key):
            raise ValueError(f"evaluation.sampler.{key} = {value}; has no effect on {whom}; leave it out")
    if is_twin:
        return Greedy(max_length=own["max_length"]) if is_chat(loaded.config) else None
    return build(node, **({"tokenizer": loaded.tokenizer} if own.get("stop_strings") else {}))


def frame_of(loaded: Any) -> dict[str, Any]:
    """What stands around the questions to a base model, where that is not BOS and EOS."""
    from illada_lab.commands.writing import is_chat
    from illada_lab.tokens import has_bos_of, has_eos_of

    frame = {"has_bos": has_bos_of(loaded.config["data"]), "has_eos": has_eos_of(loaded.config["data"])}
    return {} if is_chat(loaded.config) or all(frame.values()) else frame
