"""Two processes on the CPU do what one does: losses, masks, weights, checkpoints; and they stop together."""

import errno
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from illada_lab.training.checkpoint import find_resumable, load_run, read_about, read_checkpoint
from tests.processes import Failure, finish, losses, run, run_only, start, together

# Rows of one forward pass: two processes need two of them per step of 8 rows.
PAIR = ["data.micro_batch_size=2"]
SHARDED = {
    "fsdp": ["trainer=fsdp", "optim=adamw"],
    "fsdp_muon": ["trainer=fsdp", "optim=muon", "trainer.activation_checkpointing=ops"],
    "fsdp_tp": ["trainer=fsdp_tp", "optim=adamw", "model.n_kv_heads=2"],
}
ALONE = {
    "adamw": ["optim=adamw"],
    "muon": ["optim=muon"],
    "heads": ["optim=adamw", "model.n_kv_heads=2"],
}
SAME_AS = {"ddp": "adamw", "fsdp": "adamw", "fsdp_muon": "muon", "fsdp_tp": "heads"}


def train_pair(folder: Path) -> None:
    """Everything that the comparisons below need, in one pair of processes."""
    run(folder / "ddp", "trainer=ddp", "optim=adamw", *PAIR)
    for name, overrides in SHARDED.items():
        run(folder / name, *overrides, *PAIR)
    # Saved by one process after 10 steps, gone on with by two.
    run(folder / "one_then_two", "trainer=fsdp", "optim=adamw", "resume=auto", *PAIR)
    run(folder / "two_then_one", "trainer=fsdp", "optim=adamw", "trainer.max_steps=10", "lr.n_steps=20", *PAIR)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name, overrides in ALONE.items():
        run(folder / name, *overrides)
    run(folder / "one_then_two", "optim=adamw", "trainer.max_steps=10", "lr.n_steps=20")
    together(2, train_pair, folder)
    run(folder / "two_then_one", "optim=adamw", "resume=auto")
    return folder


@pytest.mark.parametrize("name", SAME_AS)
def test_two_processes_have_the_losses_of_one(runs, name):
    """20 steps, two micro-batches a step in each process; the rows differ in their numbers of tokens."""
    alone, pair = losses(runs / SAME_AS[name]), losses(runs / name)
    before, now = (json.loads((runs / n / "history.json").read_text())["validation"] for n in (SAME_AS[name], name))
    assert [record["step"] for record in now] == [10, 20]
    for one, two in zip(before, now, strict=True):  # each process has computed a part of it
        for kind, row in one["kinds"].items():
            assert two["kinds"][kind]["nelbo_per_token"] == pytest.approx(row["nelbo_per_token"], abs=1e-4)
    assert len(pair) == 20 and pair == pytest.approx(alone, abs=1e-5)
    assert alone[-1] < alone[0]


@pytest.mark.parametrize("name", ["one_then_two", "two_then_one"])
def test_a_checkpoint_loads_at_another_world_size(runs, name):
    assert losses(runs / name) == pytest.approx(losses(runs / "adamw"), abs=1e-5)
    a, b = (read_checkpoint(runs / n)["state_dict"] for n in (name, "adamw"))
    assert a.keys() == b.keys() and all(torch.allclose(a[key], b[key], atol=1e-4) for key in a)


@pytest.mark.parametrize("n_bytes", [0, 500])
def test_a_damaged_sharded_checkpoint_falls_back_to_the_one_before(runs, tmp_path, n_bytes):
    shutil.copytree(runs / "fsdp", tmp_path / "a")
    folder = tmp_path / "a" / "checkpoints"
    assert find_resumable(tmp_path / "a") == folder / "last.ckpt"
    with (folder / "last.ckpt" / "run.pt").open("r+b") as file:
        file.truncate(n_bytes)
    assert find_resumable(tmp_path / "a") in (folder / "previous.ckpt", folder / "before_decay.ckpt")
    with pytest.raises(ValueError, match="last.ckpt; truncated or not a checkpoint .* previous.ckpt beside it"):
        load_run(folder / "last.ckpt")


@pytest.mark.parametrize("spoil", [Path.unlink, lambda file: file.write_bytes(file.read_bytes()[:500])])
def test_a_sharded_checkpoint_without_all_of_its_shards_is_damaged(runs, tmp_path, spoil):
    shutil.copytree(runs / "fsdp", tmp_path / "a")
    folder = tmp_path / "a" / "checkpoints"
    spoil(sorted((folder / "last.ckpt").glob("*.distcp"))[0])
    assert find_resumable(tmp_path / "a") in (folder / "previous.ckpt", folder / "before_decay.ckpt")


def go_on_from_two_places(folder: Path) -> str:
    """Each process with a folder of its own; only one of them holds a checkpoint."""
    own = folder / ("a" if os.environ["RANK"] == "0" else "b")
    try:
        run(own, "trainer=ddp", "optim=adamw", *PAIR, "resume=auto")
    except ValueError as error:
        return str(error)
    return "trained"


def test_processes_that_would_go_on_from_different_steps_do_not_begin(tmp_path):
    run(tmp_path / "a", "optim=adamw", "trainer.max_steps=3", "lr.n_steps=20")
    for said in together(2, go_on_from_two_places, tmp_path):
        assert "process 1 would train otherwise than process 0 (another step to go on from)" in said


def test_a_sharded_checkpoint_is_a_model_like_any_other(runs):
    """Folder of shards in, whole model out: same weights, tokenizer, step; and the optimiser's state as one process would save it."""
    loaded, alone = load_run(runs / "fsdp"), load_run(runs / "adamw")
    assert loaded.step == 20 and loaded.path.is_dir() and (loaded.path.parent / "previous.ckpt").is_dir()
    x = torch.arange(6, 26)[None]
    assert torch.allclose(loaded.predictor(x), alone.predictor(x), atol=1e-4)
    a, b = (read_checkpoint(runs / n)["optimizer_states"][0] for n in ("fsdp", "adamw"))
    assert a["state"].keys() == b["state"].keys()
    assert all(torch.allclose(a["state"][i]["exp_avg"], b["state"][i]["exp_avg"], atol=1e-5) for i in a["state"])
    assert [g["params"] for g in a["param_groups"]] == [g["params"] for g in b["param_groups"]]


def weights_of_a_sharded_model(tensor_parallel: int) -> float:
    """Largest difference between a sharded model's initial weights and those that the constructor draws."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    from illada_lab.training.distributed.materialise import materialise
    from illada_lab.training.distributed.sharding import shard

    dist.init_process_group("gloo")
    shape = (2 // tensor_parallel, tensor_parallel)
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("data_parallel", "tensor_parallel"))
    torch.manual_seed(7)
    whole = odd_predictor()
    with torch.device("meta"):
        sharded = odd_predictor()
    shard(sharded, mesh, is_bf16=False)
    materialise(sharded, "cpu", seed=7)
    own = {name: p.full_tensor() for name, p in sharded.named_parameters()}  # type: ignore[attr-defined]
    held = sum(p.to_local().numel() for p in sharded.parameters())  # type: ignore[attr-defined]
    assert held < 0.7 * sum(p.numel() for p in whole.parameters())
    dist.destroy_process_group()
    return max(float((own[name] - p).abs().max()) for name, p in whole.named_parameters())


def odd_predictor():
    """Sizes that do not divide evenly, a head of its own."""
    from tests.small import ILLADA, SIZES, MaskPredictor

    return MaskPredictor(tokens=ILLADA, **{**SIZES, "vocab_size": 25, "is_tied": False, "has_qk_norm": True})


@pytest.mark.parametrize("tensor_parallel", [1, 2])
def test_initial_weights_are_those_of_one_process(tensor_parallel):
    assert together(2, weights_of_a_sharded_model, tensor_parallel) == [0.0, 0.0]


def masks_of_a_run(folder: Path, *overrides: str) -> dict[int, list]:
    """Row of the stream -> (step, tokens, t's weight) of what the objective saw of it."""
    from illada_lab.objectives import pretrain

    seen: dict[int, list] = {}
    plain = pretrain.corrupt

    def watched(tokens, segment_ids, is_maskable, *, random, **settings):
        out = plain(tokens, segment_ids, is_maskable, random=random, **settings)
        seen.update({int(i): row.tolist() for i, row in zip(random.index, out.xt, strict=True)})
        return out

    pretrain.corrupt = watched
    try:
        run(folder, "scale.n_steps=6", *overrides)
    finally:
        pretrain.corrupt = plain
    return seen


def test_masks_depend_on_the_seed_and_the_row_alone(tmp_path):
    """The same rows in the same steps under the same masks, for one process, two, and other micro-batches."""
    alone = masks_of_a_run(tmp_path / "alone")
    assert sorted(alone) == list(range(48))
    for micro in (1, 4):
        parts = together(2, masks_of_a_run, tmp_path / f"pair{micro}", "trainer=ddp", f"data.micro_batch_size={micro}")
        assert not set(parts[0]) & set(parts[1]) and {**parts[0], **parts[1]} == alone


def wait_for(file: Path, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not file.exists():
        assert time.monotonic() < end, f"{file} did not appear"
        time.sleep(0.02)


@pytest.mark.parametrize("trainer", ["ddp", "fsdp"])
def test_sigterm_to_one_process_saves_and_stops_both(tmp_path, trainer):
    overrides = ["optim=adamw", "lr.n_steps=2000", "trainer.validate_every=null"]
    pair = [f"trainer={trainer}", "trainer.max_steps=2000", "trainer.save_every=3"]
    started, results = start(2, run_only, tmp_path / "a", *overrides, *pair)
    wait_for(tmp_path / "a" / "checkpoints" / "previous.ckpt")
    os.kill(started[1].pid, signal.SIGTERM)  # type: ignore[arg-type]
    found = finish(started, results)
    assert [found[rank].kind for rank in (0, 1)] == ["Preempted", "Preempted"] and found[0].text == "143"
    step = read_about(tmp_path / "a")["global_step"]
    assert 6 <= step < 2000
    run(tmp_path / "a", *overrides, f"trainer.max_steps={step + 2}", "resume=auto")
    run(tmp_path / "whole", *overrides, f"trainer.max_steps={step + 2}")
    assert losses(tmp_path / "a") == pytest.approx(losses(tmp_path / "whole"), abs=1e-4)


def test_a_killed_process_does_not_leave_the_other_waiting(tmp_path):
    overrides = ["trainer=ddp", "scale.n_steps=100000", "trainer.save_every=3", "trainer.validate_every=null"]
    started, results = start(2, run_only, tmp_path / "a", *overrides, "trainer.timeout_minutes=0.5")
    wait_for(tmp_path / "a" / "checkpoints" / "previous.ckpt")
    started[1].kill()
    found = finish(started, results, seconds=60)
    assert found[0].kind == "TrainingStopped"
    assert "process 0 of 2 waited for another that is gone" in found[0].text and "resume=auto" in found[0].text
    assert read_checkpoint(tmp_path / "a")["global_step"] >= 3


def come_alone(folder: Path) -> None:
    """Only the first of two processes comes to where they meet."""
    if os.environ["RANK"] == "0":
        run(folder, "trainer=ddp", "trainer.timeout_minutes=0.05")


def test_a_process_that_never_comes_is_said_in_one_line(tmp_path):
    found = finish(*start(2, come_alone, tmp_path / "a"), seconds=60)
    assert found[0].kind == "TrainingStopped", found[0].trace
    assert "process 0 of 2 waited for another that is gone" in found[0].text and "meta" not in found[0].text


def run_into_a_full_disk(folder: Path, *overrides: str) -> None:
    """The second process finds no space from the second checkpoint on."""
    from torch.distributed.checkpoint import FileSystemWriter

    plain, n_saves = FileSystemWriter.write_data, 0

    def write_data(self, plan, planner):
        nonlocal n_saves
        n_saves += 1
        if n_saves > 1 and os.environ["RANK"] == "1":
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(self, plan, planner)

    FileSystemWriter.write_data = write_data
    run(folder, "trainer=fsdp", "optim=adamw", "trainer.save_every=5", *PAIR, *overrides)


@pytest.mark.parametrize("is_async", ["false", "true"])
def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, is_async):
    found = finish(*start(2, run_into_a_full_disk, tmp_path / "a", f"trainer.is_async_save={is_async}"))
    assert [found[rank].kind for rank in (0, 1)] == ["SaveFailed", "SaveFailed"]
    assert "No space left on device" in found[0].text and "the one saved before is untouched" in found[0].text
    assert read_checkpoint(tmp_path / "a")["global_step"] == 5
    assert not list((tmp_path / "a" / "checkpoints").glob("*.partial"))


def run_with_a_bad_row(folder: Path, trainer: str) -> None:
    """Row 44, which the second process sees in step 6, has no number for a loss."""
    from illada_lab.objectives import Pretrain

    plain = Pretrain.__call__

    def poisoned(self, predictor, batch, random):
        loss = plain(self, predictor, batch, random)
        if 44 in batch.index.tolist():
            loss.value = loss.value * float("nan")
        return loss

    Pretrain.__call__ = poisoned
    run(folder, f"trainer={trainer}", "optim=adamw", "trainer.save_every=5")


@pytest.mark.parametrize("trainer", ["ddp", "fsdp"])
def test_the_guard_stops_both_processes_at_the_same_step(tmp_path, trainer):
    found = finish(*start(2, run_with_a_bad_row, tmp_path / "a", trainer))
    for rank in (0, 1):
        assert isinstance(found[rank], Failure) and found[rank].kind == "TrainingStopped", found[rank].trace
        assert found[rank].text.startswith("step = 6; the gradient of")
    record = json.loads((tmp_path / "a" / "stopped.json").read_text())
    assert record["samples"] == list(range(40, 48)) and record["step"] == 6
    weights = read_checkpoint(tmp_path / "a")["state_dict"]
    assert all(torch.isfinite(w).all() for w in weights.values())
