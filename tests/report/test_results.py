import copy
import json

import numpy as np
import pytest

from illada_lab.report import read_results, write_results
from illada_lab.report.results import check_results
from illada_lab.report.summary import summary
from tests.report.example import example_results


def test_written_results_come_back_the_same(tmp_path):
    results = example_results()
    path = write_results(tmp_path / "run" / "results.json", results)
    assert read_results(path) == json.loads(json.dumps(results))
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


def test_the_summary_tells_where_each_seed_was_run():
    """One line where all were run in one way; else the seeds of each."""
    results = [example_results() for _ in range(3)]
    for seed, result in enumerate(results):
        result["manifest"] |= {"seed": seed, "precision": "32-true"}
    alike = summary(results)
    assert "; seed" not in alike and alike.count("32-true") == 1
    results[1]["manifest"]["precision"] = "bf16-mixed"
    (told,) = (line for line in summary(results).splitlines() if "bf16-mixed" in line)
    assert "seed 0, 2: " in told and "seed 1: " in told and told.index("32-true") < told.index("bf16-mixed")


def test_numbers_that_json_does_not_know_become_null(tmp_path):
    results = {
        "schema": 1,
        "manifest": {"seconds": np.float32(2.5), "seed": np.int64(3)},
        "stages": [
            {"name": "pretrain", "train_curve": [{"step": 1, "loss": float("nan")}, {"step": 2, "loss": float("-inf")}]}
        ],
    }
    read = read_results(write_results(tmp_path / "results.json", results))
    assert [r["loss"] for r in read["stages"][0]["train_curve"]] == [None, None]
    assert read["manifest"] == {"seconds": 2.5, "seed": 3}
    assert "NaN" not in (tmp_path / "results.json").read_text()


def test_half_a_surrogate_pair_can_be_written(tmp_path):
    results = {"schema": 1, "manifest": {"command": "broken \ud83d byte"}}
    assert read_results(write_results(tmp_path / "r.json", results))["manifest"]["command"] == "broken ? byte"


def _at(results, path, value):
    """Results with another value at a path; the value `...` deletes."""
    results = copy.deepcopy(results)
    *way, last = path
    inner = results
    for key in way:
        inner = inner[key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return results


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["schema"], 2, "results.schema = 2; not a schema this version reads; 1"),
        (["manifest"], ..., "results.manifest = missing; must be there; an object"),
        (["manifest", "seconds"], "long", "results.manifest.seconds = 'long'; text; a number"),
        (["manifest", "seed"], -1, "results.manifest.seed = -1; a number; a whole number from 0"),
        (["stages"], {}, "results.stages = {}; an object; a list"),
        (["stages", 1, "name"], ..., "results.stages[1].name = missing; must be there; text"),
        (["stages", 0, "train_curve", 3, "loss"], "x", "results.stages[0].train_curve[3].loss = 'x'; text; a number"),
        (
            ["stages", 0, "entropy_per_token", "fact"],
            [1],
            "results.stages[0].entropy_per_token.fact = [1]; a list; a number",
        ),
        (
            ["stages", 0, "t_bins", 2, "t_low"],
            None,
            "results.stages[0].t_bins[2].t_low = null; must be there; a number",
        ),
        (["tables", 0, "rows", 0, "value"], True, "results.tables[0].rows[0].value = True; true or false; a number"),
        (
            ["tables", 0, "rows", 0, "value"],
            97.3,
            "results.tables[0].rows[0].value = 97.3; not a share; 0 to 1, or any number with a unit",
        ),
        (["samples", 0, "is_correct"], "yes", "results.samples[0].is_correct = 'yes'; text; true or false"),
        (
            ["traces", 2, "records", 0, "position"],
            2,
            "results.traces[2].records[0].position = 2; behind the response; 0 to 1",
        ),
        (["traces", 0, "tokens"], "words", "results.traces[0].tokens = 'words'; text; a list"),
        (
            ["claims", 0, "verdict"],
            "maybe",
            "results.claims[0].verdict = 'maybe'; not a verdict; replicated, not replicated, inconclusive",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(path, value, message, tmp_path):
    with pytest.raises(ValueError) as error:
        write_results(tmp_path / "results.json", _at(example_results(), path, value))
    assert str(error.value) == message
    assert not list(tmp_path.iterdir())


def test_a_list_is_no_results():
    with pytest.raises(ValueError, match=r"^results.schema = list; not a schema this version reads; 1$"):
        check_results([])


def test_keys_beyond_the_schema_are_kept(tmp_path):
    results = {"schema": 1, "manifest": {}, "later": {"a": [1]}}
    assert read_results(write_results(tmp_path / "r.json", results)) == results


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"not JSON \(line 1: .*\); run the job again"),
        (b"\xff\xfe", "not UTF-8 text"),
        (b"[]", "results.schema = list"),
    ],
)
def test_files_that_are_no_results(content, message, tmp_path):
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_results(tmp_path / "results.json")
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file; results.json of a finished"):
        read_results(tmp_path / "results.json")
