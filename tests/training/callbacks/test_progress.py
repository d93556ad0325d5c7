"""What a run says of itself before its first step."""

import csv
import json

import pytest

from illada_lab.training.callbacks.progress import facts_line
from tests.training.small_runs import run

FACTS = {"n_steps": 1700, "batch_size": 16, "length": 80, "is_padded": False, "n_rows": 10_001, "epochs": 2.72, "is_weighted": False,
         "peak_ratio": 1.0, "peak_lr": {"Muon": 0.01, "AdamW": 0.003}}  # fmt: skip
BEGINS = "peak learning rate 0.01 (Muon), 0.003 (AdamW)"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, f"{BEGINS}; 1,700 steps of 16 rows x 80 tokens: 2.7 epochs of 10,001 rows"),
        ({"epochs": 0.0123}, f"{BEGINS}; 1,700 steps of 16 rows x 80 tokens: 0.012 epochs of 10,001 rows"),
        (
            {"n_rows": None, "epochs": None},
            f"{BEGINS}; 1,700 steps of 16 rows x 80 tokens: a stream, whose number of rows is not known",
        ),
        (
            {"is_weighted": True, "is_padded": True},
            f"{BEGINS}; 1,700 steps of 16 rows x up to 80 tokens: as many rows as 2.7 epochs of 10,001, drawn by weight",
        ),
        (
            {"peak_lr": {"AdamW": 2e-5}, "peak_ratio": 0.1},
            "peak learning rate 2e-05, lr.peak_ratio = 0.1 of what optim says; 1,700 steps of 16 rows x 80 tokens: 2.7 epochs of 10,001 "
            "rows",
        ),
        (
            {"loss": "a bound"},
            f"{BEGINS}; 1,700 steps of 16 rows x 80 tokens: 2.7 epochs of 10,001 rows; loss: a bound",
        ),
        ({"peak_lr": {}, "peak_ratio": 0.1}, "1,700 steps of 16 rows x 80 tokens: 2.7 epochs of 10,001 rows"),
    ],
)
def test_what_is_going_to_be_done_is_one_line(changes, line):
    assert facts_line({**FACTS, **changes}) == line


def test_a_run_says_its_learning_rates_as_it_uses_them(tmp_path, capsys):
    done = run(tmp_path / "a", "scale.n_steps=6", "lr.peak_ratio=0.5", "lr.n_warmup_steps=2", "trainer.log_every=1")
    first, second = capsys.readouterr().err.splitlines()[:2]
    assert "a uniform guess" in first
    told = "peak learning rate 0.005 (Muon), 0.0015 (AdamW), lr.peak_ratio = 0.5 of what optim says; 6 steps of 8 rows"
    assert second.startswith(f"pretrain-smoke: {told}")
    assert second.endswith("; loss: a bound on -log p, nats per token")
    facts = json.loads((tmp_path / "a" / "history.json").read_text())["facts"]
    assert facts == done.history["facts"] and facts["peak_lr"] == {"Muon": 0.005, "AdamW": 0.0015}
    assert facts["epochs"] == pytest.approx(6 * 8 / facts["n_rows"])
    with (tmp_path / "a" / "metrics.csv").open(newline="") as file:
        rates = [float(row["train/lr"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert len(rates) == 6 and max(rates) == pytest.approx(0.005)
    assert rates == pytest.approx([record["lr"] for record in done.history["train"]])
