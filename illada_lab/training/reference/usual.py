"""Is this loss normal? What recorded runs of the same recipe, with other seeds, had at the same step."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from omegaconf import DictConfig

from illada_lab.student_t import prediction_interval
from illada_lab.training.checkpoint import read_about
from illada_lab.training.recipe import MACHINE, recipe, recipe_of

FOLDER = Path(__file__).parent / "recorded"
# A single loss swings with t; the mean of so many steps can be compared. Our choice: a toy's spread of it over seeds is some percent.
WINDOW = 50
# Settings that change a curve by no more than a seed does: other draws, other roundings, other devices. (Muon orthogonalises in bf16
# on a GPU and in float32 on a CPU; pre-training ends alike, fine-tuned answers differ: results/tried.md. `Reference.where` tells.)
SAME_CURVE = MACHINE | {"seed", "data.seed", "data.source.seed"}


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
    return mean(chosen) if chosen else None


class Reference:
    """Recorded runs of one recipe.

    Args:
        runs: of each `seed`, `processor`, `precision`, `train` (step, loss) and `validation` (step, kind, nelbo_per_token, stderr and,
            where it is known, entropy_per_token of the held-out text, which is another one for every seed).
    """

    def __init__(self, runs: Sequence[Mapping[str, Any]]) -> None:
        self.runs = list(runs)

    @property
    def where(self) -> str:
        """On what the runs were computed, in words."""
        return ", ".join(sorted({f"{run['processor']} ({run['precision']})" for run in self.runs}))

    def loss(self, step: int) -> Usual | None:
        """Usual mean training loss of the `WINDOW` steps up to `step`; None before the window is full or where fewer than two have it."""
        found = [recent(run["train"], step) for run in self.runs] if step >= WINDOW else []
        values = [value for value in found if value is not None]
        return Usual(*prediction_interval(values), len(values)) if len(values) > 1 else None

    def bound(self, kind: str, step: int, entropy: float | None = None) -> Usual | None:
        """Usual bound on held-out text of a kind after `step`; None where fewer than two runs were validated there.

        Args:
            kind: of text; `all`.
            step: optimiser step.
            entropy: of the held-out text of the run that is compared, nats per token. Where it is known of all, gaps to it are compared:
                one seed's text has more of it than another's. The range then ends where only the scatter of an estimate can be, however
                wide the seeds lie apart: a lower loss would be a mistake.
        """
        rows = [row for run in self.runs for row in run["validation"] if (row["kind"], row["step"]) == (kind, step)]
        if len(rows) < 2:
            return None
        if entropy is None or any(row.get("entropy_per_token") is None for row in rows):
            return Usual(*prediction_interval([row["nelbo_per_token"] for row in rows]), len(rows))
        gaps = [row["nelbo_per_token"] - row["entropy_per_token"] for row in rows]
        low, high = prediction_interval(gaps)
        scatter = min([0.0, *gaps, -2 * mean(row["stderr"] for row in rows)])
        return Usual(entropy + max(low, scatter), entropy + high, len(rows))

    def beside(self, summary: dict[str, dict[str, float]], step: int) -> None:
        """Put `usual_low`, `usual_high` and `n_recorded` into the rows of a validation's summary, where something is recorded."""
        for kind, row in summary.items():
            if (usual := self.bound(kind, step, row.get("entropy_per_token"))) is not None:
                row.update(usual_low=usual.low, usual_high=usual.high, n_recorded=usual.n)


def reference_for(
    config: DictConfig, start: Mapping[str, Any] | None, checkpoint: Path | None = None, folder: Path = FOLDER
) -> Reference | None:
    """The recorded runs beside which a run that is about to begin can be held; None: there are none.

    Args:
        config: composed.
        start: see `find_reference`.
        checkpoint: that it goes on from. With other settings than those that it was saved with its curve is of neither recipe.
        folder: of recorded runs.
    """
    if (found := find_reference(config, start, folder)) is None:
        return None
    if config.init_from is not None and not _is_finished(config.init_from):
        return None
    if checkpoint is not None and not _is_same(recipe_of(checkpoint), recipe(config)):
        return None
    return found


def find_reference(
    config: DictConfig | Mapping[str, Any], start: Mapping[str, Any] | None, folder: Path = FOLDER
) -> Reference | None:
    """The recorded runs of a configuration's recipe, but for seeds and where it is computed; None: there are none.

    Args:
        config: composed, or resolved and plain. Runs of its own seed are left out: it is held beside others.
        start: recipe of the model whose weights the run starts from (see `recipe_of`); None: from nothing.
        folder: of recorded runs.
    """
    own = recipe(config)
    if config["init_from"] is not None and start is None:
        return None  # a published model, of which nobody knows
    for path in sorted(folder.glob("*.json")):
        recorded = json.loads(path.read_text(encoding="utf-8"))
        if _is_same(recorded["recipe"], own) and _is_same(recorded["start"], start):
            return Reference([run for run in recorded["runs"] if run["seed"] != own["seed"]])
    return None


def _is_finished(path: str | Path) -> bool:
    """Whether a model has gone all the way of its run."""
    about = read_about(path)
    return about["global_step"] >= about["illada_lab"]["config"]["trainer"]["max_steps"]


def _is_same(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    """Whether two recipes differ in nothing that shows in a curve. A setting that one does not know is a difference, unlike where a
    run goes on: what is recorded is recorded anew when a setting comes into the world.
    """
    if one is None or other is None:
        return one is other
    first, second = dict(_flat(one)), dict(_flat(other))
    absent = object()
    changed = (key for key in {**first, **second} if first.get(key, absent) != second.get(key, absent))
    return all(key in SAME_CURVE for key in changed)


def _flat(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Leaves by their names with dots; a list is a leaf, an empty part too."""
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from _flat(value, (*path, str(key)))
    else:
        yield ".".join(path), tree
