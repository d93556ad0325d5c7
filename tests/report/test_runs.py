"""Runs as the report shows them: what differs, what came out, what must be known before it is compared."""

import json
import re
import shutil
from pathlib import Path

import pytest

from illada_lab.cli import main
from illada_lab.config import compose, to_plain
from illada_lab.report import render
from illada_lab.report.comparison import comparison_notes, runs_results, settings_that_differ, side_by_side
from illada_lab.report.runs import find_runs, read_runs, short_names
from illada_lab.report.schema import checked


def write_run(
    folder: Path, *overrides: str, bound: float = 1.0, entropy: float | None = 0.8, steps: int = 20, **facts
) -> Path:
    """A run's folder with numbers of one's own."""
    config = to_plain(compose(["scale=smoke", f"run_dir={folder}", *overrides]))
    row = {"nelbo_per_token": bound, "stderr": 0.01, "bits_per_byte": bound / 2}
    if entropy is not None:
        row |= {"entropy_per_token": entropy, "over_entropy": bound / entropy - 1}
    validation = [
        {"step": step, "kinds": {"all": {**row, "nelbo_per_token": bound + 20 - step}, "story": row}}
        for step in (steps // 2, steps)
    ]
    validation[-1]["kinds"]["all"] = row
    history = {
        "landmarks": {"uniform": 5.0},
        "facts": {"n_steps": 20, "held_out": 7, **facts},
        "train": [{"step": s, "loss": 3.0 - s / 20, "lr": 1e-3, "gradient_norm": 1.0} for s in range(1, steps + 1)],
        "validation": validation,
        "seconds": 2.0,
        "tokens": 1900,
        "tokens_seen": 100 * steps,
        "tokens_per_second": 950.0,
    }
    folder.mkdir(parents=True)
    (folder / "history.json").write_text(json.dumps(history))
    about = {"command": "illada-lab train", "commit": "0123", "seed": 0, "scale": "smoke", "precision": "32-true"}
    (folder / "manifest.json").write_text(json.dumps({**about, "config": config}))
    (folder / "samples.jsonl").write_text(
        "".join(json.dumps({"step": s, "text": f"s{s}"}) + "\n" for s in range(1, 13))
    )
    return folder


def values(rows: list, name: str) -> list[str]:
    return next(row["values"] for row in rows if row["name"] == name)


def test_settings_that_are_learnt_from_are_told_where_they_differ_and_others_are_not(tmp_path):
    write_run(tmp_path / "a", "lr.peak_ratio=1", "name=x", "trainer.log_every=3")
    write_run(tmp_path / "b", "lr.peak_ratio=1.0", "model.n_layers=1", "trainer.max_steps=40")
    found = settings_that_differ(read_runs([tmp_path / "a", tmp_path / "b"]))
    assert {row["name"] for row in found} == {"model.n_layers", "trainer.max_steps", "lr.n_steps"}
    assert values(found, "model.n_layers")[1] == "1" and values(found, "trainer.max_steps")[1] == "40"


def test_a_setting_that_one_run_does_not_have_is_told_too(tmp_path):
    for name, objective in (("a", "pretrain"), ("b", "autoregressive")):
        write_run(tmp_path / name, f"objective={objective}", *(["model.is_causal=true"] if name == "b" else []))
    runs = read_runs([tmp_path])
    assert values(settings_that_differ(runs), "objective.is_bos_maskable") == ["false", "–"]
    assert values(settings_that_differ(runs), "objective._target_") == ["Pretrain", "Autoregressive"]
    assert any("twin has -log p itself" in note for note in comparison_notes(runs))


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"held_out": 7}, None),
        ({"held_out": 8}, "! the runs are validated on other texts"),
        ({"held_out": None}, "! b: recorded before runs said"),
    ],
)
def test_bounds_of_other_text_are_not_to_be_compared(tmp_path, facts, told):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", **facts)
    warnings = [note for note in comparison_notes(read_runs([tmp_path])) if note.startswith("!")]
    assert len(warnings) == (0 if told is None else 1) and all(note.startswith(told or "") for note in warnings)


def test_what_came_out_has_bounds_limits_and_how_far_a_run_is(tmp_path):
    write_run(tmp_path / "a", bound=1.0)
    write_run(tmp_path / "b", bound=1.2, entropy=None, steps=10)
    beside = side_by_side(read_runs([tmp_path]))
    assert beside["names"] == ["a", "b"]
    outcome = beside["outcome"]
    assert values(outcome, "story, nats/token") == ["1.0000 ± 0.0196", "1.2000 ± 0.0196"]
    assert values(outcome, "story, over its entropy") == ["+25.0 %", "–"]
    assert values(outcome, "all, bits/byte") == ["0.500", "0.600"]
    assert values(outcome, "steps") == ["20", "10 of 20"] and values(outcome, "tokens") == ["2,000", "1,000"]
    assert any("equally many steps" in note for note in beside["notes"])
    # Of one kind of text, all is the same.
    assert not any(row["name"].startswith("all, nats") for row in outcome)


def test_runs_are_found_below_a_folder_and_named_by_what_tells_them_apart(tmp_path, capsys):
    for seed in (0, 1):
        write_run(tmp_path / f"seed{seed}" / "pretrain")
    assert find_runs([tmp_path / "seed0" / "pretrain", tmp_path]) == [
        tmp_path / f"seed{i}" / "pretrain" for i in (0, 1)
    ]
    assert [run.name for run in read_runs([tmp_path])] == ["seed0/pretrain", "seed1/pretrain"]
    write_run(tmp_path / "seed0" / "pretrain" / "job")  # a sweep's, below a run of that name: said, not shown
    assert find_runs([tmp_path / "seed0" / "pretrain"]) == [tmp_path / "seed0" / "pretrain"]
    assert main(["report", str(tmp_path / "seed0" / "pretrain")]) == 0
    assert f"{tmp_path}/seed0/pretrain: 1 more below it, of a sweep; " in capsys.readouterr().err
    shutil.rmtree(tmp_path / "seed0" / "pretrain" / "job")
    assert short_names([Path("x/a"), Path("y/b")]) == ["a", "b"]
    shutil.move(tmp_path / "seed1", tmp_path / "lr.peak_ratio-0.1_data.batch_size-8")
    assert [run.name for run in read_runs([tmp_path])] == ["1", "2"]


def test_the_page_of_several_runs_draws_each_beside_the_limit_that_they_share(tmp_path):
    write_run(tmp_path / "a", bound=1.0)
    write_run(tmp_path / "_b", bound=1.1, held_out=7)
    results = checked(runs_results(read_runs([tmp_path])))
    page = render(results)
    beside = page[page.index('id="side-by-side"') : page.index('id="loss"')]
    assert all(f">{name}</text>" in beside for name in ("a", "_b")), "each has its name in the legend"
    assert beside.count("<svg") == 1 and beside.count("the physical limit, 0.800") == 1
    assert 'id="player"' not in page and "No task was evaluated" not in page and "not recorded" not in page
    assert re.findall(r">s(\d+)<", page[page.index('id="samples"') :]) == ["3", "6", "9", "12"] * 2
    # By tokens only where the steps are not equally large.
    assert "optimiser step" in beside and "training tokens" not in beside
    results["stages"][1]["tokens_per_step"] *= 2
    assert "training tokens" in render(results)


def test_the_command_writes_the_page_of_one_run_into_its_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "a")
    assert main(["report", "a"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == "page: a/report.html" and "what differs" not in said and "1.0000 ± 0.0196" in said
    assert "illada-lab train" in (tmp_path / "a" / "report.html").read_text()
    write_run(tmp_path / "b", bound=1.1)
    assert main(["report", "a", "b", "out=both.html", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["page"] == "both.html" and told["names"] == ["a", "b"] and (tmp_path / "both.html").is_file()
    assert main(["report", "a", "b"]) == 0 and (tmp_path / "comparison.html").is_file()


def test_what_cannot_be_shown_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "half")
    (tmp_path / "half" / "manifest.json").unlink()
    write_run(tmp_path / "cut")
    (tmp_path / "cut" / "history.json").write_text('{"train": [')
    write_run(tmp_path / "good")
    for i in range(11):
        shutil.copytree(tmp_path / "good", tmp_path / "many" / f"{i}")
    for words, message in [
        (["out=x.html"], "report out=x.html; not a use of it; report RUN"),
        (["nowhere"], "run = nowhere; no such folder; the folder of a run, or one that holds several"),
        (["empty"], "run = empty; no history.json in it or below"),
        (["half"], "run = half; has no manifest.json; the folder of a run"),
        (["cut"], "run = cut; history.json is not JSON"),
        (["good", "out=page.txt"], "out = page.txt; no name of a page; such as page.html"),
        (["good", "seed=1"], "seed=1; neither a folder nor out=; report RUN"),
        (["many"], "runs = 11; a figure tells 10 apart; name 10 of them or fewer, such as many/0"),
    ]:
        assert main(["report", *words]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and error.startswith(f"illada-lab: {message}"), error
    assert not list(tmp_path.rglob("*.html"))


def test_a_page_has_one_value_of_each_run_and_sections_that_exist():
    for wrong, message in [
        ({"sections": ["loss", "curves"]}, "results.sections[1] = 'curves'; not a section; results, loss, player"),
        (
            {
                "side_by_side": {
                    "names": ["a", "b"],
                    "settings": [],
                    "outcome": [{"name": "x", "values": ["1"]}],
                    "notes": [],
                }
            },
            "results.side_by_side.outcome[0].values = ['1']; not one of each run; 2 values",
        ),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            checked({"schema": 1, "manifest": {}, **wrong})


def test_a_real_run_is_read_as_it_is_left(tmp_path, capsys):
    """Of training itself: what `report` reads is what `train` writes."""
    assert main(["train", "scale=smoke", "trainer.max_steps=4", f"run_dir={tmp_path / 'run'}"]) == 0
    (run,) = read_runs([tmp_path / "run"])
    assert isinstance(run.facts["held_out"], int) and run.step == 4 and run.samples
    capsys.readouterr()
    assert main(["report", str(tmp_path / "run")]) == 0
    bound = run.last["all"]["nelbo_per_token"]
    assert f"{bound:.4f} ± " in capsys.readouterr().out
