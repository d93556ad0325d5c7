"""The report: one HTML file that needs nothing but a browser."""

from pathlib import Path
from typing import Any

from illada_lab.files import write_text
from illada_lab.report import player, tables, views
from illada_lab.report.schema import SECTIONS, checked

TEMPLATES = Path(__file__).parent / "templates"


def render(results: dict[str, Any]) -> str:
    """Results as a self-contained HTML page.

    Args:
        results: see `illada_lab.report.schema`.

    Raises:
        ValueError: the results do not follow the schema.
    """
    results = checked(results)
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        thousands=lambda value: tables.ABSENT if value is None else f"{value:,.0f}",
        duration=tables.duration,
        plain=_plain,
    )
    traces, stages = results.get("traces") or [], results.get("stages") or []
    beside = results.get("side_by_side")
    return environment.get_template("page.html").render(
        manifest=views.with_absent(
            results["manifest"], ("command", "commit", "scale", "seed", "seconds", "date", "precision", "is_compiled")
        ),
        machine=views.words(results["manifest"].get("machine") or {}),
        versions=results["manifest"].get("versions") or {},
        parameters=results.get("parameters"),
        config={name: _yaml(tree) for name, tree in (results.get("config") or {}).items()},
        glance=views.glance(results) if beside is None and "loss" in (results.get("sections") or SECTIONS) else [],
        stages=[views.stage_view(stage) for stage in stages],
        tables=[
            {**table, "rows": [tables.row_view(row) for row in table["rows"]]} for table in results.get("tables") or []
        ],
        samples=views.by_model(results.get("samples") or []),
        health=[views.with_absent(row, ("value", "note", "is_warning")) for row in results.get("health") or []],
        claims=[views.claim_view(claim) for claim in results.get("claims") or []],
        traces=traces,
        sections=results.get("sections") or SECTIONS,
        beside=None if beside is None else {**beside, "panels": views.overlay_panels(stages)},
        # Our own files, and JSON that player.payload has made safe.
        player_data=Markup(player.payload(traces)),  # noqa: S704
        scale=player.SCALE,
        style=Markup((TEMPLATES / "page.css").read_text("utf-8")),  # noqa: S704
        script=Markup((TEMPLATES / "denoiser.js").read_text("utf-8")),  # noqa: S704
    )


def write_report(path: str | Path, results: dict[str, Any]) -> Path:
    """Render and write, aside and renamed.

    Returns:
        The path.

    Raises:
        ValueError: the results do not follow the schema.
    """
    return write_text(path, render(results))


def _plain(value: Any) -> str:
    """A number or text of a small table."""
    return tables.ABSENT if value is None else f"{value:,.4g}" if isinstance(value, float) else str(value)


def _yaml(tree: Any) -> str:
    """A configuration as a person would write it."""
    import yaml

    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=100).rstrip()
