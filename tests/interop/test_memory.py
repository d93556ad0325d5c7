"""How much memory loading takes beside the model: measured in a process of its own, on a checkpoint of a few hundred megabytes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from illada_lab.interop import export_published
from tests.small import small_predictor

SHARD = 64 * 10**6
# Prints bytes: what the process held before loading, the most it held while loading.
PROGRAM = """
import json, sys, torch
from illada_lab.interop import load_published, load_published_into

def held(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name))
    return 1024 * int(line.split()[1])

folder, way = sys.argv[1:]
predictor = load_published(folder, device="meta").to_empty(device="cpu").requires_grad_(False)
for parameter in predictor.parameters():
    parameter.zero_()  # its pages are there before anything is measured
tiny = load_published(folder, device="meta")  # what is imported late is imported
open("/proc/self/clear_refs", "w").write("5")
before = held("VmRSS")
if way == "into":
    load_published_into(predictor, folder)
else:
    predictor = load_published(folder, dtype=torch.float32)
print(json.dumps([before, held("VmHWM")]))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    predictor = small_predictor(
        vocab_size=8192, d_model=1024, n_layers=10, n_heads=16, n_kv_heads=4, d_ffn=2816, init_std=0.02
    )
    return export_published(predictor.to(torch.bfloat16), tmp_path_factory.mktemp("large") / "model", shard_bytes=SHARD)


def measure(folder, way) -> tuple[int, int]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), way], capture_output=True, text=True, timeout=900, check=True
    )
    return tuple(json.loads(done.stdout))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's accounts of memory")
def test_loading_holds_no_more_than_one_shard_beside_the_model(checkpoint):
    shards = [path.stat().st_size for path in checkpoint.glob("*.safetensors")]
    assert len(shards) > 3 and sum(shards) > 200 * 10**6
    before, most = measure(checkpoint, "into")
    # The whole of a shard is read while it is mapped, so less than half of one would mean that nothing was measured.
    assert 0.5 * max(shards) < most - before < 1.3 * max(shards)
    before, most = measure(checkpoint, "anew")
    assert 2 * sum(shards) < most - before < 2 * sum(shards) + 1.3 * max(shards)
