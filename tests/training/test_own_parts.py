"""A model and an objective of one's own, named by their dotted paths: trained, saved and loaded as what they are."""

from pathlib import Path

import pytest
import torch
from torch import nn

from illada_lab.models import MaskPredictor
from illada_lab.objectives import Pretrain
from illada_lab.training.checkpoint import load_run
from tests.processes import together
from tests.training.small_runs import run

HERE = __name__


class Gated(MaskPredictor):
    """A gate before the head, closed by half at the start."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.gate = nn.Parameter(torch.empty(self.spec.d_model))

    def draw_weight(self, name, weight, generator=None):
        if name == "gate":
            weight.fill_(0.5)
        else:
            super().draw_weight(name, weight, generator)

    def hidden(self, *inputs, **options):
        return self.gate * super().hidden(*inputs, **options)


class Forgotten(Gated):
    draw_weight = MaskPredictor.draw_weight


class Buffered(MaskPredictor):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.register_buffer("seen", torch.zeros(1))


class Bare:
    def __call__(self, predictor, batch, random):
        return Pretrain()(predictor, batch, random)


class Tensors(Pretrain):
    def __call__(self, predictor, batch, random):
        return super().__call__(predictor, batch, random).value


OWN = ("scale.n_steps=3", f"model._target_={HERE}.Gated", "optim=adamw")


def sharded(folder: Path) -> None:
    run(folder, *OWN, "trainer=fsdp", "trainer.devices=2", "data.micro_batch_size=2")


def test_an_own_model_is_saved_and_loaded_as_what_it_is(tmp_path):
    alone = run(tmp_path / "a", *OWN)
    assert run(tmp_path / "a", *OWN, "resume=auto").history["validation"] == alone.history["validation"]
    together(2, sharded, tmp_path / "b")
    loaded = load_run(tmp_path / "a")
    gate, other = (dict(run.predictor.named_parameters())["gate"] for run in (loaded, load_run(tmp_path / "b")))
    assert type(loaded.predictor) is Gated and bool(((gate > 0.3) & (gate < 0.7)).all())
    assert torch.allclose(gate, other, atol=1e-3)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model._target_={}.Forgotten", "model = gate; a parameter without initial values; .* draw_weight"),
        ("model._target_={}.Buffered", "model._target_ = .*Buffered; has buffers, which no checkpoint keeps"),
        ("objective._target_={}.Bare", "objective._target_ = .*Bare; has no needs_causal"),
        ("objective._target_={}.Tensors", "objective = Tensors; returned Tensor; a Loss"),
    ],
)
def test_what_an_own_part_lacks_is_told_in_a_line(tmp_path, setting, message):
    bare = ["~objective.schedule", "~objective.times", "~objective.shorten", "~objective.is_bos_maskable"]
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "a", "scale.n_steps=4", setting.format(HERE), *(bare if "Bare" in setting else []))


def test_a_model_that_cannot_be_imported_here_is_named(tmp_path, monkeypatch):
    run(tmp_path / "a", "scale.n_steps=3", f"model._target_={HERE}.Gated", "optim=adamw")
    monkeypatch.delitem(globals(), "Gated")
    with pytest.raises(ValueError, match=r"a model of .*Gated, which cannot be imported .*PYTHONPATH"):
        load_run(tmp_path / "a")
