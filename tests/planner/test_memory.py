"""Planned memory: against counting by hand, against measured steps, and across settings."""

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import pytest
import torch

from illada_lab.diffusion import RowRandom, StratifiedTimes
from illada_lab.models import MaskPredictor, ModelSpec, head_loss
from illada_lab.models.lora import Lora
from illada_lab.objectives import Autoregressive
from illada_lab.planner import Device, Job, Step, in_proportion, memory_per_device, rehearsal, rehearse
from illada_lab.planner.measure import measured_steps
from illada_lab.tokens import ILLADA
from illada_lab.training import muon as muon_file
from illada_lab.training.machine import can_compile
from illada_lab.training.optim import adamw, muon

SIZES = in_proportion(128, vocab_size=2048, length=256)
ADAMW, MUON = partial(adamw, lr=1e-3), partial(muon, lr=1e-3, adamw_lr=1e-3)
STEP = Step(spec=ModelSpec(**SIZES), n_rows=4, length=128, optim=ADAMW, is_on_cpu=True)


def test_weights_gradients_and_adamw_take_four_numbers_per_parameter():
    n = STEP.spec.n_parameters
    update = rehearse(STEP).update
    assert update["weights"] == update["gradients"] == 4 * n
    n_steps = 4 * sum(1 for _ in MaskPredictor(tokens=ILLADA, **SIZES).parameters())
    assert update["optimiser"] == 8 * n + n_steps


def test_muon_keeps_one_momentum_for_the_matrices_of_the_layers():
    spec = STEP.spec
    in_layers = spec.n_layers * (spec.n_layer_parameters - 2 * spec.d_model)
    saved = rehearse(STEP).update["optimiser"] - rehearse(replace(STEP, optim=MUON)).update["optimiser"]
    assert 0 <= saved - 4 * in_layers < 1024  # and the matrices' step counters


@pytest.mark.parametrize(
    ("is_on_cpu", "n_bytes"), [(True, 12 * 448 * 128 + 8 * 128 * 128), (False, 10 * 448 * 128 + 2 * 128 * 128)]
)
def test_sharded_muon_takes_one_matrix_at_a_time_in_the_precision_of_its_device(is_on_cpu, n_bytes):
    """On a CPU the update, its outcome and the last one in float32, and two small products; on a GPU two outcomes, one of them in bf16."""
    for n_layers in (2, 8):
        step = replace(STEP, optim=MUON, is_on_cpu=is_on_cpu, spec=replace(STEP.spec, n_layers=n_layers))
        assert rehearsal.rehearse_sharded_update(step)["buffers"] == pytest.approx(n_bytes, abs=16)


def test_whole_muon_of_a_gpu_orthogonalises_in_bf16():
    before = muon_file.orthogonalise
    on_cpu, on_gpu = (rehearse(replace(STEP, optim=MUON, is_on_cpu=is_on_cpu)).update for is_on_cpu in (True, False))
    assert on_gpu["buffers"] < 0.8 * on_cpu["buffers"] and on_gpu["optimiser"] == on_cpu["optimiser"]
    assert muon_file.orthogonalise is before


SHARDED = Job(
    scale="test", spec=replace(STEP.spec, n_layers=4), length=256, batch_size=32, micro_batch_size=8, n_tokens=1e6, optim=ADAMW,
    precision="32-true", devices=4, strategy="fsdp",
)  # fmt: skip
GPU = Device(name="test", bf16_tflops=100.0, float32_tflops=10.0, memory_gib=80.0)


def test_a_sharded_job_with_muon_needs_no_stack_of_matrices():
    job = replace(SHARDED, spec=replace(STEP.spec, n_layers=8), length=64, micro_batch_size=1, recomputed=1)
    with_muon, with_adamw = (memory_per_device(replace(job, optim=optim), GPU) for optim in (MUON, ADAMW))
    assert with_muon.total < with_adamw.total


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_head_of_its_own_is_gathered_beside_the_embedding(precision):
    """Each has one gradient; the embedding's is not there yet when memory is fullest."""
    job = replace(SHARDED, spec=replace(SHARDED.spec, vocab_size=8192), precision=precision)
    tied, own = (
        memory_per_device(replace(job, spec=replace(job.spec, is_tied=is_tied)), GPU) for is_tied in (True, False)
    )
    assert own.buffers - tied.buffers == pytest.approx(4 * 8192 * 128, rel=0.01)


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("batch_size", [4, 8])
def test_no_gradient_outside_of_the_layers_counts_twice(is_tied, batch_size):
    """Few rows, a large vocabulary, one pass per step and two: what is outside is there three times, as itself, gradient, and on its way.

    Four times where two gradients are added to one.
    """
    spec = replace(SHARDED.spec, vocab_size=32_768, is_tied=is_tied)
    job = replace(SHARDED, spec=spec, length=8, micro_batch_size=1, batch_size=batch_size)
    outside = 4 * (spec.n_parameters - spec.n_layers * spec.n_layer_parameters)
    assert 3 * outside <= memory_per_device(job, GPU).buffers < (4.5 if is_tied else 3.5) * outside


def test_activations_grow_with_rows_and_shrink_when_they_are_computed_again():
    one, two = (rehearse(replace(STEP, n_rows=n, share_predicted=0.5)).passes["activations"] for n in (4, 8))
    assert two == pytest.approx(2 * one, rel=0.02)
    again = rehearse(replace(STEP, n_rows=8, share_predicted=0.5, recomputed=1)).passes["activations"]
    assert again < two / 2


def test_logits_are_never_all_in_memory():
    """iLLaDA's vocabulary: two rows of 8192 are 9.4 GiB of float32 logits; the head's part stays near a chunk's."""
    sizes = {**in_proportion(64, vocab_size=155_136, length=8192), "n_layers": 2}
    head = rehearse(Step(spec=ModelSpec(**sizes), n_rows=2, length=8192, optim=ADAMW)).passes["head"]
    assert head < 2**30


def test_compiled_layers_keep_less():
    """Without the copies and activations between matrix products; nothing else changes."""
    step = replace(STEP, share_predicted=0.5)
    plain, compiled = (rehearse(replace(step, is_compiled=is_compiled)) for is_compiled in (False, True))
    assert compiled.update == plain.update
    assert compiled.passes["activations"] < 0.9 * plain.passes["activations"]
    deep = replace(step, spec=ModelSpec(**{**SIZES, "n_layers": 8}), is_compiled=True)  # one layer at a time is whole
    whole, again = (rehearse(replace(deep, recomputed=which)) for which in (None, 1))
    assert again.peak.total() - again.update.total() < (whole.peak.total() - whole.update.total()) / 2


@pytest.mark.parametrize(
    ("optim", "precision", "recomputed", "accumulate"),
    [(ADAMW, "32-true", None, 1), (MUON, "bf16-mixed", None, 1), (ADAMW, "32-true", 1, 2)],
)
def test_planned_memory_is_within_a_tenth_of_what_the_allocator_gives_out(optim, precision, recomputed, accumulate):
    # Processors without bf16 units take half a minute for four rows of it.
    check_plan(optim, precision, recomputed, accumulate, is_compiled=False, n_rows=2 if "bf16" in precision else 4)


@pytest.mark.compiled
@pytest.mark.skipif(not can_compile("cpu"), reason="no C++ compiler")
@pytest.mark.parametrize(
    ("precision", "recomputed"), [("32-true", None), ("bf16-mixed", None), ("bf16-mixed", 1), ("bf16-mixed", "ops")]
)
def test_planned_memory_of_compiled_layers_is_too(precision, recomputed):
    check_plan(ADAMW, precision, recomputed, 1, is_compiled=True, n_rows=2)


@pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed")
@pytest.mark.parametrize(
    ("precision", "recomputed", "lora"),
    [
        ("32-true", None, Lora(dropout=0.1)),
        ("bf16-mixed", 1, Lora(is_base_bf16=True)),
        ("32-true", 1, Lora(targets=("q_proj",))),
    ],
)
def test_planned_memory_of_adapters_is_too(precision, recomputed, lora):
    check_plan(ADAMW, precision, recomputed, 1, is_compiled=False, n_rows=2 if "bf16" in precision else 4, lora=lora)


def test_planned_memory_of_the_twin_has_its_head_at_every_position():
    sizes = {**in_proportion(128, vocab_size=2048, length=256), "is_causal": True}
    seen = measured_steps(
        lambda: MaskPredictor(tokens=ILLADA, **sizes), ADAMW, n_rows=4, length=256, objective=Autoregressive
    )
    step = Step(spec=ModelSpec(**sizes), n_rows=4, length=256, optim=ADAMW, is_on_cpu=True)
    assert step.n_predicted == 4 * 256
    assert rehearse(step).peak.total() == pytest.approx(seen.allocated, rel=0.1)


def check_plan(optim, precision, recomputed, accumulate, is_compiled, n_rows=4, lora=None):
    sizes = in_proportion(256, vocab_size=4096, length=256)

    def make() -> MaskPredictor:
        made = MaskPredictor(tokens=ILLADA, **sizes)
        if lora is not None:
            lora.add_to(made)
        return made

    seen = measured_steps(
        make,
        optim,
        n_rows=n_rows,
        length=256,
        precision=precision,
        accumulate=accumulate,
        is_compiled=is_compiled,
        recomputed=recomputed,
    )
    planned = rehearse(
        Step(
            spec=ModelSpec(**sizes),
            n_rows=n_rows,
            length=256,
            optim=optim,
            precision=precision,
            share_predicted=seen.largest_share,
            recomputed=recomputed,
            keeps_gradients=accumulate > 1,
            is_on_cpu=True,
            is_compiled=is_compiled,
            lora=lora,
        )
    ).peak.total()
    assert planned == pytest.approx(seen.allocated, rel=0.1)
    assert 0.2 < seen.largest_share < 0.8


@pytest.mark.parametrize("n_rows", [1, 2, 3, 6, 8, 20, 64, 100])
def test_no_batch_masks_more_than_is_planned_for(n_rows):
    """The mean t of every batch of a long run; of powers of two the bound is nearly reached."""
    times, planned = StratifiedTimes(), rehearsal.largest_share(STEP.spec, n_rows)
    batches = (RowRandom(0, torch.arange(k * n_rows, (k + 1) * n_rows)) for k in range(600))
    most = max(float(times(random, 1).mean()) for random in batches)
    assert most <= planned + 1e-6
    assert n_rows not in (1, 2, 8, 64) or most > planned - 0.05 / n_rows


@pytest.mark.parametrize("is_compiled", [False, True])
def test_a_few_slices_of_the_vocabulary_take_what_all_of_them_do(monkeypatch, is_compiled):
    """Five slices here, of which a rehearsal asks for four; the last is narrower than the others."""
    sizes = {**in_proportion(64, vocab_size=155_136, length=2048), "n_layers": 1}
    step = Step(
        spec=ModelSpec(**sizes), n_rows=1, length=2048, optim=ADAMW, share_predicted=0.5, is_compiled=is_compiled
    )
    seen = []
    few = rehearse(step)
    monkeypatch.setattr(rehearsal, "_few_slices", nullcontext)
    every = head_loss.slices
    monkeypatch.setattr(head_loss, "slices", lambda *given: (seen.append(part) or part for part in every(*given)))
    assert rehearse.__wrapped__(step) == few and len(seen) >= 10
