"""Every study of conf/study at smoke scale: it runs, measures each of its claims, and a second call computes nothing again."""

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock
from psutil import STATUS_ZOMBIE, NoSuchProcess, Process

from illada_lab.cli import main
from illada_lab.commands.replicate import plans_of, translate
from illada_lab.config import build, compose, compose_and_check, groups, to_plain
from illada_lab.experiments import recipes
from illada_lab.experiments.jobs import Job, Seconds, _begin, _told, at_once, run_all, seconds_left
from illada_lab.experiments.lab import Lab, Trained
from illada_lab.experiments.replicate import Plan, command, replicate, replicate_all
from illada_lab.experiments.study import Study
from illada_lab.manifest import machine, memory_bytes
from illada_lab.report.ledger import read_all
from illada_lab.student_t import t_quantile
from illada_lab.training.checkpoint import LoadedRun
from illada_lab.training.recipe import recipe
from tests.experiments.effects import from_tables

STUDIES = groups()["study"]
# Where a study's own settings are many runs, these are as good a test in half the time; one seed is, too.
QUICKER = {"sft_epochs": ["study.epochs=[3,12,13]"], "scaling": ["study.factors=[0.5,1.0,1.4]"]}
ONE_SEED = ("architecture", "data_repetition", "instruct_table", "sampling", "scaling", "sft_epochs")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One folder of runs for all studies: the main job's models are trained once."""
    folder = tmp_path_factory.mktemp("replicate")
    return {"runs_dir": folder / "runs", "results_dir": folder / "results"}


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_measures_its_claims(name, folders, capsys):
    overrides = [f"{key}={value}" for key, value in folders.items()]
    n, quicker = 1 if name in ONE_SEED else 2, QUICKER.get(name, [])
    assert main(["replicate", f"study={name}", "scale=smoke", f"seeds={n}", "n_processes=1", *overrides, *quicker]) == 0
    out = capsys.readouterr()
    result = json.loads((folders["results_dir"] / "smoke" / f"{name}.json").read_text())
    study = build(compose([f"study={name}"]).study)
    assert isinstance(study, Study)
    assert [claim["id"] for claim in result["claims"]] == [claim.id for claim in study.claims] != []
    assert len({claim.id for claim in study.claims}) == len(study.claims)
    for claim in result["claims"]:
        assert claim["verdict"] == "inconclusive" and claim["reason"] == f"{n} of 3 seeds"
        assert len(claim["effects"]) == n and f"{name}: {claim['id']}" in out.out
    for record in result["seeds"]:
        assert "commit" in record and record["date"] >= "2026"
        assert record["tables"] and all(rows for rows in record["tables"].values())
        # What is returned as an effect is what the claim's metric makes of the tables (see test_effects.py).
        follow = from_tables(name, record["tables"])
        assert follow and follow == pytest.approx({claim: record["effects"][claim] for claim in follow}, rel=1e-6)
    assert result["manifest"]["seeds"] == list(range(n)) and result["manifest"]["machine"]["processor"]


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
    replicate(name, to_plain(node), scale="smoke", seeds=[0, 1], **folders, say=said.append)
    assert said == [f"{name} seed {seed}: measured before" for seed in (0, 1)]


def test_the_time_that_is_left_counts_shared_models_once_per_seed():
    jobs = {
        (name, seed): Job(name, {}, "toy", seed, "runs")
        for name in ("sampling", "scoring", "reversal")
        for seed in (0, 1)
    }
    taken = {jobs["sampling", 0]: Seconds(total=700.0, shared=600.0)}
    left = [job for job in jobs.values() if job not in taken]
    # The other seed has its models to make; all five are taken to be as long as what is known. The longest cannot be divided.
    assert seconds_left(taken, left, 1) == 5 * 100 + 600
    assert seconds_left(taken, left, 2) == 100 + 600
    taken |= {jobs["sampling", 1]: Seconds(650.0, 550.0), jobs["scoring", 0]: Seconds(20.0, 0.5)}
    left = [job for job in jobs.values() if job not in taken]
    assert seconds_left(taken, left, 2) == pytest.approx((19.5 + 2 * (100 + 19.5) / 2) / 2)
    # Those that are going on have a part behind them; the longest that is left is the least.
    begun = {jobs["scoring", 1]: 9.5, jobs["reversal", 0]: 1000.0}
    assert seconds_left(taken, left, 2, begun) == pytest.approx((100 + 19.5) / 2)
    assert seconds_left(taken, left[:2], 2, begun) == pytest.approx(10.0)
    assert seconds_left(taken, [], 2) == 0


def test_a_study_with_a_new_claim_is_measured_anew(tmp_path):
    """What was measured before does not say what is asked now."""
    node = to_plain(compose_and_check(["scale=smoke", "study=reversal"]).study)
    told, ids = ("reversal", node, "smoke", 0, str(tmp_path)), [claim.id for claim in build(node).claims]
    path = Job(*told).path
    assert not Job(*told).is_measured
    path.parent.mkdir(parents=True)
    for known, is_measured in ((ids, True), (ids[1:], False)):
        path.write_text(json.dumps({"effects": dict.fromkeys(known, 0.5)}))
        assert Job(*told).is_measured is is_measured


@pytest.mark.parametrize(
    ("experiment", "change"),
    [(None, "data.source.mixture.story=0.9"), ("sft", "data.max_extra_eos=3"), ("autoregressive", "lr.min_ratio=0.5")],
)
def test_another_recipe_is_another_measurement(experiment, change, monkeypatch, tmp_path):
    """Results of an older recipe of the scale, of whatever the study trains, are not taken for this one's."""
    told = ("sampling", {"_target_": "x"}, "smoke", 0, str(tmp_path))
    before, config = Job(*told).path, Lab.config
    assert Job(*told).path == before

    def changed(self, *overrides):
        is_meant = overrides == (() if experiment is None else (f"experiment={experiment}",))
        return config(self, *overrides, *([change] if is_meant else []))

    monkeypatch.setattr(Lab, "config", changed)
    _told.cache_clear()
    after = Job(*told).path
    _told.cache_clear()
    assert after != before and after.parent == before.parent


class Quick(Job):
    """A job that leaves a mark, and fails as the first one."""

    def run(self, n_processes=1):
        (Path(self.runs_dir) / str(self.seed)).touch()
        if self.seed == 0:
            raise ValueError("no")
        time.sleep(0.5)
        return Seconds(0.5, 0.0)


def test_nothing_is_begun_after_an_error(tmp_path):
    jobs = [Quick("quick", {}, "smoke", number, str(tmp_path)) for number in range(8)]
    with pytest.raises(ValueError, match="no"):
        list(run_all(jobs, 2))
    assert {"0", "1"} <= {path.name for path in tmp_path.iterdir()} <= {"0", "1", "2"}


def test_a_pretrained_model_does_not_depend_on_how_its_scale_fine_tunes(tmp_path):
    """Of two recipes that differ in fine-tuning alone pre-training is one and the same; what it learns from is compared."""
    lab = Lab("smoke", 0, tmp_path)
    assert recipe(lab.config()) == recipe(lab.config("scale.sft_peak_ratio=0.7", "scale.sft_steps=3"))
    assert recipe(lab.config("experiment=sft")) != recipe(lab.config("experiment=sft", "scale.sft_steps=3"))
    assert recipe(lab.config()) != recipe(lab.config("scale.n_steps=3"))


def test_seeds_in_processes_of_their_own_measure_the_same(folders, tmp_path):
    """The cheapest study, its models trained before, in two processes; equal to the numbers of the one-process run."""
    node = to_plain(compose_and_check(["scale=smoke", "study=reversal"]).study)
    once = json.loads((folders["results_dir"] / "smoke" / "reversal.json").read_text())
    for path in folders["runs_dir"].glob("replicate-smoke-seed*/reversal-*.json"):
        path.unlink()
    apart = {"runs_dir": folders["runs_dir"], "results_dir": tmp_path}
    twice = replicate("reversal", node, scale="smoke", seeds=[0, 1], n_processes=2, **apart, say=lambda line: None)
    assert [r["effects"] for r in twice["seeds"]] == [r["effects"] for r in once["seeds"]]
    assert [r["n_processes"] for r in (*once["seeds"], *twice["seeds"])] == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("n_jobs", "cores", "gib", "gpu", "expected"),
    [
        (30, 2, 24, None, 2),
        (3, 2, 24, None, 3),
        (4, 2, 24, None, 2),
        (1, 8, 24, None, 1),
        (30, 8, 6, None, 4),
        (3, 2, 1, None, 1),
        (3, 2, 0, None, 3),
        (0, 2, 24, None, 1),
        (30, 16, 128, "H200", 1),
    ],
)
def test_seeds_at_once_are_as_many_as_a_machine_takes(n_jobs, cores, gib, gpu, expected):
    assert at_once(n_jobs, {"cores": cores, "gpu": gpu}, int(gib * 2**30)) == expected


def test_without_a_number_seeds_share_the_cores(folders, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "illada_lab.experiments.replicate.run_all", lambda jobs, n: asked.append((len(jobs), n)) or iter(())
    )
    for scale, expected in (("smoke", at_once(3, machine(), memory_bytes())), ("small", 1)):
        plan = Plan("reversal", {"_target_": "illada_lab.experiments.reversal.Reversal", "n_documents": 3}, scale)
        list(replicate_all([plan], seeds=range(3), runs_dir=tmp_path, results_dir=tmp_path, n_processes=None, say=str))
        assert asked.pop() == (3, expected)


def rest(lines) -> None:
    """What a process of a pool does here instead of measuring."""
    _begin(1)
    lines.put(os.getpid())
    time.sleep(600)


def test_processes_end_with_the_one_that_started_them():
    """Killed, it can tell them nothing."""
    code = (
        "import multiprocessing as m; from tests.experiments.test_studies import rest; c = m.get_context('spawn'); q = c.Queue();"
        "c.Process(target=rest, args=(q,)).start(); print(q.get(), flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 60
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_alive(child)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked about does not."""
    try:
        return Process(pid).status() != STATUS_ZOMBIE
    except NoSuchProcess:
        return False


def test_studies_of_many_runs_have_a_scale_of_their_own_where_all_are_run(capsys):
    """Toy alone has one; a study that is asked for by name runs where it is asked to."""
    scales = {plan.name: plan.scale for plan in plans_of(compose_and_check(["scale=toy"]))}
    assert set(scales) == set(STUDIES) and scales["sampling"] == "toy"
    for name, scale in scales.items():
        assert scale == ("mini" if build(compose([f"study={name}"]).study).trains_many else "toy")
    assert "architecture: at scale mini; study=architecture scale=toy runs it at toy" in capsys.readouterr().err
    assert {plan.scale for plan in plans_of(compose_and_check(["scale=smoke"]))} == {"smoke"}
    (plan,) = plans_of(compose_and_check(["scale=toy", "study=architecture"]))
    assert (plan.name, plan.scale) == ("architecture", "toy")
    # The settings are those of its scale.
    (plan,) = [plan for plan in plans_of(compose_and_check(["scale=toy"])) if plan.name == "architecture"]
    assert plan.node["n_documents"] == compose(["scale=mini"]).scale.n_validation


def test_a_result_is_written_as_soon_as_its_last_seed_is_measured(monkeypatch, tmp_path):
    """Two studies of two seeds, of which one seed is missing: the other study comes out first."""

    def record(job, n_processes=1):
        effects = {claim.id: 0.5 for claim in build(job.node).claims}
        about = {"seed": job.seed, "seconds": 1.0, "commit": "abc", "date": "2026-01-01"}
        job.path.parent.mkdir(parents=True, exist_ok=True)
        job.path.write_text(json.dumps({**about, "tables": {}, "effects": effects, "rooms": {}}))
        return Seconds(1.0, 0.0)

    monkeypatch.setattr(Job, "run", record)
    names, said = ("pretraining", "reversal"), []
    plans = [Plan(name, to_plain(compose([f"study={name}", "scale=smoke"]).study), "smoke") for name in names]
    for plan, seed in ((plans[0], 0), (plans[1], 0), (plans[1], 1)):
        record(Job(plan.name, plan.node, "smoke", seed, str(tmp_path / "runs")))
    how = {"runs_dir": tmp_path / "runs", "results_dir": tmp_path / "results", "say": said.append}
    results = replicate_all(plans, seeds=[0, 1], **how)
    last = tmp_path / "results" / "smoke" / "pretraining.json"
    assert next(results)["study"] == "reversal" and not last.exists()
    assert next(results)["study"] == "pretraining" and last.exists()
    assert list(results) == [] and said[1:3] == ["pretraining seed 1: waiting", "reversal seed 0: measured before"]
    assert said[-1] == "pretraining seed 1: 1 s"


def test_seeds_that_are_added_are_a_further_look(monkeypatch, tmp_path):
    """Three seeds, then five: the interval of five pays for both looks; three again would lose two, and is refused."""

    def run(job, n_processes, date="2026-01-01"):
        effects = {claim.id: 0.5 + 0.01 * job.seed for claim in build(job.node).claims}
        about = {"seed": job.seed, "seconds": 1.0, "commit": "abc", "date": date}
        job.path.parent.mkdir(parents=True, exist_ok=True)
        job.path.write_text(json.dumps({**about, "tables": {}, "effects": effects, "rooms": {}}))
        return Seconds(1.0, 0.0)

    monkeypatch.setattr(Job, "run", run)
    node = to_plain(compose(["study=reversal", "scale=smoke"]).study)
    how = {
        "scale": "smoke",
        "runs_dir": tmp_path / "runs",
        "results_dir": tmp_path / "results",
        "say": lambda line: None,
    }
    looks = [replicate("reversal", node, seeds=range(n), **how) for n in (2, 3, 3, 5)]
    assert [result["looks"] for result in looks] == [[2], [3], [3], [3, 5]]
    claim = looks[-1]["claims"][0]
    half = t_quantile(1 - 0.025 / 2, 4) * 0.01 * (2.5 / 5) ** 0.5
    assert claim["ci_high"] - claim["ci_low"] == pytest.approx(2 * half)
    with pytest.raises(
        ValueError, match=r"seeds = 3; .*reversal.json was made from 5 and would be lost; seeds=5, or results_dir="
    ):
        replicate("reversal", node, seeds=range(3), **how)
    how["runs_dir"] = tmp_path / "others"
    assert replicate("reversal", node, seeds=range(5), **how)["looks"] == [
        3,
        5,
    ]  # the same numbers: nothing new was seen
    monkeypatch.setattr(Job, "run", lambda job, n_processes: run(job, n_processes, date="2026-01-02"))
    how["runs_dir"] = tmp_path / "again"
    assert [replicate("reversal", node, seeds=range(5), **how)["looks"] for _ in range(2)] == [[3, 5, 5]] * 2
    # Other settings are another question, whose answer must not stand in the place of this one.
    other = {**node, "n_candidates": node["n_candidates"] + 1}
    with pytest.raises(ValueError, match=r"study.n_candidates = 5; .* was measured with 4 and would be lost"):
        replicate("reversal", other, seeds=range(5), **how)
    how["results_dir"] = tmp_path / "other"
    assert replicate("reversal", other, seeds=range(5), **how)["looks"] == [5]


@pytest.mark.parametrize("scale", ["toy", "8b"])
def test_only_the_variant_that_is_cut_is_cut(scale, monkeypatch):
    """At every scale, whatever its own recipe does."""
    seen = {}

    def train(lab, name, *settings):
        seen[name] = lab.config(*settings).objective.shorten.probability
        raise StopIteration

    monkeypatch.setattr(Lab, "train", train)
    lab, study = Lab(scale, 0), build(compose([f"scale={scale}", "study=architecture", "study.n_steps=3000"]).study)
    for name, probability in (("base", 0.0), ("untied", 0.0), ("cut", study.cut_probability)):
        with pytest.raises(StopIteration):
            study._train(lab, name, probability)
    assert seen == {"architecture-base": 0.0, "architecture-untied": 0.0, "architecture-cut": 0.3}


def test_llada_s_way_of_fine_tuning_has_a_row_for_each_of_as_many_instructions(monkeypatch):
    """In the model of LLaDA's recipe as well; what stands behind an answer is the same in both formats."""
    lab, seen = Lab("smoke", 0), {}
    config, own = lab.config(), lab.config("experiment=sft")
    tokenizer = build(config.tokenizer)(build(config.data.source))
    model = object.__new__(LoadedRun)
    model.tokenizer = tokenizer
    start = Trained(model, {})
    monkeypatch.setattr(
        Lab, "train_from", lambda lab, start, name, *words: seen.update({name: lab.config(*words)}) or start
    )
    monkeypatch.setattr(Lab, "tuned", start)
    monkeypatch.setattr(recipes, "base_models", lambda lab: dict.fromkeys((recipes.LLADA, recipes.TWIN), start))
    recipes.response_only(lab, start, "format")
    recipes.instruct_models(lab)
    module = build(own.data)
    module.prepare(tokenizer)
    for name in ("format", "llada-sft"):
        told = seen[name]
        assert told.data.packing._target_.endswith("OnePerRow") and told.data.max_extra_eos == own.data.max_extra_eos
        # A step of whole sequences: so many rows, of which an epoch holds all instructions.
        assert told.data.batch_size == pytest.approx(
            module.source.n_documents * own.data.batch_size / module.n_rows, abs=0.5
        )
        assert told.trainer.max_steps == own.trainer.max_steps
    assert seen["llada-sft"].model.n_kv_heads == seen["llada-sft"].model.n_heads > seen["format"].model.n_kv_heads


def test_rows_that_are_seen_whole_hold_the_same_documents(folders):
    lab, study = Lab("smoke", 0, folders["runs_dir"]), build(compose(["scale=smoke", "study=isolation"]).study)
    single, rows = ([document["ids"] for document in texts.documents] for texts in study._texts(lab))
    assert sum(rows, []) == sum(single, []) and 1 < len(rows) < len(single)
    first_of = dict(zip(itertools.accumulate(map(len, single), initial=0), single, strict=False))
    ends = itertools.accumulate(map(len, rows))
    for row, end in zip(rows[:-1], ends, strict=False):  # as full as whole documents in their order make it
        assert len(row) <= lab.config().data.length < len(row) + len(first_of[end])


def test_the_command_of_a_result_names_what_was_changed():
    """Whoever ran it with all other studies, it says how to run this one."""
    node = to_plain(
        compose(["study=acceleration", "scale=mini", "study.n_stories=7", "study.thresholds=[0.9,0.5]"]).study
    )
    assert command(Plan("acceleration", node, "mini"), 3) == (
        "illada-lab replicate study=acceleration scale=mini seeds=3 study.n_stories=7 study.thresholds=[0.9,0.5]"
    )


def test_two_studies_do_not_train_one_model_at_once(monkeypatch, tmp_path):
    """While one process holds the model's lock, another waits, and then finds what it has left."""
    lab, steps = Lab("smoke", 0, tmp_path), []

    def finished(run_dir, config, start, trunk):
        steps.append("begun")
        return object.__new__(Trained)

    monkeypatch.setattr(Lab, "_finished", staticmethod(finished))
    lab.variant_dir("x").parent.mkdir(parents=True)
    with FileLock(lab.variant_dir("x").with_name("x.lock")):
        thread = threading.Thread(target=lab.train, args=("x",))
        thread.start()
        thread.join(timeout=2)
        assert thread.is_alive() and steps == []
    thread.join(timeout=60)
    assert steps == ["begun"]


def test_settings_without_effect_are_refused(capsys):
    assert main(["replicate", "scale=smoke", "model.n_layers=1"]) == 2
    assert "model.n_layers = 1; has no effect on replicate" in capsys.readouterr().err
    assert main(["replicate", "scale=smoke", "seeds=0"]) == 2
    assert "seeds = 0; how many" in capsys.readouterr().err
    assert main(["replicate", "scale=smoke", "n_processes=0"]) == 2
    assert "n_processes = 0; seeds measured at once" in capsys.readouterr().err


def test_an_experiment_of_the_paper_is_a_study(capsys):
    assert translate(["experiment=sampling", "scale=toy"]) == ["study=sampling", "scale=toy"]
    # One that trains many models: at the scale that it has among all of them, unless another is named.
    assert translate(["experiment=architecture"]) == ["study=architecture", "scale=mini"]
    assert "architecture: at scale mini; study=architecture scale=toy runs it at toy" in capsys.readouterr().err
    for words in (
        ["study=architecture", "scale=toy"],
        ["study=sampling"],
        ["study=sampling,architecture"],
        ["seeds=3"],
    ):
        assert translate(words) == words and not capsys.readouterr().err
    assert main(["replicate", "experiment=samplin"]) == 2
    assert "study = samplin; no such file in conf/study; did you mean sampling" in capsys.readouterr().err
