"""A base and an instruct model that have learnt next to nothing."""

import pytest

from illada_lab.config import compose_and_check
from illada_lab.training.run import train


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Folders of the two runs."""
    folder = tmp_path_factory.mktemp("models")
    common = [
        "scale=smoke",
        "trainer.precision=32-true",
        "trainer.accelerator=cpu",
        "scale.n_steps=4",
        "scale.sft_steps=4",
    ]
    train(compose_and_check([*common, f"run_dir={folder}/base"]))
    train(compose_and_check([*common, "experiment=sft", f"run_dir={folder}/instruct", f"init_from={folder}/base"]))
    # As published models are: without QK-norm.
    train(compose_and_check([*common, "model.has_qk_norm=false", f"run_dir={folder}/plain"]))
    return {name: f"checkpoint={folder}/{name}" for name in ("base", "instruct", "plain")}
