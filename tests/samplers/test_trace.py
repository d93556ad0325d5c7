"""Trace files: written and read back, and where two of them part."""

import json

import pytest
import torch

from illada_lab.samplers import FixedLength, Infill, VariableLength
from illada_lab.samplers.trace import RECORD, Trace, partings, read_trace, trace_of, write_trace
from illada_lab.tokens import ILLADA
from tests.scripted import Scripted
from tests.small import small_predictor

PROMPT = torch.tensor([[0, 9, 10], [0, 11, 12]])
MASK = ILLADA.mask


def made(sampler, predictor=None, prompt=PROMPT, is_valid=None):
    predictor = predictor or small_predictor()
    return trace_of(
        sampler.sample(predictor, prompt, is_valid), predictor, prompt, is_valid, seed=0, text=lambda i: f"w{i}"
    )


def test_a_trace_file_holds_what_was_traced(tmp_path):
    trace = made(VariableLength(max_length=8, block_length=4, steps_per_block=2))
    back = read_trace(write_trace(tmp_path / "deep" / "t.jsonl", trace))
    assert (back.rows, back.records, back.text) == (trace.rows, trace.records, trace.text)
    assert back.about == {"seed": 0} and set(back.records[0]) == set(RECORD)
    assert back.show(9) == "w9" and back.show(None) == "▢" and back.show(1000) == "1000"
    assert [r["prompt"] for r in back.rows] == PROMPT.tolist()
    assert len(back.steps(0)) == 4 and len(back.steps(0)[0]) == 2


def test_padding_is_no_part_of_a_prompt_and_infilling_starts_from_its_text():
    is_valid = torch.tensor([[False, True, True], [True, True, True]])
    assert made(FixedLength(response_length=2), is_valid=is_valid).rows[0]["prompt"] == [9, 10]
    text = torch.tensor([[0, MASK, 10, MASK]])
    row = made(Infill(), prompt=text).rows[0]
    assert row["prompt"] == [] and row["start"] == [0, None, 10, None] and row["stop_reason"] == "filled"


def test_equal_runs_do_not_part_and_neither_do_a_batch_and_its_rows():
    sampler = VariableLength(max_length=12, block_length=4, stop_ids=(9, 3))
    assert partings(made(sampler), made(sampler)) == []
    solo = made(sampler, prompt=PROMPT[1:])
    both = made(sampler)
    alone = Trace(both.rows[1:], [{**r, "row": 0} for r in both.records if r["row"] == 1])
    assert partings(solo, alone) == []


def test_a_parting_names_the_first_step_and_position():
    text = [0, 9, 10, 11, 12, 13, 14]
    other = [0, 9, 10, 11, 12, 20, 14]
    sampler, prompt = FixedLength(response_length=4, n_steps=4), PROMPT[:1]
    found = partings(made(sampler, Scripted(text), prompt), made(sampler, Scripted(other), prompt))
    assert [(p.row, p.step, p.position, p.tokens, p.has_same_end) for p in found] == [(0, 3, 2, (13, 20), False)]
    assert found[0].confidences[0] == pytest.approx(found[0].confidences[1])
    # Two at once against one by one: at the first step one of them has revealed nothing at position 1.
    quick = FixedLength(response_length=4, n_steps=2)
    found = partings(made(quick, Scripted(text), prompt), made(sampler, Scripted(text), prompt))
    assert [(p.step, p.position, p.tokens, p.confidences[1], p.has_same_end) for p in found] == [
        (1, 1, (12, None), None, True)
    ]


def test_what_is_taken_back_stands_in_the_trace(tmp_path):
    """Replayed, the records give the number of masks that each step left, and the text in the end."""
    predictor, seen = small_predictor(), []
    sampler = FixedLength(response_length=8, n_steps=4, n_revisited=2)
    out = sampler.sample(predictor, PROMPT, on_step=lambda canvas: seen.append(canvas.x.clone()))
    trace = read_trace(write_trace(tmp_path / "t.jsonl", trace_of(out, predictor, PROMPT)))
    assert sum(r["token"] is None for r in trace.records) == 2 * 2 * 3  # rows, tokens, steps but the last
    for row in range(2):
        canvas: list[int | None] = [None] * 8
        for step, x in zip(trace.steps(row), seen, strict=True):
            for record in step:
                canvas[record["position"]] = record["token"]
            assert canvas == [None if i == MASK else i for i in x[row, 3:].tolist()]


def test_traces_of_other_prompts_are_not_compared():
    sampler = FixedLength(response_length=2)
    with pytest.raises(ValueError, match="rows = 2 and 1; not the same prompts"):
        partings(made(sampler), made(sampler, prompt=PROMPT[:1]))
    with pytest.raises(ValueError, match=r"rows\[0\].prompt; differs"):
        partings(made(sampler), made(sampler, prompt=PROMPT.flip(0)))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "not a trace this version reads"),
        (["{"], "line 1 is not JSON"),
        (['{"format": "other", "rows": []}'], "not a trace this version reads; a file of illada_lab trace, version 2"),
        (['{"format": "illada_lab trace", "version": 3, "rows": []}'], "not a trace this version reads"),
        (['{"format": "illada_lab trace", "version": 1, "rows": []}', '{"step": 1}'], "line 2 lacks one of step, row"),
        (["[]"], "line 1 lacks one of format, rows"),
    ],
)
def test_what_is_no_trace_is_refused_with_its_line(tmp_path, lines, message):
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=message):
        read_trace(path)
    with pytest.raises(FileNotFoundError, match="nowhere.jsonl; no such file"):
        read_trace(tmp_path / "nowhere.jsonl")


HEAD = {
    "format": "illada_lab trace",
    "version": 1,
    "rows": [{"prompt": [7], "start": [None], "stop_reason": "length", "nfe": 1}],
}
LINE = dict(step=1, row=0, position=0, token=9, confidence=0.5, runner_up=8, runner_up_confidence=0.25, nfe=1)


@pytest.mark.parametrize(
    ("head", "record", "message"),
    [
        ({"rows": 5}, {}, "line 1: rows; not a list of objects"),
        ({"rows": [{"prompt": [7]}]}, {}, r"line 1: rows\[0\] lacks start"),
        ({"rows": [{**HEAD["rows"][0], "prompt": "7"}]}, {}, r"line 1: rows\[0\].prompt; not a list of token ids"),
        ({"rows": [{**HEAD["rows"][0], "start": [1.5]}]}, {}, r"line 1: rows\[0\].start; not a list"),
        ({"version": "2"}, {}, "line 1: format = 'illada_lab trace', version = '2': not a trace"),
        ({"text": ["a"]}, {}, "line 1: text; not an object"),
        ({"text": {"x": "a"}}, {}, "line 1: text; not an object"),
        ({}, {"position": "3"}, "line 2: position = '3'; not a whole number from 0"),
        ({}, {"position": -1}, "line 2: position = -1; not a whole number from 0"),
        ({}, {"step": True}, "line 2: step = True; not a whole number"),
        ({}, {"confidence": None}, "line 2: confidence = None; not a number"),
        ({}, {"row": 1}, "line 2: row = 1; the file has 1 rows"),
    ],
)
def test_json_that_is_no_trace_is_refused_with_its_line(tmp_path, head, record, message):
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(HEAD) + "\n" + json.dumps(LINE) + "\n")
    assert len(read_trace(path).records) == 1
    path.write_text(json.dumps({**HEAD, **head}) + "\n" + json.dumps({**LINE, **record}) + "\n")
    with pytest.raises(ValueError, match=message):
        read_trace(path)


def test_texts_may_hold_any_character(tmp_path):
    text = {9: "\u2028", 8: "a\u2029b\u0085\x0b", 7: "\n"}
    path = write_trace(tmp_path / "t.jsonl", Trace(HEAD["rows"], [LINE], text))
    assert read_trace(path).text == dict(sorted(text.items()))
