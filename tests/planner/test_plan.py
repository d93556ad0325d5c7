"""Plans: arithmetic by hand, what fits, and what is named where nothing does."""

import json
import re
from dataclasses import replace
from functools import partial

import pytest

from illada_lab.cli import main
from illada_lab.commands.plan import _arithmetic, _time
from illada_lab.config import build, compose_and_check
from illada_lab.models import ModelSpec
from illada_lab.models.lora import Lora
from illada_lab.planner import (
    Device,
    Job,
    Memory,
    Plan,
    PlanSettings,
    flops_per_token,
    in_proportion,
    job,
    largest_micro_batch,
    nearest_that_fit,
    paper_budget,
    plan,
)
from illada_lab.planner.compute import PAPER
from illada_lab.planner.size import model_spec
from illada_lab.training.optim import adamw

SETTINGS = PlanSettings(mfu=0.5, usable_share=1.0)
JOB = Job(
    scale="test",
    spec=ModelSpec(**in_proportion(128, vocab_size=1024, length=128)),
    length=128,
    batch_size=32,
    micro_batch_size=8,
    n_tokens=1e6,
    optim=partial(adamw, lr=1e-3),
    precision="32-true",
)


def device(memory_gib: float) -> Device:
    return Device(name="test", bf16_tflops=100.0, float32_tflops=10.0, memory_gib=memory_gib, has_bf16=True)


def test_the_papers_model_in_code_is_the_one_in_conf():
    spec = model_spec(compose_and_check(["scale=8b"]))  # on the meta device: nothing of that size is built
    assert spec == PAPER and spec.n_parameters == 7_615_025_152


@pytest.mark.parametrize("tokenizer", [[], ["tokenizer=byte"], ["tokenizer=bpe", "tokenizer.vocab_size=400"]])
def test_a_worlds_model_is_planned_with_the_tokenizer_that_it_would_have(tokenizer):
    config = compose_and_check(["scale=smoke", *tokenizer])
    expected = build(config.tokenizer)(build(config.data.source)).vocab_size
    assert model_spec(config).vocab_size == expected and (len(tokenizer) < 2 or expected == 400)


def test_the_papers_budget_is_six_n_d_and_attention():
    budget = paper_budget()
    assert budget["six_n_d"] == 6 * 6_979_588_096 * 12e12
    assert budget["attention"] == 12 * 32 * 4096 * 8192 * 12e12
    assert budget["total"] == pytest.approx(6.8e23, rel=0.01)


def test_parts_of_the_flops_are_those_of_the_spec():
    flops = flops_per_token(JOB.spec, 128)
    assert flops.total == JOB.spec.flops_per_token(128)
    assert flops.head == 6 * 0.5 * 1024 * 128 and flops.attention == 12 * JOB.spec.n_layers * 128 * 128


def test_the_twin_predicts_at_every_position_and_looks_backwards_only():
    twin = replace(JOB.spec, is_causal=True)
    flops, masked = flops_per_token(twin, 128), flops_per_token(JOB.spec, 128)
    assert flops.total == twin.flops_per_token(128)
    assert flops.head == 6 * 1024 * 128 == 2 * masked.head and flops.attention == masked.attention / 2
    assert flops.matrices == masked.matrices


@pytest.mark.parametrize(
    ("is_causal", "head", "attention"),
    [
        (False, "6 V D at half of the positions", "12 D L per layer (PaLM, App. B)"),
        (True, "6 V D at every position", "6 D L per layer, looking backwards only (PaLM, App. B)"),
    ],
)
def test_the_formulas_shown_are_those_that_were_used(is_causal, head, attention):
    spec = replace(JOB.spec, is_causal=is_causal)
    rows = {row[0]: row for row in _arithmetic(plan(replace(JOB, spec=spec), device(80), SETTINGS))}
    assert rows["head"][3] == head and rows["attention"][3] == attention


def test_time_follows_from_peak_mfu_and_tokens():
    made = plan(replace(JOB, devices=4, micro_batch_size=4), device(80), SETTINGS)
    assert made.tokens_per_second == pytest.approx(4 * 10e12 * 0.5 / made.flops.total)
    assert made.device_hours * 3600 == pytest.approx(4 * made.seconds)
    in_bf16 = plan(replace(JOB, precision="bf16-mixed"), device(80), SETTINGS)
    assert in_bf16.tokens_per_second == pytest.approx(100e12 * 0.5 / made.flops.total)


def test_the_largest_micro_batch_fits_and_the_next_does_not():
    needs = {n: plan(replace(JOB, micro_batch_size=n), device(80), SETTINGS).memory.total for n in (4, 8)}
    between = device((needs[4] + needs[8]) / 2 / 2**30)
    assert largest_micro_batch(JOB, between, SETTINGS) == 4
    assert largest_micro_batch(JOB, device(80), SETTINGS) == 32
    assert largest_micro_batch(JOB, device(1e-4), SETTINGS) is None


def test_one_change_is_enough_where_it_is_and_each_way_named_fits():
    needs = plan(JOB, device(80), SETTINGS).memory.total
    made = plan(JOB, device(0.9 * needs / 2**30), SETTINGS)
    assert not made.fits
    ways = nearest_that_fit(made)
    assert [way.split(" (")[0] for way in ways] == [
        "data.micro_batch_size=4",
        "trainer.activation_checkpointing=1",
        "trainer=fsdp trainer.devices=2",
    ]


def test_state_that_fits_no_device_is_spread_over_several():
    spec = replace(JOB.spec, n_layers=16)  # deep: the layers gathered at once are a small part of it
    job = replace(JOB, spec=spec, devices=8, micro_batch_size=1, recomputed=1, batch_size=64)
    state = 16 * spec.n_parameters
    whole, sharded = (plan(replace(job, strategy=s), device(80), SETTINGS).memory for s in ("ddp", "fsdp"))
    assert whole.weights + whole.gradients + whole.optimiser >= state
    lasting = sharded.weights + sharded.gradients + sharded.optimiser
    assert lasting == pytest.approx(state / 8, rel=0.01)
    assert "trainer=fsdp" in " ".join(nearest_that_fit(plan(job, device(0.8 * whole.total / 2**30), SETTINGS)))


def test_what_is_named_can_be_trained():
    """An average of the weights is not sharded, and rows divide among the devices."""
    tight = device(0.3 * plan(JOB, device(80), SETTINGS).memory.total / 2**30)
    for change in ({"has_ema": True}, {"batch_size": 24, "micro_batch_size": 24}):
        ways = nearest_that_fit(plan(replace(JOB, **change), tight, SETTINGS))
        for n in [int(number) for way in ways for number in re.findall(r"trainer=fsdp trainer.devices=(\d+)", way)]:
            assert "has_ema" not in change and 24 % n == 0, ways


def test_a_tokenizer_that_is_not_here_is_not_guessed(tmp_path, capsys):
    words = ["scale=toy", "tokenizer=pretrained", f"tokenizer.path={tmp_path}", "data=text", "data.path=a.txt"]
    assert main(["plan", *words]) == 2
    error = capsys.readouterr().err
    assert (
        "model.vocab_size = null; that of the tokenizer is not known" in error and "model.vocab_size=<tokens>" in error
    )
    assert main(["plan", *words, "model.vocab_size=4096", "--json"]) == 0
    assert main(["config", *words]) == 0
    assert "parameters: model.vocab_size = null" in capsys.readouterr().out


def test_nothing_is_named_where_nothing_fits():
    assert nearest_that_fit(plan(replace(JOB, batch_size=8), device(1e-5), SETTINGS)) == []


def test_ema_is_a_second_copy_of_the_weights():
    plain, averaged = (plan(replace(JOB, has_ema=e), device(80), SETTINGS).memory for e in (False, True))
    assert averaged.weights - plain.weights == 4 * JOB.spec.n_parameters


def test_command_prints_the_count_that_config_prints(capsys):
    few = ["scale=8b", "model.n_layers=2"]  # a rehearsal of all 32 takes a minute
    assert main(["plan", *few, "trainer.devices=64", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main(["config", *few]) == 0
    assert f"parameters: {found['parameters']['total']:,}" in capsys.readouterr().out
    assert found["run"]["tokens"] == pytest.approx(12e12, rel=1e-6) and found["run"]["devices"] == 64
    assert found["memory"]["total"] == sum(v for k, v in found["memory"].items() if k != "total")


def test_memory_that_is_not_known_refuses_nothing(monkeypatch, capsys):
    monkeypatch.setattr("illada_lab.planner.devices.memory_bytes", lambda: 0)
    assert main(["plan", "scale=smoke", "device=cpu"]) == 0
    table = capsys.readouterr().out
    assert re.search(r"fits +│ not known +│ not known +│ not known", table), table
    assert re.search(r"largest micro-batch +│ not known", table), table
    assert main(["plan", "scale=smoke", "device=cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] is None and found["largest_micro_batch"] is None and found["nearest"] == []


def test_command_refuses_what_does_not_fit_and_names_what_does(capsys):
    # 65,536 tokens in one pass, on 4 GiB.
    words = ["scale=small", "device=rtx_4090", "device.memory_gib=4", "data.length=1024", "scale.batch_size=64"]
    words += ["scale.micro_batch_size=64"]
    assert main(["plan", *words]) == 2
    out, err = capsys.readouterr()
    assert "Memory on each of 1 x RTX 4090" in out and "no" in out
    assert err.count("\n") == 1 and "these fit" in err


@pytest.mark.parametrize("given", ["scale.micro_batch_size", "data.micro_batch_size"])
@pytest.mark.parametrize("data", [["data=hub", "data.path=o/n"], ["experiment=sft"]])
def test_fewer_rows_are_advised_by_the_key_that_always_works(given, data):
    def planned(*words):
        small = ["scale=toy", "model.n_layers=1", "trainer.is_compiled=false", "device=h100", "device.memory_gib=0.015"]
        config = compose_and_check([*small, *data, *words])
        return plan(job(config, SETTINGS, build(config.device)), build(config.device), SETTINGS)

    made = planned(f"{given}=16")
    assert not made.fits
    advised = nearest_that_fit(made)[0].split(" (")[0]
    assert advised.startswith("data.micro_batch_size=")
    assert planned(*([f"{given}=16"] if given[:5] == "scale" else []), advised).fits


@pytest.mark.parametrize(
    ("seconds", "time", "hours"),
    [(30.3, "30.3 s", "0.0084"), (19_800, "5 h 30 min", "5.5"), (6.5 * 86_400, "6.50 days", "156.0")],
)
def test_times_are_in_units_that_say_something(seconds, time, hours):
    made = plan(JOB, device(80), SETTINGS)
    rows = dict(_time(replace(made, job=replace(JOB, n_tokens=seconds * made.tokens_per_second))))
    assert rows["time"] == time and rows["GPU-hours"] == hours


@pytest.mark.parametrize(
    ("which", "lora", "n_again", "share"),
    [(1, None, 8, 1 / 3), (3, None, 3, 1 / 3), (16, None, 1, 1 / 3), (1, Lora(), 8, 1 / 2), (None, None, 0, 0.0)],
)
def test_a_forward_pass_that_comes_twice_is_work_that_mfu_does_not_count(which, lora, n_again, share):
    """Of 8 layers. Frozen matrices are 4 N and not 6 N, of which the forward pass is 2 N; attention's is a third; the head comes once."""
    given = replace(JOB, spec=replace(JOB.spec, n_layers=8), recomputed=which, lora=lora)
    flops = flops_per_token(given.spec, 128, is_frozen=lora is not None)
    made = Plan(
        given,
        device(80),
        SETTINGS,
        flops,
        Memory(weights=0, gradients=0, optimiser=0, activations=0, head=0, buffers=0),
        1,
    )
    extra = n_again / 8 * (flops.matrices * share + flops.attention / 3) / flops.total
    assert made.work == pytest.approx(1 + extra)
    said = dict(_time(made)).get("with recomputation")
    expected = (
        f"{0.5 * (1 + extra):.0%} of the peak must be reached: {extra:.0%} more arithmetic, of {n_again} of 8 layers"
    )
    assert said == (expected if which else None)


def test_nothing_is_said_of_work_that_is_not_known():
    made = plan(replace(JOB, recomputed="ops"), device(80), replace(SETTINGS, mfu=1.0))
    assert made.work is None and made.is_within_peak and "with recomputation" not in dict(_time(made))


def test_no_device_does_more_than_its_peak(capsys):
    words = ["plan", "scale=smoke", "device=h100", "trainer.activation_checkpointing=1"]
    assert main([*words, "plan.mfu=0.95"]) == 2
    out, error = capsys.readouterr()
    start = "illada-lab: plan.mfu = 0.95; with activation checkpointing of every layer "
    said = re.fullmatch(start + r"1\d\d\.\d% of the peak would be needed; at most (0.\d+)\n", error)
    assert said and out == ""
    assert main([*words, f"plan.mfu={said[1]}"]) == 0 and "100% of the peak must be reached" in capsys.readouterr().out
    assert main([*words, f"plan.mfu={float(said[1]) + 0.001}"]) == 2


def test_no_way_is_named_that_no_device_goes():
    """One layer at a time would fit, at 90 % of the peak for what counts; that is more than all of it for what is done."""
    needs = plan(JOB, device(80), SETTINGS).memory.total
    ways = nearest_that_fit(plan(JOB, device(0.9 * needs / 2**30), replace(SETTINGS, mfu=0.9)))
    assert [way.split(" (")[0] for way in ways] == ["data.micro_batch_size=4"]


def test_command_prints_tables_at_toy_scale(capsys):
    assert main(["plan", "scale=smoke", "device=h100"]) == 0
    out = capsys.readouterr().out
    for text in ("parameters", "attention", "optimiser", "largest micro-batch", "GPU-hours", "the paper's run"):
        assert text in out


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("plan.mfu=1.5", "plan.mfu = 1.5; a share; above 0, at most 1"),
        ("plan.usable_share=0", "plan.usable_share = 0; a share; above 0, at most 1"),
        ("plan.n_tokens=0", "plan.n_tokens = 0; a number of tokens; 1 or more, for example 12e12"),
        ("device.memory_gib=-1", "device.memory_gib = -1; must be positive; the data sheet's number, or null"),
    ],
)
def test_bad_settings_have_their_message(override, message):
    with pytest.raises(ValueError) as caught:
        compose_and_check([override])
    assert str(caught.value) == message
