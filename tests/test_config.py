"""Compose, check, build: precedence, and the table of bad input with the message each gets."""

import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest
import yaml
from omegaconf import OmegaConf

from illada_lab.config import (
    ConfigError,
    build,
    check,
    compose,
    compose_and_check,
    conf_dir,
    group_files,
    groups,
    to_plain,
)
from illada_lab.config.types import fits, name_of

# Override -> what the message must say. Each line stands for a mistake users make.
MISTAKES = {
    "scale=toyy": "scale = toyy; no such file in conf/scale; did you mean toy?",
    "sampler.stop_strings=[a]": "there is no such key; not in the file; +sampler.stop_strings=... sets it",
    "scale=toy,mini": "scale=toy,mini; several values; --multirun runs each of them",
    "lr=0.001": "lr = 0.001; the schedule, one of constant_cosine, constant_linear, cosine; a rate: optim.lr=0.001, or a share of it",
    "~sampler.n_steps": "~sampler.n_steps; is null already, and Hydra deletes no null; leave it out",
    "~sampler.block_length=8": "~sampler.block_length=8; is not 8 but 32; ~sampler.block_length",
    "~model.foo": "~model.foo; there is no such key; known: model.",
    "data.path=a.txt": "data.path = a.txt; there is no such key; a world has no files; data=text (jsonl, parquet, shards, hub)",
    "epochs=3": "epochs = 3; there is no such key; a run counts steps: trainer.max_steps",
    "trainer.max_epochs=3": "trainer.max_epochs = 3; there is no such key; a run counts steps: trainer.max_steps",
    "task=gsm8k": "task = gsm8k; there is no such key; did you mean tasks? (of evaluate)",
    "loras=linear": "loras = linear; there is no such key; did you mean lora?",
    "qqq=1": "qqq = 1; there is no such key; known: checkpoint, data, device,",
    "sampler.max_length=64": "sampler.max_length = 64; there is no such key; sampler.response_length, or sampler=variable_length",
    "sampler.length=10": "sampler.length = 10; there is no such key; sampler.response_length",
    "sampler.transfer=Threshold": (
        "text is not what FixedLength takes; Transfer or null, as {_target_: its dotted path, setting: value}"
    ),
    "experiment=stf": "did you mean sft?",
    "model=7b": "model = 7b; no such file in conf/model",
    "model=null": "model = null; no such file in conf/model; one of",
    "modle=toy": "modle = toy; there is no such key; did you mean model?",
    "model.n_layer=3": "model.n_layer = 3; there is no such key; did you mean model.n_layers?",
    "trainer.lr=3": "trainer.lr = 3; there is no such key; did you mean",
    "+model.n_layer=3": "model.n_layer = 3; MaskPredictor has no such argument; did you mean model.n_layers?",
    "~model.n_layers": "model.n_layers = (not given); MaskPredictor needs it",
    "model.n_layers=two": "model.n_layers = 'two'; text is not what MaskPredictor takes; a whole number",
    "model.n_layers=1.5": "model.n_layers = 1.5; a number is not what MaskPredictor takes; a whole number",
    "model.d_model=1e2": "model.d_model = 100.0; a number is not what MaskPredictor takes; 100",
    "model.is_tied=1": "model.is_tied = 1; a whole number is not what MaskPredictor takes; true or false",
    "model.n_layers=null": "model.n_layers = null; null is not what MaskPredictor takes",
    "model.d_model=100": "model.n_heads = 4; d_model = 100 must split into heads of one even size",
    "model.d_model=33": "d_model = 33 must split into heads of one even size (RoPE turns pairs); nearest: none; d_model=32 goes with 4",
    "model.n_kv_heads=3": "model.n_kv_heads = 3; must divide n_heads = 4; one of [1, 2, 4]",
    "model._target_=illada_lab.models.MaskPredicter": "illada_lab.models has no MaskPredicter, but MaskPredictor",
    "model._target_=illada_lab.modles.MaskPredictor": "No module named 'illada_lab.modles'",
    "data=text": "data.path = ???; must be given; pass data.path=...",
    "data.packing=whole": "data.packing = 'whole'; text is not what DataModule takes; Packing or null",
    "data.length=100000": "data.length = 100000; longer than model.max_length; at most",
    "data.micro_batch_size=9973": "must be a multiple of micro_batch_size * devices = 9973; nearest: 9973",
    "trainer.precision=fp8": "trainer.precision = 'fp8'; not one of its choices; auto or 32-true or bf16",
    "trainer.max_steps=0": "trainer.max_steps = 0; counts from 1",
    "trainer.save_minutes=0": "trainer.save_minutes = 0; the age at which a checkpoint is replaced; above 0, or null",
    "trainer.max_norm=0": "trainer.max_norm = 0; gradients are scaled down to this norm; above 0, or null",
    "data.micro_batch_size=-4": "data.micro_batch_size = -4; out of range; 1 or more",
    "data.n_validation=0": "data.n_validation = 0; out of range; 1 or more",
    "data.seed=-1": "data.seed = -1; out of range; 0 or more",
    "data.source.world_seed=-1": "data.source.world_seed = -1; out of range; 0 or more",
    "data.source.n_documents=0": "data.source.n_documents = 0; out of range; 1 or more",
    "data.source.stage=base": "data.source.stage = 'base'; a world has two; pretrain or sft",
    "+data.n_buffer=0": "data.n_buffer = 0; out of range; 1 or more",
    "optim.lr=-0.01": "optim.lr = -0.01; would lead uphill; 0 or more",
    "optim.momentum=1.5": "optim.momentum = 1.5; the share of a running mean that is kept; 0 to below 1",
    "optim.betas=0.9": "optim.betas = 0.9; a number is not what muon takes",
    "sampler.block_length=5": "sampler.block_length = 5; must divide response_length = 32; nearest",
    "objective.schedule.min_probability=2.0": "objective.schedule.min_probability = 2.0; ",
    "run_dir=${nam}": "run_dir = ${nam}; there is no key nam; did you mean name?",
    "model.is_causal=true": "model.is_causal = true; the objective predicts from both sides; false",
    "objective=autoregressive": "model.is_causal = false; the objective would see its own targets; true",
    "objective.schedule._target_=illada_lab.diffusion.CosineSchedule": (
        "CosineSchedule has no such argument; it has none; '~objective.schedule.min_probability' leaves it out"
    ),
    "objective.times={_target_:illada_lab.diffusion.UniformTimes,a:3}": (
        "objective.times.a; objective.times has no such key; +objective.times.a=... adds it"
    ),
    "evaluation.n_questions=0": "evaluation.n_questions = 0; out of range; 1 or more",
    "evaluation.n_mc_samples=-1": "evaluation.n_mc_samples = -1; out of range; 1 or more",
    "scale.n_questions=0": "scale.n_questions = 0; out of range; 1 or more",
    "seed=x": "seed = 'x'; text is not what it takes; a whole number",
    "scale.n_steps=abc": "scale.n_steps = 'abc'; text is not what",
    "foo": "foo; not a setting; of the form key=value",
    "name=[": "name=[; the value cannot be read",
}


@pytest.mark.parametrize(("mistake", "message"), MISTAKES.items(), ids=MISTAKES.keys())
def test_one_mistake_gives_one_line_that_says_what_would_be_right(mistake, message):
    with pytest.raises(ConfigError) as error:
        compose_and_check([mistake])
    assert len(error.value.problems) == 1, error.value.problems
    assert message in str(error.value)


def counts_of_studies() -> list[tuple[str, str]]:
    """Every study with every whole number that it counts to; lists of them are their constructors' own."""
    files = {name: yaml.safe_load((conf_dir() / f"study/{name}.yaml").read_text()) for name in groups()["study"]}
    return [(name, k) for name, node in files.items() for k, v in node.items() if k[:2] == "n_" and type(v) is not list]


@pytest.mark.parametrize(("study", "key"), counts_of_studies())
def test_a_study_counts_from_one(study, key):
    with pytest.raises(ConfigError, match=rf"^study\.{key} = 0; .*; [12] or more$"):
        compose_and_check([f"study={study}", f"study.{key}=0"])


def test_what_the_constructor_of_a_study_says_goes_first():
    for n in (0, 1):
        with pytest.raises(ConfigError, match=rf"^study.n_candidates = {n}; a choice needs two; 2 or more$"):
            compose_and_check(["study=reversal", f"study.n_candidates={n}"])


def test_all_problems_come_at_once_from_both_stages_and_in_a_fixed_order():
    mistakes = ["scale=toyy", "model.n_layer=3", "model.n_heads=3", "seed=x", "run_dir=${nam}", "optim.lr=fast"]
    with pytest.raises(ConfigError) as error:
        compose_and_check(mistakes)
    keys = [line.partition(" = ")[0] for line in error.value.problems]
    assert set(keys) == {"scale", "model.n_layer", "model.n_heads", "model.n_kv_heads", "seed", "run_dir", "optim.lr"}
    assert keys[:2] == ["scale", "model.n_layer"]


def test_validated_parts_are_no_longer_than_what_the_model_takes():
    words = ["scale=smoke", "data=jsonl", "data.path=a.jsonl", "data.max_validation_length=5000"]
    compose_and_check([*words, "data.validates_rows=true"])  # without effect there
    with pytest.raises(
        ConfigError, match="^data.max_validation_length = 5000; longer than model.max_length; at most 256, or null$"
    ):
        compose_and_check([*words, "data.validates_rows=false"])


def test_nothing_is_a_choice_that_holds(tmp_path, monkeypatch):
    """Hydra cannot choose nothing: what is dropped must not come back in another way."""
    assert compose(["experiment=sft", "experiment=null"]).name == compose([]).name
    assert compose(["lora=null", "lora=linear"]).get("lora") and not compose(["lora=linear", "lora=null"]).get("lora")
    assert compose(["experiment=null", "experiment=sft"]).name == compose(["experiment=sft"]).name
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "own.yaml").write_text(
        "# @package _global_\n# Own.\ndefaults:\n  - override /lora: linear\n"
    )
    monkeypatch.setenv("ILLADA_CONF", str(tmp_path))
    assert compose(["experiment=own"]).lora is not None
    with pytest.raises(ConfigError, match="^lora = null; experiment=own brings one; a choice without it$"):
        compose(["experiment=own", "lora=null"])


def test_a_decay_that_waits_for_validations_needs_some():
    waiting = ["scale=smoke", "lr.decay_start=plateau"]
    compose_and_check([*waiting, "trainer.validate_every=4"])
    for overrides, told in (
        ([], "trainer.validate_every = 10; lr.decay_start=plateau needs 4 validations between warm-up and end, and sees 1, so it would "
             "never decay; at most 4"),
        (["trainer.max_steps=4"], "trainer.validate_every = 10; .* sees 0, .*; more steps, or lr.patience below 3"),
        (["trainer.validate_every=5"], "trainer.validate_every = 5; .* sees 3, .*; at most 4"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=f"^{told}$"):
            compose_and_check([*waiting, *overrides])
    with pytest.raises(
        ConfigError, match="^trainer.validate_every = null; lr.decay_start=plateau watches the valida[^\n]*$"
    ):
        compose_and_check([*waiting, "trainer.validate_every=null"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainer.devices=16", "trainer.tensor_parallel=16"], "16; must divide model.n_kv_heads = 8; nearest: 8"),
        (["trainer.devices=8", "trainer.tensor_parallel=8", "model.n_kv_heads=2"], "8; must divide model.n_kv_heads = 2; nearest: 2"),
        (
            ["trainer.devices=3", "trainer.tensor_parallel=3"],
            "3; must divide model.n_heads = 32 and model.n_kv_heads = 8 and model.d_ffn = 14336; 1, with trainer=fsdp",
        ),
    ],
)  # fmt: skip
def test_layers_are_shared_evenly_or_not_at_all(words, message):
    with pytest.raises(ConfigError, match=f"^trainer.tensor_parallel = {message}$"):
        compose_and_check(["scale=8b", "trainer=fsdp_tp", *words])


def test_layers_that_divide_are_shared():
    compose_and_check(["scale=8b", "trainer=fsdp_tp", "trainer.devices=16", "trainer.tensor_parallel=8"])


def test_nothing_is_built_by_the_check(monkeypatch):
    import illada_lab.models

    monkeypatch.setattr(
        illada_lab.models.MaskPredictor, "__init__", _refuse_to_be_built(illada_lab.models.MaskPredictor)
    )
    check(compose())


def _refuse_to_be_built(called):
    import functools

    @functools.wraps(called.__init__)
    def init(self, **_):
        raise AssertionError("built")

    return init


def test_what_is_said_on_the_command_line_wins_over_the_scale():
    tree = compose_and_check(["scale=smoke", "model=toy", "optim=adamw", "trainer.max_steps=7"])
    assert tree.scale.name == "smoke" and tree.model.d_model == 128 and tree.trainer.max_steps == 7
    assert tree.optim._target_.endswith("adamw") and tree.data.length == tree.scale.length
    assert compose(["model=toy", "scale=smoke"]) == compose(["scale=smoke", "model=toy"])


def test_text_data_takes_its_path_from_one_key():
    tree = compose_and_check(["data=text", "data.path=notes.txt", "scale=smoke"])
    assert tree.data.source.path == "notes.txt"


def test_experiments_are_deltas_that_the_command_line_can_still_change():
    tree = compose_and_check(["experiment=sft", "scale=smoke", "lr=cosine", "name=mine"])
    assert tree.lr._target_.endswith("Cosine") and tree.run_dir == "runs/mine" and "world" in tree.data.source._target_


def test_composing_twice_gives_the_same_and_leaves_hydra_usable():
    assert compose(["scale=smoke"]) == compose(["scale=smoke"])
    with pytest.raises(ConfigError):
        compose(["scale=nope"])
    assert compose().scale.name == "toy"


# Targets for build and check.


class Thing:
    runtime_arguments = frozenset({"size"})

    def __init__(self, *, size: int, ratio: float = 0.5, kind: Literal["a", "b"] = "a", parts: Sequence[int] = ()):
        if ratio > 1:
            raise ValueError(f"ratio = {ratio}; a share; 0 to 1")
        self.size, self.ratio, self.kind, self.parts = size, ratio, kind, parts

    @staticmethod
    def check_config(**values):
        return ["kind = b; needs parts; parts: [1]"] if values.get("kind") == "b" and not values.get("parts") else []


class Needy:
    def __init__(self, *, must: int):
        raise RuntimeError("first\nsecond")


def node(**values):
    return OmegaConf.create({"thing": {"_target_": f"{__name__}.Thing", **values}})


def test_arguments_of_run_time_may_be_missing_or_null():
    check(node())
    check(node(size=None))
    assert build(node().thing, size=3).size == 3
    with pytest.raises(ConfigError, match="thing.size = 'x'; text"):
        check(node(size="x"))


def test_partial_nodes_may_miss_what_others_must_have():
    needy = {"_target_": f"{__name__}.Needy"}
    with pytest.raises(ConfigError, match=r"a.must = \(not given\); Needy needs it"):
        check(OmegaConf.create({"a": needy}))
    check(OmegaConf.create({"a": {**needy, "_partial_": True}}))


def test_a_target_may_look_at_its_own_numbers():
    with pytest.raises(ConfigError, match="thing.kind = b; needs parts"):
        check(node(kind="b"))
    check(node(kind="b", parts=[1]))


def test_keys_that_only_other_keys_refer_to_are_no_arguments():
    tree = node(base=0.25, ratio="${thing.base}")
    check(tree)
    assert build(tree.thing, size=1).ratio == 0.25


def test_errors_of_constructors_come_through_in_plain_words():
    with pytest.raises(ValueError, match="^ratio = 2.0; a share; 0 to 1$"):
        build(node(ratio=2.0, size=1).thing)
    with pytest.raises(ConfigError, match="^first$"):
        build({"_target_": f"{__name__}.Needy", "must": 1})


def test_plain_data_is_resolved():
    assert to_plain(node(base=1, ratio="${thing.base}"))["thing"]["ratio"] == 1


@pytest.mark.parametrize(
    ("value", "hint", "is_right"),
    [
        (1, int, True),
        (True, int, False),
        (1, float, True),
        (1.5, int, False),
        (1, bool, False),
        ("a", str, True),
        (None, str, False),
        (None, str | None, True),
        ("plateau", float | Literal["plateau"], True),
        ("platau", float | Literal["plateau"], False),
        (1, Literal[True], False),
        ([0.9, 0.95], tuple[float, float], True),
        ([0.9], tuple[float, float], False),
        ([1, "a"], Sequence[int], False),
        ("ab", Sequence[str], False),
        ({"a": 0.5}, dict[str, float], True),
        ({"a": "b"}, dict[str, float], False),
        ("somewhere", Path, True),
        ("somewhere", Thing, False),
        ({"_target_": "x"}, Thing, True),
    ],
)
def test_values_against_annotations(value, hint, is_right):
    assert fits(value, hint) is is_right


def test_annotations_in_words():
    assert name_of(float | Literal["plateau"]) == "a number or plateau"
    assert name_of(str | None) == "text or null"


def test_an_error_is_the_same_in_another_process():
    error = pickle.loads(pickle.dumps(ConfigError(["a = 1; bad; 2", "b = 2; bad; 3"])))
    assert error.problems == ["a = 1; bad; 2", "b = 2; bad; 3"] and str(error) == "a = 1; bad; 2\nb = 2; bad; 3"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr.min_ratio=7", "lr.min_ratio = 7; .*; 0 to 1"),
        ("lr.peak_ratio=0.0", "lr.peak_ratio = 0.0; .*; above 0, at most 1"),
        ("trainer.max_steps=9", "lr.n_warmup_steps = 20; must be less than n_steps = 9; 0 to 8"),
        ("lr.patience=0", "lr.patience = 0; .*; 1 or more"),
        ("optim.betas=[0.9]", r"optim.betas = \[0.9\]; .*; for example \[0.9, 0.95\]"),
        ("trainer.accelerator=cdua", "trainer.accelerator = 'cdua'; .*; auto or cpu"),
    ],
)
def test_rates_and_devices_are_looked_at_before_anything_is_built(override, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        compose_and_check(["scale=toy", override])


@pytest.mark.parametrize("scale", ["100m", "1b", "8b"])
def test_the_rate_of_a_scale_is_that_of_its_optimiser(scale):
    assert compose([f"scale={scale}", "scale.lr=0.125"]).optim.lr == 0.125


CONTRIBUTING = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder of files of one's own, in a place that Hydra's grammar does not like; the experiment is CONTRIBUTING's."""
    folder = tmp_path / "it's, mine=x"
    for group in ("scale", "experiment"):
        (folder / group).mkdir(parents=True)
    text = (conf_dir() / "scale/smoke.yaml").read_text()
    (folder / "scale/mine.yaml").write_text(text.replace("name: smoke", "name: mine"))
    (folder / "experiment/wide.yaml").write_text(CONTRIBUTING.partition("```yaml\n")[2].partition("```")[0])
    monkeypatch.setenv("ILLADA_CONF", str(folder))
    return folder


def test_files_of_ones_own_stand_beside_those_of_the_package(own):
    config = compose_and_check(["scale=mine", "experiment=wide"])
    assert (config.name, config.scale.name, config.model.d_ffn, config.lr.decay_start) == (
        "wide-mine",
        "mine",
        512,
        0.5,
    )
    assert {"mine", "smoke", "toy"} <= set(groups()["scale"]) and group_files()["experiment"][
        "wide"
    ].parent.parent == own
    with pytest.raises(ConfigError, match="experiment = wid; no such file in conf/experiment; did you mean wide?"):
        compose(["scale=mine", "experiment=wid"])


def test_own_files_that_would_be_passed_over_are_refused(own, monkeypatch):
    (own / "scale/toy.yaml").write_text("scale: {name: toy}")
    for compose_or_list in (compose, groups):
        with pytest.raises(ConfigError, match="scale/toy.yaml is there already; another name of the file"):
            compose_or_list()
    (own / "scale/toy.yaml").unlink()
    monkeypatch.setenv("ILLADA_CONF", f"{own}{os.pathsep}{own / 'scale'}")
    with pytest.raises(ConfigError, match="has no files like scale/NAME.yaml"):
        compose()
