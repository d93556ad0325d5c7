"""Contracts of every file in conf/: found by globbing, so a new file is tested as soon as it exists."""

import importlib.util
import re

import pytest
import torch
from omegaconf import OmegaConf

from illada_lab.config import build, check, compose, compose_and_check, conf_dir, groups, to_plain
from illada_lab.tokens import ILLADA

FILES = sorted(path.relative_to(conf_dir()).as_posix() for path in conf_dir().rglob("*.yaml"))
CHOICES = [(group, choice) for group, choices in groups().items() for choice in choices]
SCALES, EXPERIMENTS = groups()["scale"], groups()["experiment"]
# A line that sets a number, a truth value, nothing, a list, or what must be given: the ones a reader changes.
SETS = re.compile(r"\s*[A-Za-z]\w*: ([-+.]?\d|true\b|false\b|null\b|\[|\?\?\?)")

# What a user has to give as well where a choice asks for it.
GIVEN = {
    "data=text": ["data.path=somewhere"],
    "objective=autoregressive": ["model.is_causal=true"],
    "tokenizer=pretrained": ["tokenizer.path=somewhere"],
    "lora=attention": ["init_from=somewhere"],
    "lora=linear": ["init_from=somewhere"],
}
# Groups whose every choice needs a package that the tests do without.
NEEDS = {"lora": "peft"}
N_PARAMETERS = {"illada_8b": (7_615_025_152, 6_979_588_096), "llada_8b": (8_015_581_184, 6_979_588_096)}


def given(choice: str) -> list[str]:
    """Overrides for every `???` of a choice."""
    known = GIVEN.get(choice, [])
    tree = compose([choice, *known])
    from illada_lab.config import walk

    return known + [f"{path}=somewhere" for path, raw in walk(tree) if raw is not None and raw._is_missing()]


def test_there_are_files():
    assert len(FILES) > 30 and {"smoke", "toy", "small", "100m", "1b", "8b"} <= set(SCALES) and "sft" in EXPERIMENTS


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_composes_checks_and_resolves(group, choice):
    tree = compose([f"{group}={choice}", *given(f"{group}={choice}")])
    if group in NEEDS and importlib.util.find_spec(NEEDS[group]) is None:
        with pytest.raises(ValueError, match=f"{NEEDS[group]} is not installed; pip install") as caught:
            check(tree)
        assert len(str(caught.value).splitlines()) == 1
    else:
        check(tree)
    assert to_plain(tree)["seed"] == 0
    # Plain data survives a round trip: this is what checkpoints store.
    assert to_plain(OmegaConf.create(to_plain(tree))) == to_plain(tree)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("experiment", ["null", *EXPERIMENTS])
def test_every_experiment_runs_at_every_scale(scale, experiment):
    tree = compose_and_check([f"scale={scale}", f"experiment={experiment}"])
    assert tree.scale.name == scale and scale in tree.run_dir
    assert tree.data.length == tree.scale.length <= tree.model.max_length


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("data", groups()["data"])
def test_every_scale_takes_any_data(scale, data):
    """No scale sets what only one source has."""
    check(compose([f"scale={scale}", f"data={data}", *given(f"data={data}")]))


@pytest.mark.parametrize("model", groups()["model"])
def test_every_model_builds_on_the_meta_device_with_the_counted_parameters(model):
    tree = compose_and_check([f"model={model}"])
    sizes = {} if tree.model.vocab_size else {"vocab_size": 300}
    with torch.device("meta"):
        predictor = build(tree.model, tokens=ILLADA, **sizes)
    n = sum(p.numel() for p in predictor.parameters())
    assert n == predictor.spec.n_parameters
    if model in N_PARAMETERS:
        assert (n, predictor.spec.n_non_embedding_parameters) == N_PARAMETERS[model]


@pytest.mark.parametrize("group", ["objective", "sampler", "trainer"])
def test_every_choice_of_the_light_groups_builds(group):
    for choice in groups()[group]:
        assert build(compose([f"{group}={choice}"])[group]) is not None


@pytest.mark.parametrize("file", FILES)
def test_first_line_says_what_the_file_is_and_keys_are_commented(file):
    lines = (conf_dir() / file).read_text().splitlines()
    head = lines[1] if lines[0].startswith("# @package") else lines[0]
    assert head.startswith("# ") and len(head) > 20
    bare = [line.strip() for line in lines if SETS.match(line) and " # " not in line]
    assert not bare, f"no unit, range or meaning: {bare}"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiments_set_no_number_of_their_own(experiment):
    """Numbers depend on the scale, so they stand in scale/."""
    from illada_lab.config import walk

    raw = OmegaConf.load(conf_dir() / "experiment" / f"{experiment}.yaml")
    numbers = {path: node._value() for path, node in walk(raw) if type(getattr(node, "_val", None)) in (int, float)}
    assert not numbers


@pytest.mark.parametrize("scale", SCALES)
def test_scales_hold_the_same_keys(scale):
    keys = [set(compose([f"scale={s}"]).scale) for s in (scale, "toy")]
    assert keys[0] == keys[1]
