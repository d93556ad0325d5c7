"""The results file of the main job (`illada_lab.report.schema`): written whole or not at all."""

import json
from pathlib import Path
from typing import Any

from illada_lab.files import write_text
from illada_lab.report.schema import check_results, checked

__all__ = ["check_results", "read_results", "write_results"]


def write_results(path: str | Path, results: dict[str, Any]) -> Path:
    """Write results aside and rename: a reader never sees half a file.

    Args:
        path: of the JSON file; its folder is made.
        results: see `illada_lab.report.schema`.

    Returns:
        The path.

    Raises:
        ValueError: the results do not follow the schema.
    """
    return write_text(path, json.dumps(checked(results), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_results(path: str | Path) -> dict[str, Any]:
    """Read a results file.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no results file of this schema.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"results = {path}; no such file; results.json of a finished `illada-lab reproduce`")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"results = {path}; not JSON (line {error.lineno}: {error.msg}); run the job again") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"results = {path}; not UTF-8 text (byte {error.start}); run the job again") from error
    return checked(results)
