"""Executes the notebooks: `python -m tests.notebooks.run [01_objective ...]` writes each .ipynb anew from its .py, at toy scale."""

import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "notebooks"
SOURCES = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
# Longer than any notebook that finds its models, and long enough to train them once on two cores.
TIMEOUT = 3600


def source(path: Path) -> Any:
    """A notebook read from its .py, without outputs; cell ids depend on the place alone."""
    import jupytext

    notebook = jupytext.read(path)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02}"
    return notebook


def execute(notebook: Any, parameters: dict[str, str] | None = None) -> Any:
    """Run a notebook from top to bottom in the notebooks' folder.

    Args:
        notebook: changed in place.
        parameters: lines of the cell tagged `parameters` that are replaced, name -> text.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
    """
    from nbclient import NotebookClient

    for cell in notebook.cells:
        if parameters and "parameters" in cell.metadata.get("tags", []):
            lines = [line.partition(" = ")[0] for line in cell.source.splitlines()]
            assert set(parameters) <= set(lines), f"{sorted(parameters)}: not all of them are parameters: {lines}"
            cell.source = "\n".join(f"{name} = {parameters[name]!r}" if name in parameters else old
                                    for name, old in zip(lines, cell.source.splitlines(), strict=True))  # fmt: skip
    NotebookClient(
        notebook,
        timeout=TIMEOUT,
        startup_timeout=300,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(FOLDER)}},
    ).execute(env={**os.environ, "PYTHONPATH": str(ROOT)})  # this checkout, whatever is installed
    return notebook


def main(names: list[str]) -> None:
    """Write the notebooks of these names, or all."""
    import nbformat

    for path in SOURCES:
        if names and path.stem not in names:
            continue
        print(path.stem, flush=True)
        notebook = execute(source(path))
        # What differs from machine to machine and says nothing.
        notebook.metadata.pop("language_info", None)
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)
            if cell.cell_type == "code":  # hints of the machine's own packages
                cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        nbformat.write(notebook, path.with_suffix(".ipynb"))


if __name__ == "__main__":
    main(sys.argv[1:])
