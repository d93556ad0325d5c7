"""Every notebook: the committed .ipynb is its .py, was run from top to bottom, and runs again at smoke scale."""

import os
import re

import pytest

from tests.notebooks.run import FOLDER, SOURCES, execute, source

jupytext = pytest.importorskip("jupytext")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")

SKELETON = (
    "**Paper:**", "**Time:**", "## The idea", "## The run", "## What the paper reports", "## Exercises",
    "## What was not reproduced",
)  # fmt: skip
pages = pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)


def committed(path):
    return nbformat.read(path.with_suffix(".ipynb"), as_version=4)


def test_every_page_has_both_files():
    assert SOURCES
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {path.stem for path in SOURCES}


@pages
def test_the_committed_notebook_is_its_source(path):
    def cells(notebook):
        return [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in notebook.cells]

    assert cells(committed(path)) == cells(source(path)), f"{path.name} has changed: make notebooks"


@pages
def test_the_committed_notebook_was_run_from_top_to_bottom(path):
    code = [cell for cell in committed(path).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    text = "\n".join(
        str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", "")) for output in outputs
    )
    assert any("image/png" in output.get("data", {}) for output in outputs), "no figure"
    assert not re.search(r"(?<![\w.])/(tmp|home|root|usr|work|Users|content)/", text), "a path of one machine"


@pages
def test_the_skeleton_is_whole(path):
    notebook = source(path)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    at = [text.find(part) for part in SKELETON]
    assert -1 not in at and at == sorted(at), [part for part, i in zip(SKELETON, at, strict=True) if i < 0]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[0].source == next(cell.source for cell in source(SOURCES[0]).cells if cell.cell_type == "code")
    assert "pip" in code[0].source and "illada_lab" in code[0].source
    assert code[1].metadata.get("tags") == ["parameters"] and code[1].source.startswith('scale = "toy"')
    assert sum("assert " in cell.source for cell in code) >= 2
    assert "<details>" in text


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory):
    """One folder of runs: models are trained once for all notebooks."""
    return tmp_path_factory.mktemp("runs")


@pytest.mark.notebooks
@pages
def test_it_runs_at_smoke_scale(path, runs_dir, monkeypatch):
    monkeypatch.setitem(os.environ, "MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = execute(source(path), {"scale": "smoke", "runs_dir": str(runs_dir)})
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
