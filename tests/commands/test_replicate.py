"""`illada-lab replicate`: studies of one's own, without a file in conf/study."""

import json
import sys

import pytest
from omegaconf import OmegaConf

from illada_lab.cli import main
from illada_lab.commands.replicate import name_of, translate
from illada_lab.config import compose

MODULE = """
from illada_lab.experiments.claims import Claim
from illada_lab.experiments.study import Outcome


class MyHTMLStudy:
    title = "Mine"
    trains_many = True
    claims = (Claim(id="gain", sentence="s", source="us", paper="not reported", metric="m", unit="nats"),)

    def __init__(self, *, k: int = 2) -> None:
        self.k = k

    def run(self, lab):
        return Outcome(effects={"gain": float(self.k)})


class Sampling(MyHTMLStudy): ...


class Lacking:
    title = "Lacking"
    claims = MyHTMLStudy.claims

    def run(self, lab): ...
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Somebody's folder with a module of studies in it."""
    (tmp_path / "own_study.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("own_study", None)


def test_a_study_described_in_place_is_measured(here, capsys):
    words = ["seeds=1", "n_processes=1"]
    assert main(["replicate", "+study={_target_:own_study.MyHTMLStudy,k:3}", "scale=smoke", *words]) == 0
    result = json.loads((here / "results/smoke/my_html_study.json").read_text())
    assert result["study"] == "my_html_study" and result["claims"][0]["effects"] == [3.0]
    assert result["command"] == (
        "illada-lab replicate '+study={_target_:own_study.MyHTMLStudy,k:3}' scale=smoke seeds=1"
    )
    assert "my_html_study: gain" in capsys.readouterr().out
    # The command line says of other settings what Python says, and nothing is lost.
    assert main(["replicate", "+study={_target_:own_study.MyHTMLStudy,k:4}", "scale=smoke", *words]) == 2
    told = capsys.readouterr().err
    assert "study.k = 4; results/smoke/my_html_study.json was measured with 3 and would be lost" in told
    assert len(told.splitlines()) == 1


def test_one_that_trains_many_models_has_the_scale_of_those(capsys):
    word = "+study={_target_:own_study.MyHTMLStudy}"
    assert translate([word]) == [word, "scale=mini"]
    assert f"my_html_study: at scale mini; '{word}' scale=toy runs it at toy" in capsys.readouterr().err
    for words in (
        [word, "scale=toy"],
        ["+study={_target_:own_study.Lacking}"],
        ["+study={_target_:own_study.Nothing}"],
        ["+study={k:3}"],
    ):
        assert translate(words) == words and not capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["study._target_=own_study.MyHTMLStudy"], "keeps its class; '+study={_target_:own_study.MyHTMLStudy}', with"),
        (["study=sampling", "study._target_=own_study.MyHTMLStudy"], "study._target_ = own_study.MyHTMLStudy; a study"),
        (["+study={_target_:own_study.Sampling}"], "conf/study/sampling.yaml is another study, whose results it would"),
        (["+study={_target_:own_study.Lacking}"], "study = lacking; own_study.Lacking has no trains_many; a study has"),
        (["+study={k:3}"], "study = {'k': 3}; names no class; '+study={_target_:"),
        (["+study={_target_:own_study.Nothing}"], "own_study has no Nothing"),
    ],
)
def test_what_is_no_study_is_said_in_one_line(words, message, here, capsys):
    assert main(["replicate", *words]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if "at scale mini" not in line]
    assert len(told) == 1 and message in told[0]
    assert not (here / "runs").exists() and not (here / "results").exists()


def test_the_file_that_was_chosen_gives_the_name(here, monkeypatch):
    """Two files of one class: the one whose settings these are."""
    from illada_lab.config import composition, conf_dir, places

    folder = here / "conf"
    import shutil

    shutil.copytree(conf_dir(), folder)
    text = (folder / "study/reversal.yaml").read_text().replace("n_candidates: 4", "n_candidates: 6")
    (folder / "study/a_reversal.yaml").write_text(text)
    assert "n_candidates: 6" in text
    monkeypatch.setattr(composition, "conf_dir", lambda: folder)
    monkeypatch.setattr(places, "conf_dir", lambda: folder)
    monkeypatch.setattr("illada_lab.config.conf_dir", lambda: folder)
    assert [name_of(compose([f"study={name}"])) for name in ("reversal", "a_reversal")] == ["reversal", "a_reversal"]
    assert name_of(OmegaConf.create({"study": None})) is None
