"""The whole run: one thread (sums come out the same on every machine), no network, no user's caches."""

import os
import socket

os.environ.update(
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    WANDB_MODE="offline",
    WANDB_SILENT="true",
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="agg",
)

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def no_network():
    """A test that reaches for the network fails here, on the machines that have one too."""
    connect = socket.socket.connect

    def refuse(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"tests have no network: {address}")
        return connect(self, address)

    socket.socket.connect = refuse
    yield
    socket.socket.connect = connect


@pytest.fixture(autouse=True)
def compiler_of_its_own(request):
    """Every test compiles as in a new process: after eight shapes of one function `torch.compile` would go on without compiling."""
    if request.node.get_closest_marker("compiled"):
        torch.compiler.reset()
