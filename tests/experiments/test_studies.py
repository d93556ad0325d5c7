"""Every study of conf/study at smoke scale: it runs, measures each of its claims, and a second call computes nothing again."""

import json

import pytest

from illada_lab.cli import main
from illada_lab.config import build, compose, compose_and_check, groups
from illada_lab.experiments.lab import Lab
from illada_lab.experiments.replicate import _Job, replicate
from illada_lab.experiments.study import Study
from illada_lab.report.ledger import read_all

STUDIES = groups()["study"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One folder of runs for all studies: the main job's models are trained once."""
    folder = tmp_path_factory.mktemp("replicate")
    return {"runs_dir": folder / "runs", "results_dir": folder / "results"}


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_measures_its_claims(name, folders, capsys):
    overrides = [f"{key}={value}" for key, value in folders.items()]
    assert main(["replicate", f"study={name}", "scale=smoke", "seeds=2", *overrides]) == 0
    out = capsys.readouterr()
    result = json.loads((folders["results_dir"] / "smoke" / f"{name}.json").read_text())
    study = build(compose([f"study={name}"]).study)
    assert isinstance(study, Study)
    assert [claim["id"] for claim in result["claims"]] == [claim.id for claim in study.claims] != []
    assert len({claim.id for claim in study.claims}) == len(study.claims)
    for claim in result["claims"]:
        assert claim["verdict"] == "inconclusive" and claim["reason"] == "2 of 3 seeds"
        assert len(claim["effects"]) == 2 and f"{name}: {claim['id']}" in out.out
    for record in result["seeds"]:
        assert "commit" in record and record["date"] >= "2026"
        assert record["tables"] and all(rows for rows in record["tables"].values())
    assert result["manifest"]["seeds"] == [0, 1] and result["manifest"]["machine"]["processor"]


def test_the_ledger_has_a_row_for_each_claim(folders):
    results = read_all(folders["results_dir"])
    page = (folders["results_dir"] / "README.md").read_text()
    assert len(results) == len(STUDIES)
    for result in results:
        for claim in result["claims"]:
            assert any(claim["sentence"] in line and f"`{result['study']}`" in line for line in page.splitlines())


def test_what_is_measured_is_not_measured_again(folders):
    name, said = STUDIES[0], []
    node = compose_and_check(["scale=smoke", f"study={name}"]).study
    from illada_lab.config import to_plain

    replicate(name, to_plain(node), scale="smoke", seeds=[0, 1], **folders, say=said.append)
    assert said == [f"{name} seed {seed}: measured before" for seed in (0, 1)]


def test_another_recipe_is_another_measurement(monkeypatch, tmp_path):
    """Results of an older recipe of the scale are not taken for this one's."""
    job = _Job("sampling", {"_target_": "x"}, "smoke", 0, str(tmp_path))
    before, config = job.path, Lab.config
    assert job.path == before

    def changed(self, *overrides):
        return config(self, "data.source.mixture.story=0.9", *overrides)

    monkeypatch.setattr(Lab, "config", changed)
    assert job.path != before and job.path.parent == before.parent


def test_seeds_in_processes_of_their_own_measure_the_same(folders, tmp_path):
    """The cheapest study, its models trained before, in two processes; equal to the numbers of the one-process run."""
    from illada_lab.config import to_plain

    node = to_plain(compose_and_check(["scale=smoke", "study=reversal"]).study)
    once = json.loads((folders["results_dir"] / "smoke" / "reversal.json").read_text())
    for path in folders["runs_dir"].glob("replicate-smoke-seed*/reversal-*.json"):
        path.unlink()
    apart = {"runs_dir": folders["runs_dir"], "results_dir": tmp_path}
    twice = replicate("reversal", node, scale="smoke", seeds=[0, 1], n_processes=2, **apart, say=lambda line: None)
    assert [r["effects"] for r in twice["seeds"]] == [r["effects"] for r in once["seeds"]]


def test_settings_without_effect_are_refused(capsys):
    assert main(["replicate", "scale=smoke", "model.n_layers=1"]) == 2
    assert "model.n_layers = 1; has no effect on replicate" in capsys.readouterr().err
    assert main(["replicate", "scale=smoke", "seeds=0"]) == 2
    assert "seeds = 0; how many" in capsys.readouterr().err
