"""A folder of results is one run's: the same model and settings, or another folder."""

import json
from pathlib import Path
from typing import Any

SETTINGS = "settings.json"


def claim_folder(folder: Path, settings: dict[str, Any]) -> None:
    """Make a folder this run's, or see that it is.

    Args:
        folder: made where it is not there.
        settings: everything the results depend on, plain data.

    Raises:
        ValueError: it holds a run with other settings; the first that differs.
    """
    settings = json.loads(json.dumps(settings))  # tuples become lists, as in the file
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / SETTINGS
    if not file.exists():
        aside = file.with_name(file.name + ".partial")
        aside.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
        aside.replace(file)
        return
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        before = {}
    for key in {**settings, **before}:
        if settings.get(key) != before.get(key):
            raise ValueError(
                f"evaluation.out = {folder}; holds a run with {key} = {before.get(key)}, this one has {settings.get(key)}; another folder"
            )
