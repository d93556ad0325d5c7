"""The pictures of the ledger and of the README are drawn from result files: what they show is counted in the SVG."""

from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest

from illada_lab.report.forest import SMALLEST, forest
from illada_lab.report.ledger import read_all, write_ledger
from illada_lab.report.overview import MASK_FACE, NEW, overview, write_overview

RESULTS = Path(__file__).parents[2] / "results"


def texts(svg: str) -> list[str]:
    return [
        "".join(node.itertext()).strip() for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("}text")
    ]


def claim(sentence: str, verdict: str, effect: float, unit: str = "points", low: float | None = None) -> dict:
    high = None if low is None else 2 * effect - low
    told = {
        "sentence": sentence,
        "verdict": verdict,
        "effect": effect,
        "unit": unit,
        "threshold": 0.0,
        "smallest": None,
    }
    return told | {"ci_low": low, "ci_high": high}


def marks(svg: str) -> list[tuple[float, float]]:
    """Where markers stand, in points."""
    found = [node for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("}use")]
    return [(float(node.get("x", 0)), float(node.get("y", 0))) for node in found]


def assert_same(one: str, other: str) -> None:
    assert texts(one) == texts(other)
    assert len(marks(one)) == len(marks(other)) > 10
    for a, b in zip(marks(one), marks(other), strict=True):
        assert a == pytest.approx(b, abs=1.0)


def test_every_claim_is_a_row_and_every_unit_a_panel():
    study = {
        "study": "scoring",
        "claims": [
            claim("One.", "replicated", 0.2, low=0.1),
            claim("Two.", "not replicated", -0.5, "nats/token", low=-0.6),
            claim("Three.", "inconclusive", 2.0, "times"),
        ],
    }
    svg = forest([study, {"study": "sampling", "claims": [claim("Four.", "replicated", 0.0, low=0.0)]}])
    told = texts(svg)
    for row in ("One.  [scoring]", "Two.  [scoring]", "Three.  [scoring]", "Four.  [sampling]"):
        assert " ".join(row.split()) in [" ".join(text.split()) for text in told]
    assert {"effect, points", "effect, nats/token", "effect, times"} <= set(told)
    assert {"replicated (2)", "not replicated (1)", "inconclusive (1)"} <= set(told)
    assert svg == forest([study, {"study": "sampling", "claims": [claim("Four.", "replicated", 0.0, low=0.0)]}])


def test_both_limits_of_a_claim_are_drawn():
    told = claim("One.", "replicated", 0.2, low=0.1)
    one, two = (forest([{"study": "scoring", "claims": [told | {"smallest": least}]}]) for least in (None, 0.02))
    assert two.count(SMALLEST) - one.count(SMALLEST) == 1  # in the legend it always is


def test_nothing_to_draw_is_said():
    with pytest.raises(ValueError, match="no claims"):
        forest([{"study": "sampling", "claims": []}])


def run(seed: int) -> dict:
    curve = [{"step": step, "kind": "story", "nelbo_per_token": 1 / step, "stderr": 0.0} for step in (1, 2)]
    trace = {
        "model": "base", "sampler": "fixed length", "tokens": ["the", "cat", "sat"],
        "records": [{"step": 1, "position": 2}, {"step": 2, "position": 0}, {"step": 3, "position": 1}],
    }  # fmt: skip
    return {
        "traces": [trace],
        "stages": [{"validation_curve": curve, "entropy_per_token": {"story": 0.4 + seed / 100}}],
    }


def test_masks_and_new_words_are_those_of_each_moment():
    rows = [{"model": name, "epochs": n, "right": n / 10} for name in ("diffusion", "twin") for n in (3, 6)]
    epochs = {"seeds": [{"tables": {"epochs": rows}}]}
    curves = [
        {"model": "diffusion", "data": data, "documents": 300, "step": 1, "loss": 1.0} for data in ("repeated", "fresh")
    ]
    repetition = {"seeds": [{"tables": {"curves": curves}}]}
    svg = overview([run(0), run(1)], epochs, repetition, n_rows=4)
    told = texts(svg)
    # Moments 0 to 3 show 3, 2, 1 and 0 masks, and one new word each but the first.
    assert svg.count(f"fill: {MASK_FACE}") == 6
    assert Counter(word for word in told if word in ("the", "cat", "sat")) == {"sat": 3, "the": 2, "cat": 1}
    # A word is in colour once, in the row in which it comes.
    words = [node for node in ElementTree.fromstring(svg).iter() if (node.text or "") in ("the", "cat", "sat")]
    assert sum(f"fill: {NEW.lower()}" in node.get("style", "").lower() for node in words) == 3
    assert {"step 0", "step 1", "step 2", "step 3", "diffusion", "twin"} <= set(told)


@pytest.mark.skipif(not RESULTS.is_dir(), reason="installed without its results")
def test_the_committed_pictures_are_those_of_the_committed_results(tmp_path):
    """Same rows, words, axes and places of every mark; other versions of matplotlib write other bytes."""
    for scale in ("toy", "mini"):
        chosen = [result for result in read_all(RESULTS) if result["scale"] == scale]
        assert_same((RESULTS / scale / "effects.svg").read_text(), forest(chosen))
    for name in ("toy", "toy/reproduce"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        for path in (RESULTS / name).glob("*.json"):
            (tmp_path / name / path.name).symlink_to(path)
    assert_same((RESULTS / "overview.svg").read_text(), write_overview(tmp_path).read_text())
    write_ledger(tmp_path)
    assert (tmp_path / "toy" / "effects.svg").is_file()
