"""`illada-lab evaluate`: score a trained model on the world's questions."""

import json

from omegaconf import DictConfig


def run(config: DictConfig) -> int:
    """Print the table and write `evaluation.json` beside the checkpoint, with a manifest."""
    from illada_lab.commands.writing import is_chat, load
    from illada_lab.data.worlds import World
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
    if is_chat(loaded.config):
        result = evaluate_instruct(loaded.predictor, loaded.tokenizer, world, n_questions=n, seed=config.seed)
    else:
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
    path.write_text(
        json.dumps({"manifest": about, "rows": result.rows, "health": result.health, "items": result.items}, indent=1)
    )
    print(f"written: {path}")
    return 0
