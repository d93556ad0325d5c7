"""Every way to compute attention agrees with a loop over segments and heads, in its outputs and in its gradients."""

import warnings
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F

from illada_lab.models.kernels import KERNELS, Need, Sight, dense
from illada_lab.models.kernels.choice import TOLERANCE
from illada_lab.models.kernels.varlen import Offsets, OnCuda, TorchVarlen, WholeRowsDense
from illada_lab.models.segments import PackedSegments

# A row of two segments and padding, a row of one, a row of three.
IDS = torch.tensor([[1] * 5 + [2] * 9 + [0] * 6, [1] * 20, [1] * 2 + [2] * 11 + [3] * 7])
PACKED = PackedSegments(torch.tensor([0, 5, 14, 34, 36, 47, 54]))
HERE = ["sdpa", "plain"]
IN_INFERENCE = ["sdpa", "flex", "plain"]
ON_CUDA = [kernel for name in ("flash", "varlen") for kernel in KERNELS[name]] + [WholeRowsDense(TorchVarlen())]


def inputs(n_rows, length, dtype=torch.float32, device="cpu", head_size=8, needs_gradient=True):
    generator = torch.Generator().manual_seed(0)
    shapes = [(n_rows, heads, length, head_size) for heads in (4, 2, 2, 4)]
    *qkv, weight = (torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes)
    return [x.requires_grad_(needs_gradient) for x in qkv], weight


def reference(q, k, v, ids, causal_block):
    """Query by query: the keys of its segment, up to the end of its block."""
    rows = []
    for row, segments in enumerate(ids.tolist()):
        outs = []
        for i, segment in enumerate(segments):
            seen = [j for j, other in enumerate(segments) if other == segment]
            if causal_block is not None:
                end = (seen.index(i) // causal_block + 1) * causal_block
                seen = seen[:end]
            for_heads = []
            for head in range(q.shape[1]):
                keys, values = (x[row, head * k.shape[1] // q.shape[1], seen] for x in (k, v))
                for_heads.append(((keys @ q[row, head, i]) / q.shape[-1] ** 0.5).softmax(0) @ values)
            outs.append(torch.stack(for_heads))
        rows.append(torch.stack(outs, 1))
    return torch.stack(rows)


def gradients(out, weight, qkv):
    return torch.autograd.grad((out * weight).sum(), qkv)


@contextmanager
def eager_flex():
    """Compiling it takes long; tests/models/test_compiled.py does. It warns that it is slow."""
    with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def view_of(name, sight):
    return KERNELS[name][0].view(sight)


SIGHTS = {
    "whole": (None, None),
    "causal": (None, 1),
    "segments": (IDS, None),
    "causal segments": (IDS, 1),
    "block-causal segments": (IDS, 3),
}


@pytest.mark.parametrize("sight", SIGHTS)
@pytest.mark.parametrize("name", HERE)
def test_outputs_and_gradients_of_rows(name, sight):
    ids, causal_block = SIGHTS[sight]
    qkv, weight = inputs(*IDS.shape)
    found = view_of(name, Sight(ids, causal_block))(*qkv)
    expected = reference(*qkv, torch.ones_like(IDS) if ids is None else ids, causal_block)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for a, b in zip(gradients(found, weight, qkv), gradients(expected, weight, qkv), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("causal_block", [None, 1, 3])
@pytest.mark.parametrize("name", HERE)
def test_outputs_and_gradients_of_packed_segments(name, causal_block):
    sight = Sight.of_packed(PACKED, causal_block)
    qkv, weight = inputs(1, 54)
    found = view_of(name, sight)(*qkv)
    expected = reference(*qkv, sight.segment_ids, causal_block)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for a, b in zip(gradients(found, weight, qkv), gradients(expected, weight, qkv), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("name", HERE)
def test_no_gradient_crosses_a_segment(name, is_packed):
    """Exactly nothing, not little: what a segment computes does not depend on any other."""
    ids = Sight.of_packed(PACKED).segment_ids if is_packed else IDS
    sight = Sight.of_packed(PACKED) if is_packed else Sight(IDS)
    qkv, weight = inputs(*ids.shape)
    out = view_of(name, sight)(*qkv)
    is_own = (ids == 2) & (torch.arange(len(ids)) == 0)[:, None]
    for gradient in gradients(out.transpose(1, 2)[is_own], weight.transpose(1, 2)[is_own], qkv):
        size = gradient.abs().amax((1, 3))
        assert (size[is_own] > 0).all()
        assert (size[~is_own] == 0).all()


@torch.no_grad()
@pytest.mark.parametrize("sight", SIGHTS)
def test_outputs_of_flex(sight):
    """Of rows, of the same rows packed, and with nothing of one segment in another."""
    ids, causal_block = SIGHTS[sight]
    qkv, _ = inputs(*IDS.shape, needs_gradient=False)
    expected = reference(*qkv, torch.ones_like(IDS) if ids is None else ids, causal_block)
    with eager_flex():
        found = view_of("flex", Sight(ids, causal_block))(*qkv)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        if ids is None:
            return
        packed = PackedSegments(torch.tensor([0, 5, 14, 20, 40, 42, 53, 60]))  # padding is a segment here
        rows = [x.transpose(0, 1).flatten(1, 2)[None] for x in qkv]
        found = view_of("flex", Sight.of_packed(packed, causal_block))(*rows)
        torch.testing.assert_close(found, expected.transpose(0, 1).flatten(1, 2)[None], rtol=1e-5, atol=1e-5)
        q, k, v = qkv
        other = (ids != 2)[:, None, :, None]
        changed = view_of("flex", Sight(ids, causal_block))(q, *(torch.where(other, 9.0, x) for x in (k, v)))
        is_own = (ids == 2)[:, None, :, None].expand_as(expected)
        assert torch.equal(changed[is_own], view_of("flex", Sight(ids, causal_block))(*qkv)[is_own])


@pytest.mark.parametrize("name", IN_INFERENCE)
def test_bf16_is_within_its_tolerance(name):
    qkv, _ = inputs(*IDS.shape, needs_gradient=False)
    with torch.no_grad(), eager_flex():
        found = view_of(name, Sight(IDS))(*(x.bfloat16() for x in qkv))
        expected = reference(*qkv, IDS, None)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=TOLERANCE[torch.bfloat16])


@pytest.mark.parametrize("causal_block", [None, 1])
@pytest.mark.parametrize("kernel", ON_CUDA, ids=lambda kernel: kernel.name)
def test_kernels_of_cuda(kernel, causal_block):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    need = Need(device, torch.bfloat16, 64, causal_block)
    if (problem := kernel.problem(need)) is not None:
        pytest.skip(f"{kernel.name} {problem}")
    qkv, weight = inputs(*IDS.shape, dtype=torch.bfloat16, device=device, head_size=64)
    ids = IDS.to(device)
    found = kernel.view(Sight(ids, causal_block))(*qkv)
    exact = [x.detach().float().requires_grad_() for x in qkv]
    expected = reference(*exact, ids, causal_block)
    tolerance = TOLERANCE[torch.bfloat16]
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=tolerance)
    for a, b in zip(gradients(found, weight, qkv), gradients(expected, weight, exact), strict=True):
        torch.testing.assert_close(a.float(), b, rtol=0, atol=4 * tolerance)
    is_own = (ids == 2) & (torch.arange(3, device=device) == 0)[:, None]
    for gradient in gradients(kernel.view(Sight(ids))(*qkv).transpose(1, 2)[is_own], 1.0, qkv):
        assert (gradient.abs().amax((1, 3))[~is_own] == 0).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bf16"])
@pytest.mark.parametrize("sight", SIGHTS)
@pytest.mark.parametrize("name", ["sdpa", "flex", "plain"])
def test_other_kernels_on_cuda(name, sight, dtype):
    """Flex compiled, with its backward pass."""
    ids, causal_block = SIGHTS[sight]
    ids = None if ids is None else ids.cuda()
    qkv, weight = inputs(*IDS.shape, dtype=dtype, device="cuda", head_size=32)
    found = view_of(name, Sight(ids, causal_block))(*qkv)
    exact = [x.detach().float().requires_grad_() for x in qkv]
    expected = reference(*exact, torch.ones_like(IDS) if ids is None else ids, causal_block)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(found.float(), expected, rtol=tolerance, atol=tolerance)
    for a, b in zip(gradients(found, weight, qkv), gradients(expected, weight, exact), strict=True):
        torch.testing.assert_close(a.float(), b, rtol=4 * tolerance, atol=4 * tolerance)


def loop(q, k, v, offsets, longest, is_causal):
    """What a variable-length kernel computes, by torch's dense attention."""
    bounds = offsets.tolist()
    assert longest == max(end - start for start, end in zip(bounds[:-1], bounds[1:], strict=True))
    parts = []
    for start, end in zip(bounds[:-1], bounds[1:], strict=True):
        group = (x[start:end].transpose(0, 1)[None] for x in (q, k, v))
        parts.append(F.scaled_dot_product_attention(*group, is_causal=is_causal, enable_gqa=True)[0].transpose(0, 1))
    return torch.cat(parts)


@pytest.mark.parametrize("causal_block", [None, 1])
@pytest.mark.parametrize("ids", [IDS, None], ids=["segments", "whole"])
def test_what_variable_length_kernels_are_given(ids, causal_block):
    """Layout, offsets and the way back, around a kernel that runs here."""
    qkv, weight = inputs(*IDS.shape)
    found = Offsets(loop, Sight(ids, causal_block))(*qkv)
    expected = reference(*qkv, torch.ones_like(IDS) if ids is None else ids, causal_block)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for a, b in zip(gradients(found, weight, qkv), gradients(expected, weight, qkv), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_what_variable_length_kernels_are_given_of_packed_segments():
    sight = Sight.of_packed(PACKED)
    qkv, _ = inputs(1, 54)
    expected = reference(*qkv, sight.segment_ids, None)
    torch.testing.assert_close(Offsets(loop, sight)(*qkv), expected, rtol=1e-5, atol=1e-5)


class Loop(OnCuda):
    """Stands for a variable-length kernel on a machine without one; counts the rows it is given."""

    name, module = "loop", "torch"

    def __init__(self):
        self.n_positions = []

    def run(self, q, k, v, offsets, longest, is_causal):
        self.n_positions.append(len(q))
        return loop(q, k, v, offsets, longest, is_causal)


@pytest.mark.parametrize("causal_block", [None, 1])
@pytest.mark.parametrize(
    ("ids", "n_given"),
    [(IDS, 40), (IDS[1:2].repeat(3, 1), 0), (IDS[[0, 2, 2]], 60), (None, 0)],
    ids=["some whole", "all whole", "none whole", "no numbers"],
)
def test_whole_rows_are_dense_and_the_others_are_not(ids, n_given, causal_block):
    kernel = Loop()
    qkv, weight = inputs(*IDS.shape)
    found = WholeRowsDense(kernel).view(Sight(ids, causal_block))(*qkv)
    expected = reference(*qkv, torch.ones_like(IDS) if ids is None else ids, causal_block)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for a, b in zip(gradients(found, weight, qkv), gradients(expected, weight, qkv), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    # What looks backwards keeps to one kernel: which rows are whole does not matter there.
    assert kernel.n_positions == ([n_given if causal_block is None else 60] if n_given else [])


@pytest.mark.parametrize("sight", ["whole", "causal", "segments", "keys", "columns"])
def test_queries_of_a_group_can_be_asked_in_turn(sight):
    """What GPUs are given that take grouped queries in one kernel only."""
    (q, k, v), weight = inputs(*IDS.shape)
    view, is_causal = Sight(IDS), sight == "causal"
    mask = {"segments": view.mask, "keys": (IDS > 0)[:, None, None, :], "columns": view.mask_of(slice(3, 9))}.get(sight)
    if sight == "columns":
        q, weight = q[:, :, 3:9].detach().requires_grad_(), weight[:, :, 3:9]
    found, expected = (function(q, k, v, mask, is_causal) for function in (dense.in_turn, dense.plain))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for a, b in zip(gradients(found, weight, (q, k, v)), gradients(expected, weight, (q, k, v)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["sdpa", "flex"])
def test_keys_of_grouped_queries_are_not_expanded(name, monkeypatch):
    from illada_lab.models.kernels import dense, flex

    seen = []
    module, function = {"sdpa": (dense.F, "scaled_dot_product_attention"), "flex": (flex, "flex_attention")}[name]
    original = getattr(module, function)

    def spy(q, k, v, *args, **settings):
        seen.append((q.shape[1], k.shape[1], settings["enable_gqa"]))
        return original(q, k, v, *args, **settings)

    monkeypatch.setattr(module, function, spy)
    qkv, _ = inputs(*IDS.shape, needs_gradient=False)
    with torch.no_grad(), eager_flex():
        view_of(name, Sight(IDS))(*qkv)
    assert seen == [(4, 2, True)]
