"""Which kernel is used, and what is said when it is not the one that was asked for."""

import warnings
from dataclasses import replace

import pytest
import torch

from illada_lab.models.kernels import ATTENTION, KERNELS, Dense, Need, Sight, choice, choose, dense, trial
from illada_lab.models.kernels.say import say_once
from illada_lab.models.kernels.varlen import Flash2, Offsets
from tests.models.kernels.test_kernels import IDS, loop
from tests.small import random_batch, small_predictor

CPU = Need(torch.device("cpu"), torch.float32, 8)


@pytest.fixture(autouse=True)
def nothing_said_yet():
    for function in (say_once, choice._choose, choice.trial):
        function.cache_clear()


def test_auto_says_nothing_where_nothing_is_missing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose("auto", CPU).name == "sdpa"
        assert choose("auto", replace(CPU, dtype=torch.bfloat16)).name == "plain, sdpa for long rows"


def test_scores_are_in_memory_only_where_they_are_few(monkeypatch):
    used = []
    for name in ("plain", "fused"):
        monkeypatch.setattr(dense, name, lambda q, k, v, *args, name=name: used.append(name) or q)
    view = choose("auto", replace(CPU, dtype=torch.bfloat16)).view(Sight(IDS))
    q = torch.zeros(3, 4, 20, 8)
    for limit in (3 * 4 * 20 * 20, 3 * 4 * 20 * 20 - 1):
        monkeypatch.setattr(dense, "MAX_SCORES", limit)
        view(q, q, q)
    assert used == ["plain", "fused"]


@pytest.mark.parametrize("name", ["flash", "varlen"])
def test_a_fallback_is_said_once_and_why(name):
    with pytest.warns(
        UserWarning, match=rf"attention = {name}; .* runs on CUDA devices, not on cpu; sdpa is used instead"
    ):
        assert choose(name, CPU).name == "sdpa"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose(name, CPU).name == "sdpa"


def test_a_kernel_that_is_there_but_fails_is_passed_over(monkeypatch):
    """As with a package that was built for another torch."""

    class Broken(Flash2):
        name = "broken"

        def problem(self, need):
            return None

        def run(self, *args):
            raise RuntimeError("no kernel image is available")

    class Wrong(Broken):
        name = "wrong"

        def view(self, sight):
            return lambda q, k, v: q + k.sum() + v.sum()

    class NoGradient(Broken):
        name = "no gradient"

        def view(self, sight):
            def attention(*qkv):
                out = dense.plain(*qkv, sight.mask)
                out.register_hook(lambda gradient: gradient * torch.nan)
                return out

            return attention

    kernels = (Broken(), Wrong(), NoGradient())
    monkeypatch.setitem(choice.KERNELS, "flash", kernels)
    monkeypatch.setattr(choice, "_must_be_tried", lambda kernel, need: kernel in kernels)
    said = (
        "broken fails: no kernel image is available; wrong is wrong by .*; no gradient is wrong by nan .*; sdpa is used"
    )
    with pytest.warns(UserWarning, match=said):
        assert choose("flash", CPU).name == "sdpa"


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="attention = fast; .* auto, flash, varlen"):
        choose("fast", CPU)
    with pytest.raises(ValueError, match="attention = fast"):
        small_predictor().use_attention("fast")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(device=torch.device("cpu")), "runs on CUDA devices, not on cpu"),
        (dict(dtype=torch.float32), "takes bf16 and float16, not float32"),
        (dict(head_size=20), "multiples of 8 up to 256, not 20"),
        (dict(causal_block=4), "no block-causal attention"),
    ],
)
def test_why_a_variable_length_kernel_cannot_be_used(change, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr("illada_lab.models.kernels.varlen._is_there", lambda module: True)
    need = Need(
        **{"device": torch.device("cuda"), "dtype": torch.bfloat16, "head_size": 64, "causal_block": None, **change}
    )
    assert message in Flash2().problem(need)
    assert Flash2().problem(Need(torch.device("cuda"), torch.bfloat16, 64)) is None


def test_a_missing_package_is_named_with_how_to_install_it(monkeypatch):
    monkeypatch.setattr("illada_lab.models.kernels.varlen._is_there", lambda module: False)
    problem = Flash2().problem(Need(torch.device("cuda"), torch.bfloat16, 64))
    assert problem == "flash_attn is not installed (pip install -e '.[gpu]')"


def test_segments_in_pieces_fall_back_to_a_mask():
    """Offsets cannot say that two pieces are one segment."""
    kernel = Flash2()
    assert isinstance(kernel.view(Sight(IDS)), Offsets)
    with pytest.warns(UserWarning, match="several pieces"):
        assert isinstance(kernel.view(Sight(torch.tensor([[1, 1, 0, 1, 2]]))), Dense)


def test_offsets_of_rows():
    offsets = Sight(IDS).offsets(3, 20, torch.device("cpu"))
    assert offsets.tolist() == [0, 5, 14, 20, 40, 42, 53, 60] and offsets.dtype == torch.int32
    assert Sight().offsets(2, 7, torch.device("cpu")).tolist() == [0, 7, 14]
    # Rows that end and begin with the same number do not run together.
    assert Sight(torch.ones(2, 3, dtype=torch.long)).offsets(2, 3, torch.device("cpu")).tolist() == [0, 3, 6]


def test_bad_blocks_are_named():
    with pytest.raises(ValueError, match="causal_block = 0"):
        Sight(IDS, 0)
    with pytest.raises(ValueError, match="causal_block = 4; .* give segment_ids"):
        Sight(None, 4)


@pytest.mark.parametrize("name", ["sdpa", "flex", "plain"])
def test_kernels_of_this_machine_pass_their_trial(name):
    need = replace(CPU, needs_gradient=name != "flex")
    for kernel in KERNELS[name]:
        assert trial(kernel, need) is None
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            choice.trial.cache_clear()
            assert trial(kernel, need) is None


def test_flex_is_for_inference_on_a_cpu():
    assert choose("flex", replace(CPU, needs_gradient=False)).name == "flex"
    with pytest.warns(UserWarning, match="attention = flex; flex has no backward pass on a CPU; sdpa is used instead"):
        assert choose("flex", CPU).name == "sdpa"


@torch.no_grad()
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize(("name", "expected"), [("plain", ["plain"] * 2), ("sdpa", ["fused"] * 2)])
def test_the_last_layer_over_some_columns_is_plain_where_plain_is_chosen(monkeypatch, name, expected, is_causal):
    used = []
    for function in ("plain", "fused"):
        real = getattr(dense, function)
        monkeypatch.setattr(dense, function, lambda *a, real=real, f=function, **k: used.append(f) or real(*a, **k))
    predictor = small_predictor(is_causal=is_causal)
    predictor.use_attention(name)
    for is_valid in (None, torch.tensor([[False, True, True, True, True, True]])):
        used.clear()
        predictor.logits_at(torch.arange(7, 13)[None], torch.arange(6)[None] == 3, is_valid)
        assert used == expected


@pytest.mark.parametrize("is_causal", [False, True])
def test_a_predictor_computes_the_same_with_every_kernel(is_causal):
    batch, found = random_batch(), []
    for name in ATTENTION:
        predictor = small_predictor(is_causal=is_causal, has_qk_norm=True)
        described = predictor.to_config()
        predictor.use_attention(name)
        assert predictor.to_config() == described  # what a checkpoint holds of the model
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out = predictor.hidden(batch.tokens, segment_ids=batch.segment_ids)
        out.square().sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in predictor.parameters() if p.grad is not None])
        found.append((out.detach(), gradient))
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            assert float((a - b).norm() / b.norm()) < 1e-5


def test_offsets_are_worked_out_once_a_pass():
    """The layers of a pass share them."""
    view = Offsets(loop, Sight(IDS))
    q = torch.randn(3, 2, 20, 8)
    view(q, q, q)
    kept = view._offsets
    view(q, q, q)
    assert view._offsets is kept is not None
