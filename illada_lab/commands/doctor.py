"""`illada-lab doctor`: what this machine has, and what would be used."""

import json
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

# Settings that the size of the model depends on.
USED = ("scale", "experiment", "model", "tokenizer", "data")


def translate(overrides: Sequence[str]) -> list[str]:
    """The overrides as they are; raises ValueError for those without effect."""
    from illada_lab.commands.effect import refuse_without_effect

    return refuse_without_effect("doctor", overrides, USED)


def run(config: DictConfig, is_json: bool = False) -> int:
    """Print what was found, as tables or as JSON; the configured model is weighed against the free memory."""
    from illada_lab.doctor import examine
    from illada_lab.planner.size import model_spec

    found = examine(model_spec(config).n_parameters)
    if is_json:
        print(json.dumps(found, indent=1))
        return 0
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    state = found.pop("training_state")
    for title, rows in _sections(found):
        table = Table(title=title, title_justify="left", title_style="bold", show_header=False, min_width=60)
        for name, value in rows.items():
            text = escape(_text(value))
            # Missing extras are an offer, not a fault: no colour for them.
            is_good, is_bad = text in ("works", "installed", "True"), text.startswith(("no:", "wrong", "none:"))
            table.add_row(name, f"[green]{text}[/]" if is_good else f"[red]{text}[/]" if is_bad else text)
        console.print(table)
    verdict = {True: "fits", False: "does not fit", None: "free memory not known"}[state["fits"]]
    console.print(
        f"scale={config.scale.name}: {state['parameters']:,} parameters, {state['state_gib']} GiB of weights, "
        f"gradients and AdamW in float32 ({state['free_gib']} GiB free: {verdict}; activations come on top)"
    )
    return 0


def _sections(found: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    titles = {
        "versions": "Versions",
        "cpu": "Processor",
        "memory": "Memory and disk",
        "gpu": "GPU",
        "kernels": "Attention kernels, tried",
        "would_use": "What would be used",
        "extras": "Optional packages",
    }
    return [(title, found[key] or {"": "none"}) for key, title in titles.items()]


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {entry:,}" for key, entry in value.items())
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none of interest"
    return "none" if value is None else str(value)
