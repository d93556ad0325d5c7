"""Curves of the main job put on record, for other runs to be held beside.

python -m illada_lab.training.reference.recording results/toy/reproduce/*.json
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from illada_lab.config import compose, to_plain
from illada_lab.files import write_text
from illada_lab.training.recipe import differences, recipe
from illada_lab.training.reference import FOLDER, SAME_CURVE

# How each stage of the main job is composed, in order.
STAGES: dict[str, list[str]] = {"pretrain": [], "sft": ["experiment=sft"]}


def record(results: Sequence[Mapping[str, Any]], folder: Path = FOLDER) -> list[Path]:
    """Write the curves of the main job's results, one file per stage, in the place of those of the scale.

    Args:
        results: see `report.schema`; one scale, several seeds, of the recipes that the scale has today.
        folder: of recorded runs.

    Raises:
        ValueError: no results, a seed twice, several scales, or another recipe; nothing is written then.
    """
    scales, seeds = {r["manifest"]["scale"] for r in results}, [r["manifest"]["seed"] for r in results]
    if len(scales) != 1 or len(set(seeds)) < len(seeds):
        raise ValueError(f"results = scales {sorted(scales)}, seeds {seeds}; one scale, every seed once")
    (scale,) = scales
    results = sorted(results, key=lambda result: result["manifest"]["seed"])
    recipes = {name: recipe(to_plain(compose([f"scale={scale}", *more]))) for name, more in STAGES.items()}
    files, start = {}, None
    for number, stage in enumerate(results[0]["stages"]):
        name = stage["name"]
        for result in results:
            for key, was, now in differences(recipe(result["config"][name]), recipes[name]):
                if key not in SAME_CURVE:
                    raise ValueError(
                        f"results = seed {result['manifest']['seed']}, {name}: {key} = {was}; scale={scale} has {now} today; run it anew"
                    )
        runs = [_run(result, number) for result in results]
        files[folder / f"{scale}_{name}.json"] = {"recipe": recipes[name], "start": start, "runs": runs}
        start = recipes[name]  # fine-tuning starts from what pre-training of the same job left
    return [write_text(path, json.dumps(content) + "\n") for path, content in files.items()]


def _run(result: Mapping[str, Any], number: int) -> dict[str, Any]:
    """What is kept of a stage: its curves to four digits, and where they come from."""
    about, stage = result["manifest"], result["stages"][number]
    told = {"seed": about["seed"], "commit": about["commit"], "date": about["date"], "precision": about["precision"]}
    entropies = stage.get("entropy_per_token") or {}
    validation = []
    for row in stage["validation_curve"]:
        kept = {key: round(row[key], 4) for key in ("nelbo_per_token", "stderr")}
        if row["kind"] in entropies:
            kept["entropy_per_token"] = round(entropies[row["kind"]], 4)
        validation.append({"step": row["step"], "kind": row["kind"]} | kept)
    train = [{"step": row["step"], "loss": round(row["loss"], 4)} for row in stage["train_curve"]]
    return {**told, "processor": about["machine"]["processor"], "train": train, "validation": validation}


if __name__ == "__main__":
    for written_path in record([json.loads(Path(name).read_text(encoding="utf-8")) for name in sys.argv[1:]]):
        print(written_path)
