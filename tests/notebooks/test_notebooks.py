"""Every notebook: the committed .ipynb is its .py, was run from top to bottom, and runs again at smoke scale."""

import json
import os
import re
from collections import defaultdict
from html.parser import HTMLParser

import pytest

from tests.notebooks.run import FOLDER, ROOT, SOURCES, execute, source

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


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_saving_it_in_jupyterlab_changes_nothing_in_the_source(path):
    assert jupytext.writes(committed(path), fmt="py:percent") == path.read_text(encoding="utf-8")


VERDICT = re.compile(r"\b(not replicated|replicated|inconclusive)\b")
READS_RESULTS = [path for path in SOURCES if "../results/" in path.read_text(encoding="utf-8")]


@pytest.fixture(scope="module")
def ledger():
    """What the result files say: claim's sentence -> scale -> verdicts, more than one where several studies have the sentence."""
    found = defaultdict(lambda: defaultdict(set))
    for path in (ROOT / "results").glob("*/*.json"):
        for claim in json.loads(path.read_text(encoding="utf-8"))["claims"]:
            found[claim["sentence"]][path.parent.name].add(claim["verdict"])
    return found


class Tables(HTMLParser):
    """The tables of an output: rows of cells."""

    def __init__(self, html):
        super().__init__()
        self.tables = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_data(self, data):
        if self.tables and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1] += data


def shown_verdicts(notebook, sentences, scales):
    """Every verdict that stands beside a claim's sentence in an output: sentence, verdict, the scales it may be of.

    In a table the scale of a verdict is in the title of its column, a cell of its row, or in the titles of the table's other columns;
    in a printed line anywhere. Where none is named, it may be of any.
    """
    for output in (output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs):
        for head, *rows in Tables(output.get("data", {}).get("text/html", "")).tables:
            for row in rows:
                for sentence in sentences & {cell.strip() for cell in row}:
                    for title, cell in zip(head, row, strict=True):
                        if verdict := VERDICT.match(cell.strip()):
                            own = {cell.strip() for cell in row} & scales
                            yield (
                                sentence,
                                verdict[1],
                                named(title, scales) or own or named(" ".join(head), scales) or scales,
                            )
        for line in str(output.get("text", "")).splitlines():
            for sentence in (sentence for sentence in sentences if sentence in line):
                for verdict in VERDICT.findall(line.replace(sentence, "")):
                    yield sentence, verdict, named(line, scales) or scales


def named(text, scales):
    return {scale for scale in scales if re.search(rf"\b{scale}\b", text)}


def stale_verdicts(notebook, ledger):
    """How many verdicts an output shows, and those that no result file has."""
    scales = {scale for of_claim in ledger.values() for scale in of_claim}
    shown = list(shown_verdicts(notebook, set(ledger), scales))
    return len(shown), [
        f"{sentence} {verdict}, {'/'.join(sorted(at))}"
        for sentence, verdict, at in shown
        if not any(verdict in ledger[sentence].get(scale, ()) for scale in at)
    ]


@pytest.mark.parametrize("path", READS_RESULTS, ids=lambda path: path.stem)
def test_the_verdicts_that_are_shown_are_those_of_the_result_files(path, ledger):
    n, stale = stale_verdicts(committed(path), ledger)
    assert n, f"{path.name} reads results and shows no verdict"
    assert not stale, f"{path.name}: make notebooks"


@pytest.mark.parametrize(
    ("output", "n", "n_stale"),
    [
        ("claim|scale|verdict / Cats purr.|toy|replicated", 1, 0),
        ("claim|scale|verdict / Cats purr.|mini|replicated", 1, 1),
        ("claim|verdict / Cats purr.|not replicated", 1, 1),
        ("claim|mini|toy / Cats purr.|inconclusive: +1|inconclusive: +1", 2, 1),
        ("claim|at toy|ledger / Cats purr.|+1|inconclusive: +1", 1, 1),
        ("claim|verdict / Dogs bark.|replicated", 0, 0),
        ("Cats purr. -> replicated", 1, 0),
        ("mini: Cats purr. -> replicated", 1, 1),
    ],
)
def test_a_stale_verdict_is_found(output, n, n_stale):
    said = defaultdict(lambda: defaultdict(set), {"Cats purr.": {"toy": {"replicated"}, "mini": {"inconclusive"}}})
    told = {"output_type": "stream", "name": "stdout", "text": output}
    if "|" in output:
        rows = ["".join(f"<td>{cell}</td>" for cell in row.split("|")) for row in output.split(" / ")]
        html = f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"
        told = {"output_type": "display_data", "data": {"text/html": html}, "metadata": {}}
    cell = nbformat.v4.new_code_cell(outputs=[nbformat.from_dict(told)])
    found, stale = stale_verdicts(nbformat.v4.new_notebook(cells=[cell]), said)
    assert (found, len(stale)) == (n, n_stale)


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
