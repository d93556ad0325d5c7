"""Runs that go on: to the bit, with other settings, from a branch; and what is refused."""

import errno
import json

import pytest
import torch

from illada_lab.config import compose
from illada_lab.submit import _check_is_same
from illada_lab.training.checkpoint import read_checkpoint
from tests.training.small_runs import SMALL, run, weights


@pytest.mark.parametrize("settings", [("optim=adamw",), ("optim=muon",), ("optim=muon", "trainer.ema_decay=0.5")])
def test_resumed_run_equals_the_uninterrupted_one_to_the_bit(tmp_path, settings):
    """Weights, losses and validations; stopped in the middle of an epoch, between two validations."""
    whole = run(tmp_path / "whole", *settings, "trainer.save_every=7")
    # The schedule is the whole run's: only the trainer stops early.
    first = run(tmp_path / "parts", *settings, "trainer.max_steps=7", "lr.n_steps=20")
    assert first.history["train"] != whole.history["train"]
    resumed = run(tmp_path / "parts", *settings, "resume=auto")
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert whole.history["validation"][-1] == resumed.history["validation"][-1]
    assert [r["loss"] for r in whole.history["train"]][1:] == [r["loss"] for r in resumed.history["train"]][-1:]


def test_another_decay_goes_on_from_where_the_constant_phase_ended(tmp_path, capsys):
    """The branch is the run that had this schedule from the start, to the bit; it says what it does otherwise."""
    trunk = run(tmp_path / "trunk")  # 20 steps, the last 6 of them decay
    fork = tmp_path / "trunk" / "checkpoints" / "before_decay.ckpt"
    assert read_checkpoint(fork)["global_step"] == 14
    capsys.readouterr()
    branch = run(tmp_path / "branch", f"resume={fork}", "lr.decay_start=1.0")
    assert "goes on from step 14 with other settings: lr.decay_start 0.7 -> 1.0\n" in capsys.readouterr().out
    whole = run(tmp_path / "whole", "lr.decay_start=1.0")
    assert branch.history["validation"] == whole.history["validation"] != trunk.history["validation"]
    a, b = weights(tmp_path / "branch"), weights(tmp_path / "whole")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not (tmp_path / "whole" / "checkpoints" / "before_decay.ckpt").exists()  # nothing decays there


def test_a_resumed_run_is_as_long_and_learns_as_fast_as_it_is_told(tmp_path, capsys):
    """Also where the checkpoint comes from a shorter run with other rates."""
    run(tmp_path / "a", "scale.n_steps=4")
    run(
        tmp_path / "a",
        "resume=auto",
        "scale.n_steps=10",
        "optim.lr=1e-3",
        "optim.weight_decay=0.3",
        "lr.decay_start=0.8",
    )
    said = capsys.readouterr().out
    for change in (
        "lr.n_steps 4 -> 10",
        "optim.lr 0.01 -> 0.001",
        "optim.weight_decay 0.1 -> 0.3",
        "lr.decay_start 0.7 -> 0.8",
    ):
        assert change in said
    payload = read_checkpoint(tmp_path / "a")
    muon, adamw = (payload["optimizer_states"][0][part]["param_groups"][0] for part in ("muon", "adamw"))
    # The last step's rate has been set for the step after it, the end of the decay.
    assert muon["lr"] == pytest.approx(1e-3 * 0.025) and muon["weight_decay"] == adamw["weight_decay"] == 0.3
    # Of the two places where a decay began the first has none behind it.
    assert read_checkpoint(tmp_path / "a" / "checkpoints" / "before_decay.ckpt")["global_step"] == 3


def test_without_the_average_a_run_goes_on_with_its_weights(tmp_path):
    """A checkpoint with an average holds both; switched off, the raw weights go on, to which the optimiser's state belongs."""
    run(tmp_path / "a", "scale.n_steps=4", "trainer.ema_decay=0.9")
    raw = read_checkpoint(tmp_path / "a")["current_model_state"]
    run(
        tmp_path / "a",
        "scale.n_steps=5",
        "resume=auto",
        "trainer.ema_decay=null",
        "optim.lr=1e-12",
        "optim.adamw_lr=1e-12",
    )
    after = weights(tmp_path / "a")
    assert all(torch.allclose(after[name], raw[name], atol=1e-6) for name in raw)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optim=adamw"], "optim._target_ = .*adamw; .* holds the state of .*muon; that, or init_from="),
        (["model.d_ffn=32"], "model.d_ffn = 32; .* holds the state of .*; that, or a new run"),
        (["trainer.max_steps=3"], "trainer.max_steps = 3; .* stands at step 4 already; 5 or more"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(tmp_path_factory, overrides, message):
    folder = tmp_path_factory.getbasetemp() / "to_resume"
    if not folder.exists():
        run(folder, "scale.n_steps=4")
    with pytest.raises(ValueError, match=message):
        run(folder, "resume=auto", "scale.n_steps=4", *overrides)


def test_a_run_that_is_over_is_no_run_with_other_settings(tmp_path):
    """Nothing would be trained, and the old bounds told as those of the new settings; on another machine it is what it is."""
    done = run(tmp_path / "a", "scale.n_steps=4")
    with pytest.raises(
        ValueError, match="optim.lr = 0.002; .* stands at that step with 0.01; trainer.max_steps=5 or more"
    ):
        run(tmp_path / "a", "scale.n_steps=4", "resume=auto", "optim.lr=0.002")
    again = run(tmp_path / "a", "scale.n_steps=4", "resume=auto", "data.micro_batch_size=4", "trainer.validate_every=3")
    assert again.history["validation"] == done.history["validation"]


def test_nothing_that_was_saved_is_lost_because_it_cannot_be_read(tmp_path):
    run(tmp_path / "a", "scale.n_steps=3", "trainer.keeps_before_decay=false")
    (last,) = (tmp_path / "a" / "checkpoints").iterdir()
    content = last.read_bytes()[:900]
    last.write_bytes(content)
    for resume in ("auto", "null"):
        with pytest.raises(ValueError, match=r"cannot be read and would be lost .*last\.ckpt; truncated"):
            run(tmp_path / "a", "scale.n_steps=3", f"resume={resume}")
    assert last.read_bytes() == content


def test_half_a_folder_of_shards_is_no_empty_place(tmp_path):
    (tmp_path / "a" / "checkpoints" / "last.ckpt").mkdir(parents=True)
    for resume in ("auto", "null"):
        with pytest.raises(ValueError, match=r"would be lost .*last\.ckpt; parts of it are missing"):
            run(tmp_path / "a", "scale.n_steps=3", f"resume={resume}")


def test_a_file_that_cannot_be_read_now_is_not_taken_for_a_damaged_one(tmp_path, monkeypatch):
    run(tmp_path / "a", "trainer.save_every=5")
    load = torch.load

    def busy(file, *args, **settings):
        if str(file).endswith("last.ckpt"):
            raise OSError(errno.EMFILE, "Too many open files", str(file))
        return load(file, *args, **settings)

    monkeypatch.setattr(torch, "load", busy)
    with pytest.raises(ValueError, match=r"last\.ckpt; cannot be read now \(Too many open files\)"):
        run(tmp_path / "a", "resume=auto")


def test_a_run_that_is_over_is_no_run_from_another_start(tmp_path, capsys):
    starts = [run(tmp_path / name, "scale.n_steps=3", f"seed={seed}").run_dir for seed, name in enumerate("ab")]
    first = ["experiment=sft", "trainer.max_steps=3", f"init_from={starts[0]}"]
    done = run(tmp_path / "c", *first)
    assert run(tmp_path / "c", *first, "resume=auto").history["validation"] == done.history["validation"]
    other = [*first[:1], f"init_from={starts[1]}", "resume=auto"]
    with pytest.raises(ValueError, match="init_from = .* stands at that step, and began with another model"):
        run(tmp_path / "c", *other, "trainer.max_steps=3")
    capsys.readouterr()
    run(tmp_path / "c", *other, "trainer.max_steps=4")
    assert "init_from (its weights are not read)" in capsys.readouterr().out
    assert read_checkpoint(tmp_path / "c")["illada_lab"]["start"]["seed"] == 0


def test_a_sweep_does_not_go_on_with_the_jobs_of_another(tmp_path):
    run(tmp_path / "a", "trainer.max_steps=3", "lr.n_steps=3")
    config = compose([*SMALL, f"run_dir={tmp_path / 'a'}", "trainer.max_steps=6", "lr.n_steps=6"])
    _check_is_same(config, tmp_path / "a")
    config.optim.lr = 0.5
    with pytest.raises(ValueError, match="optim.lr = 0.5; .* holds the job of this number of another sweep, with 0.01"):
        _check_is_same(config, tmp_path / "a")


def test_going_back_in_a_folder_that_has_gone_on_is_refused(tmp_path):
    """As a job that is queued again with the same command would; in a folder of its own it begins, and then nothing is left to do."""
    run(tmp_path / "a", "scale.n_steps=4")
    fork = f"resume={tmp_path / 'a' / 'checkpoints' / 'before_decay.ckpt'}"
    with pytest.raises(ValueError, match="saved there at step 4 and would be lost; resume=auto"):
        run(tmp_path / "a", fork, "scale.n_steps=4")
    run(tmp_path / "b", fork, "scale.n_steps=5")
    with pytest.raises(ValueError, match="saved there at step 5"):
        run(tmp_path / "b", fork, "scale.n_steps=5")
    with pytest.raises(ValueError, match="trainer.max_steps = 3; .* stands at step 3 already; 4 or more"):
        run(tmp_path / "c", fork, "scale.n_steps=3")


def test_rows_are_counted_in_steps_of_one_size(tmp_path):
    run(tmp_path / "a", "scale.n_steps=4")
    with pytest.raises(ValueError, match="data.batch_size = 4; .* in steps of 8, .* data.batch_size=8, or init_from="):
        run(tmp_path / "a", "scale.n_steps=6", "scale.batch_size=4", "resume=auto")


def test_a_truncated_last_checkpoint_falls_back_to_the_one_before(tmp_path):
    run(tmp_path / "a", "trainer.save_every=5")
    last = tmp_path / "a" / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"last\.ckpt; truncated.*previous\.ckpt"):
        read_checkpoint(tmp_path / "a")
    with pytest.raises(ValueError, match=r"resume = .*last\.ckpt; truncated"):
        run(tmp_path / "a", f"resume={last}")
    assert last.exists()  # what is refused changes nothing
    resumed = run(tmp_path / "a", "trainer.save_every=20", "resume=auto")
    assert resumed.history["train"][-1]["step"] == 20
    # What was good is not given up for what is damaged.
    assert read_checkpoint(last)["global_step"] == 20
    assert read_checkpoint(last.with_name("previous.ckpt"))["global_step"] == 15
    assert len(last.with_name("last.ckpt.damaged").read_bytes()) == 1000
    # From step 15 on the samples of the first run are void.
    samples = (tmp_path / "a" / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in samples] == [10, 20]


def test_a_second_run_does_not_overwrite_the_first(tmp_path):
    run(tmp_path / "a", "scale.n_steps=3")
    with pytest.raises(ValueError, match="run_dir = .*would be lost; resume=auto"):
        run(tmp_path / "a", "scale.n_steps=3")


def test_a_resumed_run_names_the_start_that_is_gone(tmp_path):
    run(tmp_path / "a", "trainer.max_steps=3", "lr.n_steps=6")
    with pytest.raises(
        FileNotFoundError, match="^init_from = nowhere; no such file or folder; .*; or init_from=null: the run goes on"
    ):
        run(tmp_path / "a", "resume=auto", "init_from=nowhere")
    run(tmp_path / "a", "resume=auto")
