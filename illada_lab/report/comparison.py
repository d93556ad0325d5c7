"""Training runs beside each other: what differs, what came out, and what to know before it is compared."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from illada_lab.report.runs import Run, stage_results
from illada_lab.report.tables import ABSENT, duration
from illada_lab.training.recipe import recipe

N_SAMPLES = 5  # of each run: what it wrote last, and on the way there


def runs_results(runs: Sequence[Run]) -> dict[str, Any]:
    """Runs as results of the report's schema: a page of one, or of several beside each other."""
    manifest = runs[0].manifest if len(runs) == 1 else {}
    results: dict[str, Any] = {
        "schema": 1,
        "manifest": manifest,
        "sections": ["loss", "samples"],
        "config": {run.name: run.config for run in runs},
        "stages": [stage_results(run.name, run.history) for run in runs],
        "samples": [
            {"model": run.name, "kind": f"step {sample['step']:,}", "text": sample["text"]}
            for run in runs
            for sample in _spread(run.samples, N_SAMPLES)
        ],
    }
    if len(runs) > 1:
        results["side_by_side"] = side_by_side(runs)
    return results


def _spread(samples: Sequence[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    """At most n of them, the last one among them, evenly spread."""
    return list(samples[:: -max(1, -(-len(samples) // n))][::-1])


def side_by_side(runs: Sequence[Run]) -> dict[str, Any]:
    """What differs between runs, what they came to, and what to know before it is compared.

    Returns:
        `names` of the runs; `settings` and `outcome`: rows of `name` and `values`, one of each run; `notes`: sentences.
    """
    return {
        "names": [run.name for run in runs],
        "settings": [{"name": "folder", "values": [str(run.folder) for run in runs]}, *settings_that_differ(runs)],
        "outcome": _outcome(runs),
        "notes": comparison_notes(runs),
    }


def settings_that_differ(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Of what runs learn from (`training.recipe`) and how they were computed, each that is not the same in all, with its values."""
    flat = [dict(_flat({**recipe(run.config), "init_from": run.config.get("init_from")})) for run in runs]
    how = ("precision", "is_compiled", "commit")
    for settings, run in zip(flat, runs, strict=True):
        settings.update({f"({key})": run.manifest.get(key) for key in how})
    keys = list(dict.fromkeys(key for settings in flat for key in settings))
    return [
        {"name": key, "values": [_word(settings.get(key)) for settings in flat]}
        for key in keys
        if len({_word(settings.get(key)) for settings in flat}) > 1
    ]


def _flat(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, (*path, key))
        else:
            # The class alone: it may have moved.
            yield ".".join((*path, key)), str(value).rpartition(".")[2] if key == "_target_" else value


def _word(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 1.0 and 1 are the same setting
    return ABSENT if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _outcome(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Rows of what came out: bounds of each kind with their 95 % intervals first."""
    kinds = list(dict.fromkeys(kind for run in runs for kind in run.last))
    if len(kinds) == 2:  # of one kind, all is the same
        kinds = [kind for kind in kinds if kind != "all"] or kinds
    rows = []
    for kind in kinds:
        bounds = [run.last.get(kind, {}) for run in runs]
        rows.append({"name": f"{kind}, nats/token", "values": [_bound(row) for row in bounds]})
        if any(row.get("over_entropy") is not None for row in bounds):
            over = [row.get("over_entropy") for row in bounds]
            values = [ABSENT if value is None else f"{100 * value:+.1f} %" for value in over]
            rows.append({"name": f"{kind}, over its entropy", "values": values})
    if any(row.get("bits_per_byte") is not None for run in runs for row in run.last.values()):
        bits = [run.last.get("all", {}).get("bits_per_byte") for run in runs]
        rows.append(
            {"name": "all, bits/byte", "values": [ABSENT if value is None else f"{value:.3f}" for value in bits]}
        )
    tokens = [run.history.get("tokens_seen", run.history["tokens"]) for run in runs]
    speed = [run.history["tokens_per_second"] for run in runs]
    steps = [
        f"{run.step:,}" + (f" of {n:,}" if (n := run.facts.get("n_steps", run.step)) != run.step else "")
        for run in runs
    ]
    return [
        *rows,
        {"name": "steps", "values": steps},
        {"name": "tokens", "values": [f"{n:,}" for n in tokens]},
        {"name": "training time", "values": [duration(run.history["seconds"]) for run in runs]},
        {"name": "tokens/s", "values": [ABSENT if value is None else f"{value:,.0f}" for value in speed]},
    ]


def _bound(row: Mapping[str, Any]) -> str:
    return f"{row['nelbo_per_token']:.4f} ± {1.96 * row['stderr']:.4f}" if row else ABSENT


def comparison_notes(runs: Sequence[Run]) -> list[str]:
    """What to know before bounds of different runs are compared: whether they are of the same text, and of the same kind."""
    notes, held_out = [], [run.facts.get("held_out") for run in runs]
    if None in held_out:
        unknown = ", ".join(run.name for run, text in zip(runs, held_out, strict=True) if text is None)
        notes.append(
            f"! {unknown}: recorded before runs said what they are validated on; see to it that it is the same text"
        )
    if len({text for text in held_out if text is not None}) > 1:
        notes.append(
            "! the runs are validated on other texts, or these are cut into other tokens: their bounds in nats per token are not to be "
            "compared (bits per byte are, where the texts are the same)"
        )
    kinds = dict.fromkeys("-log p itself" if _is_causal(run) else "a bound on it" for run in runs)
    if len(kinds) > 1:
        notes.append(
            "! the autoregressive twin has -log p itself, the others a bound on it: a lower number of the twin may be the bound's gap"
        )
    if len({run.step for run in runs}) > 1:
        notes.append("! not all have trained equally many steps")
    notes.append(
        "± is the 95 % interval of a bound over texts and masks; where these are the same, a difference between runs scatters less; but "
        "other seeds give other bounds, and one run of each does not tell whether a setting helps"
    )
    return notes


def _is_causal(run: Run) -> bool:
    return bool(run.config["model"].get("is_causal"))
