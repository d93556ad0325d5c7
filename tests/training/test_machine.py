"""What a machine can do is measured quickly, also where it can do little."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from illada_lab.training import machine
from illada_lab.training.settings import find_device


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each product measured, under a clock by which each takes as long as 20,000 rows a second allow."""
    asked: list[int] = []

    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        asked.append(len(a))
        assert a.is_contiguous() and b.t().is_contiguous()  # as a model's: parts of matrices take other kernels
        return torch.zeros(1, 1)

    monkeypatch.setattr(machine, "linear", product)
    monkeypatch.setattr(machine, "time", SimpleNamespace(perf_counter=lambda: sum(asked) / 20_000))
    return asked


def test_a_slow_product_is_measured_once_and_small(rows: list[int]):
    rate = machine.matmul_rate.__wrapped__("cpu", "bf16", size=256, seconds=0.02)
    assert rows == [32, 128]
    assert rate == pytest.approx(2 * 128**3 / (128 / 20_000))


def test_a_fast_product_is_the_best_of_several_at_full_size(rows: list[int]):
    rate = machine.matmul_rate.__wrapped__("cpu", "float32", size=256, seconds=0.2)
    assert rows[:3] == [32, 128, 256]
    assert rows.count(256) > 2
    assert rate == pytest.approx(2 * 256**3 / (256 / 20_000))


def test_precision_is_the_one_that_pays(monkeypatch: pytest.MonkeyPatch):
    rates = {"bf16": 1e12, "float32": 1e11}
    monkeypatch.setattr(machine, "matmul_rate", lambda device, precision: rates[precision])
    monkeypatch.setattr(machine, "has_bf16_units", lambda: None)
    assert machine.best_precision("cpu") == "bf16-mixed"
    rates["bf16"] = 1.2e11
    assert machine.best_precision("cpu") == "32-true"


def test_precision_does_not_depend_on_what_else_runs(monkeypatch: pytest.MonkeyPatch):
    """Of a processor that tells what it has nothing is measured: the same command trains the same model."""
    monkeypatch.setattr(machine, "matmul_rate", lambda *_: pytest.fail("measured"))
    for has_units, expected in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(machine, "has_bf16_units", lambda found=has_units: found)
        assert machine.best_precision("cpu") == expected


def test_bf16_units_are_asked_of_the_processor(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert machine.has_bf16_units() is None
    monkeypatch.setattr("platform.machine", lambda: "AMD64")
    for avx512, amx in ((True, False), (False, True), (False, False)):
        monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda found=avx512: found)
        monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda found=amx: found)
        assert machine.has_bf16_units() is (avx512 or amx)


def test_a_device_that_is_not_here_is_not_replaced(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert find_device("auto").type == find_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="trainer.accelerator = mps; .* in float64, which Apple's GPU lacks; cpu"):
        find_device("mps")
    for name in ("cuda", "gpu"):
        with pytest.raises(
            ValueError, match=f"trainer.accelerator = {name}; this machine has none that can be used; auto or cpu"
        ):
            find_device(name)


def test_waiting_threads_sleep_unless_told_otherwise():
    """Said before torch is imported, which reads it once."""
    for told, expected in ({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"):
        environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"} | told
        code = "import illada_lab.cli, os, sys; assert 'torch' not in sys.modules; print(os.environ['OMP_WAIT_POLICY'])"
        said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert said.stdout.strip() == expected
