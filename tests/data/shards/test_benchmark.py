"""The benchmark of preparation, on three megabytes: nothing is lost, and memory is far below the cap."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_benchmark_counts_everything_and_stays_under_its_cap(tmp_path):
    command = [sys.executable, "-m", "benchmarks.prepare", "--mb", "3", "--processes", "2", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr + done.stdout
    result = json.loads((tmp_path / "prepare_cpu.json").read_text())
    assert result["is_whole"] and result["n_documents"] == result["corpus"]["n_documents"] > 1000
    assert 0 < result["peak_mb"] < result["cap_mb"] == 2000 and len(result["peak_of_each_process_mb"]) >= 3
    # A cap that is reached is said.
    command[command.index("3")] = "0.5"
    assert subprocess.run([*command, "--cap-mb", "10"], cwd=ROOT, capture_output=True, timeout=300).returncode == 1
