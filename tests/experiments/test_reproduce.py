"""The main job at smoke scale: every part runs, the report is whole, a second call trains nothing again."""

import json
import shutil
from html.parser import HTMLParser

import pytest

from illada_lab.cli import main
from illada_lab.config import build, check, compose, compose_and_check
from illada_lab.data.worlds import world_of
from illada_lab.experiments.lab import Lab
from illada_lab.experiments.reproduce import _staged, reproduce
from illada_lab.report import read_results
from illada_lab.training.checkpoint import load_run
from illada_lab.training.recipe import differences, recipe


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
    assert again["manifest"]["is_continued"] and not results["manifest"]["is_continued"]
    assert again["stages"][0]["train_curve"] == results["stages"][0]["train_curve"]


@pytest.fixture
def begun(monkeypatch, tmp_path):
    """Configurations of the stages whose training has begun, which goes no further."""
    seen = []

    def stop(config):
        seen.append(config)
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("illada_lab.experiments.reproduce.train", stop)
    return seen


def test_settings_of_the_world_and_of_the_machine_hold_for_both_stages(tmp_path):
    overrides = [
        "data.source.world_seed=1",
        "data.source.n_people=12",
        "+data.source.sizes={n_heroes: 4}",
        "trainer.precision=32-true",
        "data.batch_size=4",
    ]
    given = compose_and_check(["scale=smoke", "trainer.accelerator=cpu", f"run_dir={tmp_path}", *overrides])
    pretrain, sft = (_staged(given, tmp_path / stage, stage) for stage in ("pretrain", "sft"))
    for staged in (pretrain, sft):
        assert (staged.data.source.world_seed, staged.data.source.n_people, staged.data.batch_size) == (1, 12, 4)
        # The questions are asked about the world that has been read.
        assert world_of(staged.data.source).lexicon == build(staged.data.source).world.lexicon
        assert len(world_of(staged.data.source).lexicon.heroes) == 4
        assert (staged.trainer.precision, staged.trainer.accelerator) == ("32-true", "cpu")
    assert (pretrain.trainer.max_steps, sft.trainer.max_steps) == (given.scale.n_steps, given.scale.sft_steps)
    assert sft.data.source.stage == "sft" and sft.objective.shorten.probability == 0.3


def test_studies_find_the_models_of_the_main_job(job, tmp_path):
    """What `reproduce` has trained is what a study asks for, and the other way round."""
    config, _, report = job
    lab = Lab("smoke", 0, tmp_path)
    for stage, overrides in (("pretrain", ()), ("sft", ("experiment=sft",))):
        made = load_run(report.parent / stage).config
        wanted = lab.config("trainer.accelerator=cpu", *overrides)
        assert not list(differences(recipe(made), recipe(wanted)))


def test_a_model_tuned_from_a_base_that_was_replaced_is_refused(tmp_path):
    lab = Lab("smoke", 0, tmp_path)
    lab.train_from(lab.pretrained, "tuned", "experiment=sft", "scale.sft_steps=3")
    shutil.rmtree(lab.folder)
    other = lab.train("base", "lr.decay_start=0.5")
    with pytest.raises(
        ValueError, match="tuned; holds a run from a model with another lr.decay_start; another runs_dir"
    ):
        lab.train_from(other, "tuned", "experiment=sft", "scale.sft_steps=3")


def test_a_branch_is_the_run_that_had_its_decay_from_the_start(tmp_path):
    lab = Lab("smoke", 0, tmp_path)
    branch = lab.branch(lab.pretrained, "constant", "lr.decay_start=1.0")
    whole = lab.train("whole", "lr.decay_start=1.0")
    assert branch.history["validation"] == whole.history["validation"] != lab.pretrained.history["validation"]
    with pytest.raises(
        ValueError, match="lr.decay_start = 0.5; step 10, where the constant phase of .* ends at 14; later"
    ):
        lab.branch(lab.pretrained, "early", "lr.decay_start=0.5")
    with pytest.raises(ValueError, match="optim.lr = 0.5; a branch differs in lr"):
        lab.branch(lab.pretrained, "fast", "optim.lr=0.5")


def test_a_folder_of_another_recipe_is_refused(job):
    config, results, report = job
    before = (report.parent / "results.json").read_bytes()
    other = compose_and_check(
        ["scale=smoke", "trainer.accelerator=cpu", f"run_dir={config.run_dir}", "scale.lr=0.0123"]
    )
    with pytest.raises(
        ValueError, match=r"pretrain; holds a run with another optim.lr; another run_dir=..., or delete"
    ):
        reproduce(other)
    assert (report.parent / "results.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["objective=autoregressive", "model.is_causal=true"], "model.is_causal = true; the objective predicts from both sides; false"),
        (["scale.sft_steps=0"], "trainer.max_steps = 0; counts from 1; 1 or more"),
    ],
)  # fmt: skip
def test_what_fine_tuning_cannot_have_is_refused_before_pre_training(words, message, begun, capsys):
    assert main(["reproduce", "scale=smoke", *words]) == 2
    assert capsys.readouterr().err == f"illada-lab: {message} (in fine-tuning, which is experiment=sft)\n"
    assert not begun


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        ([], "runs/reproduce-smoke-seed0"),
        (["-m"], "runs/reproduce-smoke-seed0"),
        (["run_dir=runs/pretrain-smoke"], "runs/pretrain-smoke"),  # what the configuration's own comes to
        (["run_dir=here"], "here"),
    ],
)
def test_the_folder_that_was_asked_for_is_used(words, folder, begun):
    assert main(["reproduce", "scale=smoke", *words]) == 130
    assert [config.run_dir for config in begun] == [f"{folder}/pretrain"]


def test_data_without_questions_are_refused(tmp_path):
    config = compose_and_check(["scale=smoke", "data=text", "data.path=x.txt", f"run_dir={tmp_path}"])
    with pytest.raises(ValueError, match="the main job asks questions about a world; data=world"):
        reproduce(config)


def test_settings_without_effect_are_refused_at_once(capsys):
    words = ["reproduce", "scale=smoke", "evaluation.run_code=true", "lora=linear", "sampler.temperature=1"]
    assert main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all("has no effect on reproduce" in line for line in lines)
