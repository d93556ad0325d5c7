"""The main job at smoke scale: every part runs, the report is whole, a second call trains nothing again."""

import json
from html.parser import HTMLParser

import pytest

from illada_lab.config import check, compose
from illada_lab.experiments.reproduce import reproduce
from illada_lab.report import read_results


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    config = compose(["scale=smoke", "trainer.accelerator=cpu", f"run_dir={tmp_path_factory.mktemp('job')}"])
    check(config)
    return config, *reproduce(config)


def test_results_hold_what_a_reader_needs(job):
    config, results, report = job
    assert read_results(report.with_name("results.json")) == json.loads(json.dumps(results))
    assert [stage["name"] for stage in results["stages"]] == ["pretrain", "sft"]
    assert set(results["stages"][0]["entropy_per_token"]) >= {"story", "fact", "sum"}
    rows = {(table["model"], row["task"]) for table in results["tables"] for row in table["rows"]}
    assert {("base", "sums, completed"), ("instruct", "fact"), ("instruct", "reversal")} <= rows
    for table in results["tables"]:
        for row in table["rows"]:
            assert 0 <= row["ci_low"] <= row["value"] <= row["ci_high"] <= 1 and row["n"] > 0 and 0 < row["chance"] < 1
    assert {"command", "commit", "seed", "scale", "versions", "machine", "seconds"} <= set(results["manifest"])
    for trace in results["traces"]:
        assert sorted(record["position"] for record in trace["records"]) == list(range(len(trace["tokens"])))


def test_report_needs_no_network(job):
    text = job[2].read_text()

    class Links(HTMLParser):
        found: list[str] = []

        def handle_starttag(self, tag, attributes):
            self.found += [value or "" for name, value in attributes if name in ("src", "href", "xlink:href")]

    parser = Links()
    parser.feed(text)
    assert parser.found and all(link.startswith(("#", "data:")) for link in parser.found)
    assert len(text) < 2_000_000


def test_a_second_call_trains_nothing_again(job):
    config, results, report = job
    checkpoint = report.parent / "pretrain" / "checkpoints" / "last.ckpt"
    before = checkpoint.read_bytes()
    again, _ = reproduce(config)
    assert checkpoint.read_bytes() == before
    assert again["tables"] == results["tables"]
    assert again["stages"][0]["train_curve"] == results["stages"][0]["train_curve"]
