"""Is this loss normal? What recorded runs of the same recipe, with other seeds, had at the same step.

python -m illada_lab.training.reference results/toy/reproduce/*.json   # record them, in the place of what was recorded of their recipes
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from illada_lab.files import write_text
from illada_lab.student_t import prediction_interval
from illada_lab.training.recipe import differences, recipe

FOLDER = Path(__file__).parent / "recorded"
# A single loss swings with t; the mean of so many steps can be compared. Our choice: a toy's spread of it over seeds is 2 % late in a run.
WINDOW = 50
# Settings that change a run by no more than its seed does: other draws, other roundings, the same arithmetic on other devices.
SAME_CURVE = frozenset(
    ["seed", "data.seed", "data.source.seed", "data.micro_batch_size", "data.n_workers"]
    + [
        f"trainer.{name}"
        for name in ("accelerator", "devices", "n_nodes", "strategy", "tensor_parallel", "precision",
                     "activation_checkpointing", "is_compiled", "attention")
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Usual:
    """Where another run of the recipe is expected.

    Attributes:
        low, high: ends of the 95 % prediction interval, nats per token.
        n: recorded runs behind it.
    """

    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"usual {self.low:.3g} to {self.high:.3g}"


def recent(records: Sequence[Mapping[str, Any]], step: int) -> float | None:
    """Mean training loss of the last `WINDOW` steps up to `step`, nats per token; None where none is recorded.

    Args:
        records: `train` of a history: `step` (the last of a few) and `loss` (their mean), in order.
        step: optimiser step.
    """
    chosen = [record["loss"] for record in records if step - WINDOW < record["step"] <= step]
    return sum(chosen) / len(chosen) if chosen else None


class Reference:
    """Recorded runs of one recipe.

    Args:
        runs: of each `train` (step, loss) and `validation` (step, kind, nelbo_per_token and, where it is known, entropy_per_token of the
            held-out text, which is another one for every seed).
    """

    def __init__(self, runs: Sequence[Mapping[str, Any]]) -> None:
        self.runs = list(runs)

    def loss(self, step: int) -> Usual | None:
        """Usual mean training loss of the `WINDOW` steps up to `step`; None before the window is full or where fewer than two have it."""
        found = [recent(run["train"], step) for run in self.runs] if step >= WINDOW else []
        return _usual([value for value in found if value is not None])

    def bound(self, kind: str, step: int, entropy: float | None = None) -> Usual | None:
        """Usual bound on held-out text of a kind after `step`; None where fewer than two runs were validated there.

        Args:
            kind: of text; `all`.
            step: optimiser step.
            entropy: of the held-out text of the run that is compared, nats per token. Where it is known of all, gaps to it are compared:
                one seed's text has more of it than another's.
        """
        rows = [row for run in self.runs for row in run["validation"] if (row["kind"], row["step"]) == (kind, step)]
        has_entropy = entropy is not None and all(row.get("entropy_per_token") is not None for row in rows)
        limit = entropy if entropy is not None and has_entropy else 0.0
        gaps = [row["nelbo_per_token"] - (row["entropy_per_token"] if has_entropy else 0.0) for row in rows]
        return _usual([limit + gap for gap in gaps])

    def beside(self, summary: dict[str, dict[str, float]], step: int) -> None:
        """Put `usual_low`, `usual_high` and `n_recorded` into the rows of a validation's summary, where something is recorded."""
        for kind, row in summary.items():
            if (usual := self.bound(kind, step, row.get("entropy_per_token"))) is not None:
                row.update(usual_low=usual.low, usual_high=usual.high, n_recorded=usual.n)


def find_reference(
    config: DictConfig | Mapping[str, Any], start: Mapping[str, Any] | None, folder: Path = FOLDER
) -> Reference | None:
    """The recorded runs of a configuration's recipe, but for seeds and where it is computed; None: there are none.

    Args:
        config: composed, or resolved and plain.
        start: recipe of the model whose weights the run starts from (see `recipe_of`); None: from nothing.
        folder: of recorded runs.
    """
    own = recipe(config)
    for path in sorted(folder.glob("*.json")):
        recorded = json.loads(path.read_text(encoding="utf-8"))
        if _is_same(recorded["recipe"], own) and _is_same(recorded["start"], start):
            return Reference(recorded["runs"])
    return None


def record(results: Sequence[Mapping[str, Any]], folder: Path = FOLDER) -> list[Path]:
    """Write the curves of the main job's results, one file per stage and scale.

    Args:
        results: see `report.schema`; one recipe, several seeds.
        folder: of recorded runs.

    Raises:
        ValueError: results of several recipes in one file.
    """
    written = []
    for number, stage in enumerate(results[0]["stages"]):
        name, scale = stage["name"], results[0]["manifest"]["scale"]
        recipes = [recipe(result["config"][name]) for result in results]
        for result, other in zip(results, recipes, strict=True):
            if not _is_same(recipes[0], other):
                raise ValueError(
                    f"results = seed {result['manifest']['seed']} of scale {result['manifest']['scale']}; of another recipe than the "
                    "first; one recipe at a time"
                )
        # Fine-tuning starts from what pre-training of the same job left.
        start = recipe(results[0]["config"][results[0]["stages"][number - 1]["name"]]) if number else None
        runs = [_run(result, number) for result in results]
        text = json.dumps({"recipe": recipes[0], "start": start, "runs": runs})
        written.append(write_text(folder / f"{scale}_{name}.json", text + "\n"))
    return written


def _run(result: Mapping[str, Any], number: int) -> dict[str, Any]:
    """What is kept of a stage: its curves to four digits, and where they come from."""
    about, stage = result["manifest"], result["stages"][number]
    told = {"seed": about["seed"], "commit": about["commit"], "date": about["date"], "precision": about["precision"]}
    validation = []
    for row in stage["validation_curve"]:
        kept = {"step": row["step"], "kind": row["kind"], "nelbo_per_token": round(row["nelbo_per_token"], 4)}
        entropy = (stage.get("entropy_per_token") or {}).get(row["kind"])
        validation.append(kept if entropy is None else {**kept, "entropy_per_token": round(entropy, 4)})
    train = [{"step": row["step"], "loss": round(row["loss"], 4)} for row in stage["train_curve"]]
    return {**told, "processor": about["machine"]["processor"], "train": train, "validation": validation}


def _usual(values: Sequence[float]) -> Usual | None:
    return Usual(*prediction_interval(values), len(values)) if len(values) > 1 else None


def _is_same(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    """Whether two recipes differ in nothing that shows in a curve; adapters are no setting that one could fail to know."""
    if one is None or other is None:
        return one is other
    return set(one) == set(other) and all(name in SAME_CURVE for name in _changed(one, other))


def _changed(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    return (name for name, _, _ in differences(one, other))


if __name__ == "__main__":
    for written_path in record([json.loads(Path(name).read_text(encoding="utf-8")) for name in sys.argv[1:]]):
        print(written_path)
