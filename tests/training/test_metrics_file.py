"""One file of metrics for a run, however often it went on."""

import csv

import pytest
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from illada_lab.training.metrics_file import MetricsFile
from tests.training.small_runs import run


def test_metrics_of_a_resumed_run_are_one_file(tmp_path):
    """Rows up to the step that it went on from stay, each step once."""
    run(tmp_path / "a", "scale.n_steps=6", "trainer.log_every=1")
    run(tmp_path / "a", "scale.n_steps=12", "trainer.log_every=1", "resume=auto")
    with (tmp_path / "a" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows if row["train/loss"]] == list(range(1, 13))
    assert [int(row["step"]) for row in rows if row["validation/all/nelbo_per_token"]] == [6, 10, 12]
    done = run(tmp_path / "b", "scale.n_steps=12", "trainer.log_every=1")
    with (tmp_path / "b" / "metrics.csv").open(newline="") as file:
        whole = [row["train/tokens"] for row in csv.DictReader(file) if row["train/tokens"]]
    assert [row["train/tokens"] for row in rows if row["train/tokens"]] == whole
    assert float(whole[-1]) == done.history["tokens_seen"] > done.history["tokens"]


@pytest.mark.parametrize("n_saved", [0, 1])
def test_metrics_survive_a_kill_while_their_file_is_written_anew(tmp_path, monkeypatch, n_saved):
    first = MetricsFile(tmp_path)
    for step in range(3):
        first.log_metrics({"loss": step}, step)
    first.save()
    save, calls = ExperimentWriter.save, iter(range(9))

    def killed(writer):
        if next(calls) == n_saved:
            raise KeyboardInterrupt
        save(writer)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(ExperimentWriter, "save", killed)
        MetricsFile(tmp_path).log_metrics({"loss": 9}, 2)
    again = MetricsFile(tmp_path)
    again.log_metrics({"loss": 7}, 2)
    again.save()
    rows = (tmp_path / "metrics.csv").read_text().split()
    assert [row.split(",")[0] for row in rows[1:]] == ["0", "1", "7"]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]
