"""The report: one HTML file that needs nothing but a browser."""

import json
import os
from pathlib import Path
from typing import Any

from illada_lab.report.results import check_results

TEMPLATES = Path(__file__).parent / "templates"


def render(results: dict[str, Any]) -> str:
    """Results as a self-contained HTML page.

    Args:
        results: see `illada_lab.report.results`.

    Raises:
        ValueError: a part of the schema is missing.
    """
    check_results(results)
    import jinja2
    from markupsafe import Markup
    from omegaconf import OmegaConf

    from illada_lab.report.figures import loss_curve, time_bins

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.1f} %"
    environment.filters["thousands"] = lambda number: f"{number:,.0f}"
    stages = [
        {
            **stage,
            "curve": Markup(loss_curve(stage)),  # noqa: S704 - our own SVG; its labels are escaped by matplotlib
            "bins": Markup(time_bins(stage["t_bins"])) if stage["t_bins"] else None,  # noqa: S704
        }
        for stage in results["stages"]
    ]
    # "</" would end the script element, whatever the string it stands in.
    traces = json.dumps(results["traces"], ensure_ascii=False).replace("</", "<\\/").replace("<!--", "<\\!--")
    return environment.get_template("report.html").render(
        **{key: results[key] for key in ("manifest", "parameters", "tables", "samples", "health")},
        stages=stages,
        config={name: OmegaConf.to_yaml(OmegaConf.create(tree)) for name, tree in results["config"].items()},
        traces=Markup(traces),  # noqa: S704 - escaped above
        n_traces=len(results["traces"]),
        style=Markup((TEMPLATES / "report.css").read_text("utf-8")),  # noqa: S704
        script=Markup((TEMPLATES / "player.js").read_text("utf-8")),  # noqa: S704
    )


def write_report(path: str | Path, results: dict[str, Any]) -> Path:
    """Render and write, aside and renamed; returns the path."""
    path = Path(path)
    text = render(results)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".partial")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)
    return path
