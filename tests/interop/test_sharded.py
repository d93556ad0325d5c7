"""Published weights into a model that two processes share: FSDP2 and tensor parallelism, on a CPU."""

import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from illada_lab.interop import load_published, load_published_into
from illada_lab.models import MaskPredictor
from tests.interop.reference import ILLADA, LLADA, random_state, write

# 25 rows on two processes: parts of different sizes.
CONFIGS = {
    "illada": {**ILLADA, "vocab_size": 25},
    "llada": {**LLADA, "vocab_size": 25, "embedding_size": 25, "mlp_hidden_size": 46},
}
X = torch.tensor([[0, 9, 5, 11, 5, 13, 2]])


def empty_like(folder) -> MaskPredictor:
    whole = load_published(folder, device="meta")
    with torch.device("meta"):
        return MaskPredictor(tokens=whole.tokens, **whole.to_config())


def by_rows(predictor, mesh):
    for layer in predictor.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(predictor, mesh=mesh)


def by_columns(predictor, mesh):
    plan = {f"mlp.{name}_proj": ColwiseParallel() for name in ("gate", "up")} | {"mlp.down_proj": RowwiseParallel()}
    for layer in predictor.layers:
        parallelize_module(layer, mesh, plan)


def work(rank, folder, rendezvous, how):
    """One of two processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    predictor = empty_like(folder)
    how(predictor, mesh)
    if how is by_rows:
        with pytest.raises(ValueError, match="sharded, and on the meta device; predictor.to_empty"):
            load_published_into(predictor, folder)
    predictor.to_empty(device="cpu")
    load_published_into(predictor, folder)
    whole = load_published(folder)
    n_sharded = 0
    for name, parameter in predictor.named_parameters():
        if isinstance(parameter, DTensor):
            n_sharded += parameter.to_local().numel() < parameter.numel()
            parameter = parameter.full_tensor()
        assert torch.equal(parameter, whole.get_parameter(name)), name
    assert n_sharded >= 6
    with torch.no_grad():
        torch.testing.assert_close(predictor(X), whole(X), atol=1e-5, rtol=0)
    dist.barrier()
    # Without the interpreter's own end: there gloo's threads now and then meet what they use already taken down, and abort.
    os._exit(0)


@pytest.mark.parametrize("how", [by_rows, by_columns])
@pytest.mark.parametrize("family", CONFIGS)
def test_each_process_reads_its_own_parts(tmp_path, family, how):
    state = random_state(CONFIGS[family])
    if family == "illada":
        state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    folder = write(tmp_path / "model", CONFIGS[family], state, n_shards=3)
    mp.spawn(work, args=(folder, tmp_path / "rendezvous", how), nprocs=2)
