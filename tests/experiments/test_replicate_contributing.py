"""The code that CONTRIBUTING.md shows for a study and for a data source does what is said there."""

import importlib
import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from illada_lab.config import build, check, compose, to_plain
from illada_lab.data.datamodule import Source
from illada_lab.experiments.lab import Lab
from illada_lab.experiments.replicate import replicate
from illada_lab.experiments.study import Study, check_study

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()


def blocks(title: str) -> dict[str, str]:
    """The code of a section, by language."""
    section = TEXT.partition(f"## {title}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^```(\w+)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert [language for language, _ in found] == ["python", "yaml"]
    return dict(found)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Put the code of a section where it says it belongs; gives the settings of its file, in a composed tree."""
    added = []

    def install(title, group, *words):
        code = blocks(title)
        node = OmegaConf.create(code["yaml"])
        target = str(node["_target_"] if group == "study" else node.source["_target_"])
        package, _, name = target.rpartition(".")[0].rpartition(".")
        folder = tmp_path / package.replace(".", "/")
        folder.mkdir(parents=True)
        (folder / f"{name}.py").write_text(code["python"])
        monkeypatch.setattr(
            importlib.import_module(package), "__path__", [*importlib.import_module(package).__path__, str(folder)]
        )
        added.append(f"{package}.{name}")
        tree = compose(["scale=smoke", *words])
        OmegaConf.set_struct(tree, False)
        tree[group] = node
        check(tree)
        return tree

    yield install
    for name in added:
        sys.modules.pop(name, None)


def test_the_study_measures_its_claim(installed, monkeypatch, tmp_path):
    tree = installed("A new study", "study")
    study = build(to_plain(tree.study))
    assert isinstance(study, Study) and study.kind == "all"
    check_study(study, "my_study")
    validations = [{"step": step, "kinds": {"all": {"nelbo_per_token": bound}}} for step, bound in ((0, 3.0), (9, 1.5))]
    monkeypatch.setattr(Lab, "pretrained", SimpleNamespace(history={"validation": validations}))
    how = {"runs_dir": tmp_path / "runs", "results_dir": tmp_path / "results", "say": str}
    result = replicate("my_study", to_plain(tree.study), scale="smoke", seeds=[0, 1, 2], **how)
    (claim,) = result["claims"]
    assert claim["effects"] == [1.5] * 3 and claim["verdict"] == "replicated"
    assert result["seeds"][0]["tables"]["curve"] == [{"step": 0, "bound": 3.0}, {"step": 9, "bound": 1.5}]


@pytest.mark.parametrize("tokenizer", ["word", "bpe", "byte"])
def test_the_source_becomes_batches(tokenizer, installed):
    tree = installed("A new data source", "data", f"tokenizer={tokenizer}", "scale.vocab_size=300")
    data = build(tree.data)
    assert isinstance(data.source, Source)
    data.prepare()
    assert data.n_rows > 1 and next(iter(data.train_dataloader())).tokens.shape[0] == tree.scale.batch_size
    document = data.validation_documents()[0]
    n = len(data.source.load("validation")[0]["text"].split())
    assert document["kind"] == "coin" and document["log_prob"] == pytest.approx(-n * math.log(2))
    # A probability: of all documents that there can be, the sum is one.
    assert sum(
        2**n * math.exp(-n * math.log(2) + document["log_prob_of_length"]) for n in range(1, 7)
    ) == pytest.approx(1)
    train, again, held_out = (data.source.load(split)["text"] for split in ("train", "train", "validation"))
    assert list(train) == list(again) and list(train)[:50] != list(held_out)[:50]
