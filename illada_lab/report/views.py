"""Parts of the results as the page shows them: text, figures and what stands below them."""

import re
from typing import Any

from illada_lab.report import figures, tables
from illada_lab.student_t import place


def stage_view(stage: dict[str, Any]) -> dict[str, Any]:
    """A training stage with its figures and what stands below them."""
    from markupsafe import Markup

    entropies = stage.get("entropy_per_token") or {}
    limits = figures.loss_limits(stage)
    last = last_bounds(stage)
    # "all" first: the training loss stands in that panel. Without it the training loss has a panel of its own.
    kinds: list[str | None] = sorted(last, key=lambda kind: kind != "all")  # type: ignore[assignment]
    if "all" not in last and stage.get("train_curve"):
        kinds.insert(0, None)
    whole = [
        record
        for record in stage.get("validation_curve") or []
        if record["kind"] == "all" and record.get("nelbo_per_token") is not None and record.get("stderr") is not None
    ]
    known = {name: value for name, value in (stage.get("landmarks") or {}).items() if value is not None}
    warnings = [f"{line}." for line in tables.bound_warnings(whole, known)]
    panels = [
        {
            "svg": Markup(figures.loss_figure(stage, kind, limits)),
            "name": title(kind),
            "reading": " ".join(
                [reading(last.get(kind or ""), entropies, stage), *(warnings if kind == "all" else [])]
            ),
        }
        for kind in kinds
    ]
    bins = [b for b in stage.get("t_bins") or [] if b.get("loss") is not None]
    return {
        **with_absent(stage, ("seconds", "tokens", "tokens_per_second")),
        "panels": panels,
        "has_entropy": bool(entropies),
        "bins_svg": Markup(figures.time_figure(bins, f"{stage['name']}: bound by masked share")) if bins else None,
        "bins": [
            {
                "kind": b.get("kind"),
                "t": f"{b['t_low']:g} to {b['t_high']:g}",
                "loss": f"{b['loss']:.3f}",
                "interval": tables.interval(b.get("ci_low"), b.get("ci_high"), "").strip(),
                "n": b.get("n"),
            }
            for b in bins
        ],
    }


def overlay_panels(stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Curves of several runs in one panel for each kind of held-out text that all of them have."""
    from markupsafe import Markup

    shared = [kind for kind in last_bounds(stages[0]) if all(kind in last_bounds(stage) for stage in stages)]
    kinds = sorted(shared, key=lambda kind: kind != "all")
    if len(kinds) == 2:  # of one kind, all is the same
        kinds = kinds[:1]
    each = [figures.loss_limits(stage) for stage in stages]
    limits = min(low for low, _ in each), max(high for _, high in each)
    return [
        {"name": title(kind), "svg": Markup(figures.overlay_figure(stages, kind, limits, has_legend=not place))}
        for place, kind in enumerate(kinds)
    ]


def last_bounds(stage: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The last record of each kind in the validation curve of a stage."""
    curve = stage.get("validation_curve") or []
    return {record["kind"]: record for record in curve if record.get("nelbo_per_token") is not None}


def over_entropy(stage: dict[str, Any]) -> dict[str, Any]:
    """How far the last bound of each kind is above its entropy: bound / entropy - 1."""
    given = {kind: value for kind, value in (stage.get("over_entropy") or {}).items() if value is not None}
    entropies = stage.get("entropy_per_token") or {}
    found: dict[str, Any] = {}
    for record in stage.get("validation_curve") or []:
        entropy, bound = entropies.get(record["kind"]), record.get("nelbo_per_token")
        if entropy and bound is not None:
            found[record["kind"]] = bound / entropy - 1
    return {**found, **given}


def glance(results: dict[str, Any]) -> list[dict[str, str]]:
    """The few numbers a reader looks for first: name, value, note."""
    found = []
    if results.get("parameters"):
        rest = results["parameters"].get("non_embedding")
        note = "" if rest is None else f"{rest:,} without embeddings"
        found.append({"name": "parameters", "value": f"{results['parameters']['total']:,}", "note": note})
    for stage in results.get("stages") or []:
        above = over_entropy(stage)
        kinds = [kind for kind in above if kind != "all"] or list(above)
        if kinds:
            note = ", ".join(f"{kind} {100 * above[kind]:+.1f} %" for kind in kinds)
            value = f"{100 * above.get('all', above[kinds[0]]):+.1f} %"
            found.append(
                {
                    "name": f"{stage['name']}: bound against entropy",
                    "value": value,
                    "note": note if len(above) > 1 else kinds[0],
                }
            )
    if places := _places(results):
        unusual = [f"{kind} {word}" for kind, word in places.items() if word != "usual"]
        note = ", ".join(unusual) if unusual else f"{len(places)} of {len(places)} kinds of text"
        note += "; by chance one in 20 is not"
        value = "usual" if not unusual else f"{len(unusual)} of {len(places)} unusual"
        found.append({"name": "bounds beside recorded runs", "value": value, "note": note})
    verdicts = [tables.verdict(row) for table in results.get("tables") or [] for row in table["rows"]]
    verdicts = [verdict for verdict in verdicts if verdict]
    if verdicts:
        note = "every one" if set(verdicts) == {"reached"} else f"{verdicts.count('open')} more within their interval"
        found.append(
            {"name": "targets reached", "value": f"{verdicts.count('reached')} of {len(verdicts)}", "note": note}
        )
    if results["manifest"].get("seconds") is not None:
        parts = [
            f"{s['name']} {tables.duration(s['seconds'])}"
            for s in results.get("stages") or []
            if s.get("seconds") is not None
        ]
        found.append({"name": "time", "value": tables.whole_time(results["manifest"]), "note": ", ".join(parts)})
    return found


def _places(results: dict[str, Any]) -> dict[str, str]:
    """Where the last bound of each stage and kind lies beside recorded runs of the recipe, in a word."""
    found = {}
    for stage in results.get("stages") or []:
        for kind, row in last_bounds(stage).items():
            if kind != "all" and row.get("usual_low") is not None:
                found[f"{stage['name']}: {kind}"] = place(row["nelbo_per_token"], row["usual_low"], row["usual_high"])
    return found


def reading(record: dict[str, Any] | None, entropies: dict[str, Any], stage: dict[str, Any]) -> str:
    """The last point of a curve in words and both units."""
    if record is None:
        return ""
    bound, around = record["nelbo_per_token"], 1.96 * (record.get("stderr") or 0)
    text = f"At step {record['step']:,}: {bound:.3f} ± {around:.3f} nats, {bound / figures.LN2:.3f} bits per token"
    above, entropy = over_entropy(stage).get(record["kind"]), entropies.get(record["kind"])
    if entropy is None or above is None:
        return text + f". The entropy of this text is not known exactly. {_usual(record, stage)}".rstrip()
    side = "above" if above >= 0 else "below"
    return (
        text + f"; {abs(100 * above):.1f} % {side} the entropy ({entropy:.3f} nats, {entropy / figures.LN2:.3f} bits). "
        f"{_usual(record, stage)}"
    ).rstrip()


def _usual(record: dict[str, Any], stage: dict[str, Any]) -> str:
    """Whether a bound is normal, in a sentence; nothing in results of before runs were held beside others."""
    low, high, n = (record.get(key) for key in ("usual_low", "usual_high", "n_recorded"))
    if low is None or high is None or n is None:
        return "No run of this recipe is recorded beside which it could be held." if stage.get("landmarks") else ""
    word = place(record["nelbo_per_token"], low, high).capitalize()
    return f"{word}: 95 % of other seeds of this recipe are expected between {low:.3f} and {high:.3f} nats ({n} recorded runs)."


def title(kind: str | None) -> str:
    """Heading of a panel; None: training loss alone."""
    return {None: "Training", "all": "All kinds together"}.get(kind) or str(kind).replace("_", " ")


def by_model(samples: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Samples by model and, in it, by kind, each in order of first appearance."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for sample in samples:
        grouped.setdefault(sample["model"], []).append(with_absent(sample, ("prompt", "answer", "is_correct")))
    for listed in grouped.values():
        kinds = list(dict.fromkeys(sample["kind"] for sample in listed))
        listed.sort(key=lambda sample: kinds.index(sample["kind"]))
    return grouped


def claim_view(claim: dict[str, Any]) -> dict[str, Any]:
    """A claim with its effect and interval as text."""
    effect, around = claim.get("effect"), tables.interval(claim.get("ci_low"), claim.get("ci_high"), "").strip()
    shown = "" if effect is None else f"{effect:.4g}" + ("" if around == tables.ABSENT else f" ({around})")
    return {**with_absent(claim, ("id", "source", "metric")), "effect": shown}


def words(machine: dict[str, Any]) -> str:
    """A machine in a line."""
    named = {
        "processor": "{}",
        "cores": "{} cores",
        "threads": "{} threads",
        "memory_gib": "{} GiB memory",
        "gpu": "{}",
    }
    known = [text.format(machine[key]) for key, text in named.items() if machine.get(key) is not None]
    known = [re.sub(r"^(1 \w+)s$", r"\1", text) for text in known]
    rest = [f"{key} {value}" for key, value in machine.items() if key not in named and value is not None]
    return ", ".join(known + rest)


def with_absent(row: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """A row in which these keys are there, as None if need be."""
    return {**dict.fromkeys(keys), **row}
