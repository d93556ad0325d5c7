"""Records that are written as they come: what is whole is taken over, what is not is asked again."""

import json

import pytest

from illada_lab.evaluation.journal import Journal, Notes

BATCHES = [["a", "b"], ["c"], ["d", "e", "f"]]


def run(journal, asked):
    records = []
    for keys in BATCHES:

        def answer(keys=keys):
            asked.extend(keys)
            return [{"key": "ignored", "n": (n, key)} for n, key in enumerate(keys)]

        records += journal.batch(keys, answer)
    return records


@pytest.mark.parametrize("n_bytes", range(0, 200, 9))
def test_a_file_that_was_cut_anywhere_comes_out_the_same(tmp_path, n_bytes):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    records = run(Journal(whole), [])
    assert [r["key"] for r in records] == list("abcdef") and records[1]["n"] == [1, "b"]
    cut.write_bytes(whole.read_bytes()[:n_bytes])
    asked: list[str] = []
    journal = Journal(cut)
    assert run(journal, asked) == records and cut.read_bytes() == whole.read_bytes()
    # Whole batches only, so that what is drawn for a batch is drawn for all of it.
    assert len(asked) in (6, 4, 3, 0) and (journal.n_new, journal.n_taken) == (len(asked), 6 - len(asked))
    n_lines = cut.read_bytes()[:n_bytes].count(b"\n")
    assert len(asked) == 6 - max(n for n in (0, 2, 3, 6) if n <= n_lines)


def test_foreign_lines_are_asked_again(tmp_path):
    file = tmp_path / "items.jsonl"
    run(Journal(file), [])
    lines = file.read_text().splitlines()
    for damaged in ("[1]", "", json.dumps({"key": "z"}), "\x00"):
        file.write_text("\n".join([*lines[:2], damaged, *lines[3:]]) + "\n")
        asked: list[str] = []
        run(Journal(file), asked)
        assert asked == list("cdef") and file.read_text().splitlines() == lines


def test_without_a_file_nothing_is_kept():
    asked: list[str] = []
    assert run(Journal(), asked) == run(Journal(), []) and asked == list("abcdef")


def test_texts_may_hold_any_character(tmp_path):
    """Not every character that ends a line elsewhere ends one here."""
    file, texts = tmp_path / "items.jsonl", ["a\u2028b", "\u2029", "\u0085\x0c\x1e", "\r\n"]
    records = Journal(file).batch(["a", "b", "c", "d"], lambda: [{"text": text} for text in texts])
    journal = Journal(file)
    assert journal.batch(["a", "b", "c", "d"], lambda: pytest.fail("asked again")) == records
    assert [r["text"] for r in records] == texts


def test_notes_are_kept_in_any_order_and_each_once(tmp_path):
    file = tmp_path / "notes.jsonl"
    notes = Notes(file)
    assert not file.exists()
    notes.add([{"key": "b", "n": 1}, {"key": "a", "n": 2}], 0.5)
    with file.open("a") as opened:
        opened.write('{"key": "c", "n"')  # killed
    again = Notes(file)
    assert again.found == {"b": {"key": "b", "n": 1}, "a": {"key": "a", "n": 2}} and again.n_taken == 2
    again.add([{"key": "a", "n": 3}, {"key": "c", "n": 4}], 0.25)
    assert (again.n_taken, again.seconds, notes.n_taken, notes.seconds) == (1, 0.25, 0, 0.5)
    again.found["b"]["target"] = "x"
    again.write()
    told = [json.loads(line) for line in file.read_text().splitlines()]
    assert told == [{"key": "b", "n": 1, "target": "x"}, {"key": "a", "n": 3}, {"key": "c", "n": 4}]
