import json
import shutil
import subprocess
from pathlib import Path

import pytest

import illada_lab.report
from illada_lab.report.player import SCALE, frames, payload
from tests.report.example import example_results


def test_records_of_a_step_are_one_frame_in_order():
    records = [
        {
            "step": 7,
            "position": 1,
            "token": "b",
            "confidence": 0.123456,
            "runner_up": "c",
            "runner_up_confidence": 0.1,
            "nfe": 4,
        },
        {"step": 2, "position": 0, "token": "a", "confidence": 0.9},
        {"step": 7, "position": 0, "token": None, "nfe": 3},
        {"step": 9, "position": 0, "token": "d", "confidence": 1.0},
    ]
    assert frames(records) == [
        {"step": 2, "nfe": None, "set": [[0, "a", 0.9, None, None]]},
        {"step": 7, "nfe": 4, "set": [[1, "b", 0.1235, "c", 0.1], [0, None, None, None, None]]},
        {"step": 9, "nfe": 4, "set": [[0, "d", 1.0, None, None]]},
    ]
    assert frames([]) == []


def test_the_last_frame_of_every_trace_is_its_response():
    for trace in example_results()["traces"]:
        shown = {p: token for frame in frames(trace["records"]) for p, token, *_ in frame["set"]}
        assert [shown[p] for p in range(len(trace["tokens"]))] == trace["tokens"]


def test_payload_is_json_that_cannot_end_its_script_element():
    trace = {
        "title": "</script>",
        "model": "<!--",
        "prompt_tokens": ["\u2028", "&"],
        "tokens": ["</SCRIPT ", "]]>"],
        "records": [],
    }
    text = payload([trace])
    assert not set("<>&\u2028") & set(text)
    read = json.loads(text)["traces"][0]
    assert (read["title"], read["model"], read["prompt"]) == ("</script>", "<!--", ["\u2028", "&"])
    assert (read["n"], read["mask"], read["block"], read["grows"]) == (2, "▢", 0, False)


@pytest.mark.skipif(shutil.which("node") is None, reason="no JavaScript outside of a browser here")
def test_what_is_given_stands_there_from_the_start_and_is_not_counted():
    trace = {
        "title": "", "model": "", "prompt_tokens": [], "tokens": ["a", "b"], "given": [{"position": 0, "token": "a"}],
        "records": [{"step": 1, "position": 1, "token": "b", "confidence": 0.5}],
    }  # fmt: skip
    player = Path(illada_lab.report.__file__).parent / "templates" / "denoiser.js"
    script = f"""
        const p = require({json.dumps(str(player))}), trace = {payload([trace])}.traces[0];
        console.log(JSON.stringify([0, 1].map((k) => p.stateAt(trace, k)).map((s) => [s.shown.map((e) => e && e[0]), s.count])));
    """
    found = subprocess.run(["node", "-e", script], capture_output=True, text=True, check=True).stdout
    assert json.loads(found) == [[["a", None], 0], [["a", "b"], 1]]


def _brightness(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_the_scale_of_confidence_falls_in_brightness_everywhere():
    brightness = [_brightness(colour) for colour in SCALE]
    # A factor of about two and more between neighbours of the scale's lower half; without hue the order is still seen.
    assert all(a > 1.3 * b for a, b in zip(brightness, brightness[1:], strict=False))
    assert brightness[0] > 10 * brightness[-1]
