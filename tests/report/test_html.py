import copy
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from illada_lab.report import render, write_report
from illada_lab.report.views import glance, over_entropy
from tests.report.example import ENTROPY, example_results

HOSTILE = '</script><b onload="x">&\'<!--$\\frac{$'
VOID = {"meta", "link", "input", "br", "hr", "img"}


class Page(HTMLParser):
    """Elements of a page in order, with what is wrong in their nesting."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.scripts, self.open, self.wrong = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        (self.scripts if self.open and self.open[-1] == "script" else self.text).append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def page():
    return Page(render(example_results()))


def test_the_page_is_well_formed_and_asks_for_nothing_outside(page):
    assert page.wrong == [] and page.open == []
    for tag, attributes in page.elements:
        assert tag not in {"link", "iframe", "object", "embed", "base", "img"}
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            assert attributes.get(name, "#").startswith("#"), (tag, attributes)
    text = render(example_results())
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text) and "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_no_id_twice_and_every_reference_is_there(page):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids


def test_the_header_says_what_was_run(page):
    for wanted in (
        "illada-lab reproduce scale=toy",
        "0123456789ab+changes",
        "9 min 12 s (552 s)",
        "Test processor, 2 cores, 2 threads",
        "torch 2.13.0",
        "_target_: illada_lab.objectives.Pretrain",
        "1,052,928",
        "1,010,432 without embeddings",
    ):
        assert wanted in page.words, wanted


def test_the_tables_show_interval_chance_and_target(page):
    for wanted in (
        "97.3 %",
        "95.5 to 99.1 %",
        "✓ reached",
        "≈ missed, within the interval",
        "✗ missed",
        "1.25 nats/token",
        "25.0 %",
    ):
        assert wanted in page.words, wanted
    assert page.words.count("≥ 95.0 %") == 3


def test_the_loss_stands_beside_the_entropy(page):
    for kind, entropy in ENTROPY.items():
        assert f"true entropy: the physical limit, {entropy:.3f}" in page.words, kind
    for wanted in (
        "nats per token",
        "bits per token",
        "bound on held-out text",
        "training loss",
        "8.3 % above the entropy (0.462 nats, 0.667 bits)",
        "The entropy of this text is not known exactly.",
    ):
        assert wanted in page.words, wanted
    names = [
        attributes["aria-label"]
        for tag, attributes in page.elements
        if tag == "svg" and attributes.get("role") == "img"
    ]
    # Four kinds and one, and both stages' bins.
    assert len(names) == len(set(names)) == 7


def test_a_bound_stands_beside_recorded_runs():
    results = example_results()
    first = results["stages"][0]
    last = first["validation_curve"][-1]["step"]
    for row in first["validation_curve"]:
        low = row["nelbo_per_token"] * (1.1 if (row["kind"], row["step"]) == ("fact", last) else 0.9)
        row.update(usual_low=low, usual_high=1.3 * row["nelbo_per_token"], n_recorded=5)
    first["landmarks"] = {"no_context": 3.9, "uniform": 5.1}
    words = Page(render(results)).words
    assert words.count("Lower than usual: 95 % of other seeds of this recipe are expected between") == 1
    assert words.count(" Usual: 95 % of other seeds") == 3 and "(5 recorded runs)" in words
    assert "1 of 3 unusual" in words and "pretrain: fact lower than usual" in words
    assert words.count("usual (95 % of other seeds, by 5 recorded runs)") == 4
    assert words.count("token frequencies without context, 3.90") == 1
    assert "No run of this recipe is recorded" not in words  # the other stage is of before such runs were looked for
    results["stages"][1]["landmarks"] = {"no_context": 1e6}
    words = Page(render(results)).words
    assert "No run of this recipe is recorded" in words and words.count("token frequencies without context") == 1
    assert "! " not in words
    results["stages"][1]["landmarks"] = {"no_context": 0.01}
    assert (
        "than token frequencies without context have (0.010): little has been learnt yet."
        in Page(render(results)).words
    )
    # A curve whose end has nothing beside it is not judged by an earlier point.
    for row in first["validation_curve"]:
        if row["step"] == last:
            del row["usual_low"]
    assert "recorded runs by chance" not in Page(render(results)).words and "unusual" not in Page(render(results)).words


def test_samples_carry_their_marks_as_words(page):
    assert page.words.count("✓ right") == 3 and page.words.count("✗ wrong") == 2
    assert "(nothing)" in page.words and "right: 7" in page.words and "right: oslo" not in page.words


def test_health_claims_and_small_size(page):
    for wanted in ("⚠ 31.0 %", "look here:", "9.25", "1480", "≈ inconclusive", "0.01 (-0.02 to 0.04)"):
        assert wanted in page.words, wanted
    assert len(render(example_results()).encode()) < 400_000


def test_every_control_has_a_name(page):
    labels = 0
    for tag, attributes in page.elements:
        if tag in {"button", "input"}:
            assert attributes.get("aria-label"), attributes
        labels += tag == "label"
    assert labels == sum(tag == "select" for tag, _ in page.elements) == 2


def _everywhere(value, text):
    """Every text replaced, keys of free-form parts included; verdicts are the schema's own words."""
    if isinstance(value, dict):
        return {key: entry if key == "verdict" else _everywhere(entry, text) for key, entry in value.items()}
    if isinstance(value, list):
        return [_everywhere(entry, text) for entry in value]
    return text if isinstance(value, str) else value


def test_hostile_text_stays_text_everywhere():
    results = _everywhere(example_results(), HOSTILE)
    results["manifest"]["machine"] = {HOSTILE: HOSTILE}
    results["manifest"]["versions"] = {HOSTILE: HOSTILE}
    results["config"] = {HOSTILE: {HOSTILE: HOSTILE}}
    stage = results["stages"][0]
    stage["name"], results["stages"][1]["name"] = HOSTILE, HOSTILE + "2"
    stage["entropy_per_token"] = {HOSTILE: 0.5}
    for number, record in enumerate(stage["validation_curve"]):
        record["kind"] = HOSTILE if number % 2 else "other"
    for number, record in enumerate(stage["t_bins"]):
        record["kind"] = HOSTILE if number % 2 else "other"
    text = render(results)
    page, calm = Page(text), Page(render(example_results()))
    assert page.wrong == [] and page.open == []
    assert sum(tag == "b" and "onload" in a for tag, a in page.elements) == 0
    assert sum(tag == "script" for tag, _ in page.elements) == sum(tag == "script" for tag, _ in calm.elements) == 2
    assert "<b onload" not in text and "<!--" not in text.split("<body>")[1]
    traces = json.loads(page.scripts[0])["traces"]
    assert traces[0]["title"] == HOSTILE and traces[0]["frames"][0]["set"][0][1] == HOSTILE
    for wanted in ("samples", "health"):
        assert results[wanted][0][{"samples": "text", "health": "name"}[wanted]] in "".join(page.text)


def test_the_least_results_give_a_page_that_says_what_is_missing():
    page = Page(render({"schema": 1, "manifest": {}}))
    assert page.wrong == []
    for sentence in (
        "The run recorded no configuration.",
        "No task was evaluated.",
        "No training was recorded.",
        "No generation was traced.",
        "No samples were drawn.",
        "The health of the generated answers was not measured.",
        "not recorded",
    ):
        assert sentence in page.words, sentence
    assert not any(tag == "script" for tag, _ in page.elements)


@pytest.mark.parametrize("part", [key for key in example_results() if key not in ("schema", "manifest")])
@pytest.mark.parametrize("gone", ["missing", "null", "empty"])
def test_any_part_may_be_missing(part, gone):
    results = example_results()
    if gone == "missing":
        del results[part]
    elif part == "parameters":
        results[part] = None
    else:
        results[part] = None if gone == "null" else type(results[part])()
    results["manifest"].pop("is_compiled")
    results["stages"] = [] if "stages" in results and part != "stages" else results.get("stages")  # figures are slow
    assert Page(render(results)).wrong == []


def test_a_stage_with_nothing_but_its_name():
    page = Page(render({"schema": 1, "manifest": {}, "stages": [{"name": "pretrain"}]}))
    assert "No loss was recorded in this stage. " in page.words
    assert "No loss by masked share was recorded in this stage." in page.words


def test_a_curve_without_errors_and_landmarks_that_are_no_numbers_are_shown():
    results = example_results()
    for stage in results["stages"]:
        stage["landmarks"] = {"uniform": math.nan, "no_context": None}
        for number, row in enumerate(stage["validation_curve"]):
            del row["stderr"]
            if number == 0:
                del row["nelbo_per_token"]
    assert "At step " in Page(render(results)).words


def test_gaps_in_curves_are_left_out():
    stage = {
        "name": "a",
        "train_curve": [{"step": 1, "loss": float("nan")}, {"step": 2, "loss": 0.0}, {"step": 3, "loss": 2.0}],
        "validation_curve": [{"step": 0, "kind": "story", "nelbo_per_token": None}],
        "t_bins": [{"t_low": 0, "t_high": 1, "loss": None}],
    }
    page = Page(render({"schema": 1, "manifest": {}, "stages": [stage]}))
    assert "training loss" in page.words and "No loss by masked share" in page.words


def test_results_are_not_changed_by_rendering():
    results = example_results()
    before = copy.deepcopy(results)
    render(results)
    assert results == before


def test_the_same_results_give_the_same_page(tmp_path):
    paths = [write_report(tmp_path / name, example_results()) for name in ("a.html", "b.html")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "b.html"]


def test_wrong_results_write_no_page(tmp_path):
    with pytest.raises(ValueError, match="results.schema = None"):
        write_report(tmp_path / "report.html", {})
    assert not list(tmp_path.iterdir())


def test_the_distance_from_the_entropy_is_worked_out_from_the_last_point():
    stage = {
        "name": "a",
        "entropy_per_token": {"story": 0.5, "sum": 0.4},
        "over_entropy": {"sum": 0.2},
        "validation_curve": [
            {"step": 0, "kind": "story", "nelbo_per_token": 2.0},
            {"step": 9, "kind": "story", "nelbo_per_token": 0.55},
        ],
    }
    assert over_entropy(stage) == {"story": pytest.approx(0.1), "sum": 0.2}
    assert glance({"manifest": {}, "stages": [stage]})[0]["note"] == "story +10.0 %, sum +20.0 %"


def test_importing_the_report_draws_in_no_figures():
    code = (
        "import sys, illada_lab.report; print([m for m in ('matplotlib', 'jinja2', 'lightning') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_drawing_leaves_pyplot_alone():
    code = (
        "import sys; from illada_lab.report import render; from tests.report.example import example_results;"
        "render(example_results()); print('matplotlib.pyplot' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "False"
    )
