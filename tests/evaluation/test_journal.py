"""Records that are written as they come: what is whole is taken over, what is not is asked again."""

import json
from functools import partial
from pathlib import Path

import pytest

from illada_lab.evaluation.journal import Journal, Notes
from illada_lab.processes import join, rank
from tests.processes import together

BATCHES = [["a", "b"], ["c"], ["d", "e", "f"]]


def run(journal, asked):
    """The records of two tasks."""

    def answer(keys):
        asked.extend(keys)
        return [{"key": "ignored", "n": (n, key)} for n, key in enumerate(keys)]

    batches = [(keys, partial(answer, keys)) for keys in BATCHES]
    return journal.answered(batches[:2]) + journal.answered(batches[2:])


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
    for damaged in ("[1]", "", "\x00"):
        file.write_text("\n".join([*lines[:2], damaged, *lines[3:]]) + "\n")
        asked: list[str] = []
        run(Journal(file), asked)
        assert asked == list("cdef") and file.read_text().splitlines() == lines


def test_a_record_that_nobody_asks_for_stands_behind_the_others(tmp_path):
    """As one of an item that is called otherwise now: it is no answer to anything, and no reason to ask the rest again."""
    file = tmp_path / "items.jsonl"
    run(Journal(file), [])
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:2], '{"key": "z"}', *lines[3:]]) + "\n")
    asked: list[str] = []
    records = run(Journal(file), asked)
    assert asked == ["c"] and [record["key"] for record in records] == list("abcdef")
    assert file.read_text().splitlines() == [*lines, '{"key": "z"}']


def test_without_a_file_nothing_is_kept():
    asked: list[str] = []
    assert run(Journal(), asked) == run(Journal(), []) and asked == list("abcdef")


def test_texts_may_hold_any_character(tmp_path):
    """Not every character that ends a line elsewhere ends one here."""
    file, texts = tmp_path / "items.jsonl", ["a\u2028b", "\u2029", "\u0085\x0c\x1e", "\r\n"]
    records = Journal(file).answered([("abcd", lambda: [{"text": text} for text in texts])])
    assert Journal(file).answered([("abcd", lambda: pytest.fail("asked again"))]) == records
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


def shared(folder: Path) -> tuple[list[str], list[dict], int, int]:
    """A process that answers its part of the batches."""
    join()
    asked: list[str] = []
    journal = Journal(folder / "items.jsonl")
    records = run(journal, asked)
    return asked, records, journal.n_new, journal.n_taken


def test_processes_share_the_batches_and_the_file(tmp_path):
    """The next task begins with the process whose turn it is: c comes after a and b, d after c."""
    records = run(Journal(tmp_path / "alone.jsonl"), [])
    found = together(2, shared, tmp_path)
    assert [asked for asked, *_ in found] == [["a", "b", "d", "e", "f"], ["c"]]
    assert all(told == (records, 6, 0) for _, *told in found for told in [tuple(told)])
    assert {path.name for path in tmp_path.iterdir()} == {"alone.jsonl", "items.jsonl"}
    assert (tmp_path / "items.jsonl").read_bytes() == (tmp_path / "alone.jsonl").read_bytes()


def test_what_several_processes_had_written_is_taken_over_by_any_number(tmp_path):
    """Killed before the parts were put together."""
    records = run(Journal(tmp_path / "alone.jsonl"), [])
    lines = (tmp_path / "alone.jsonl").read_text().splitlines(keepends=True)
    for n in (1, 2):
        folder = tmp_path / str(n)
        folder.mkdir()
        (folder / "items.jsonl").write_text("".join(lines[:2]))
        (folder / "items-1.jsonl").write_text(lines[2])
        (folder / "items-7.jsonl").write_text(lines[3] + lines[4][:9])
        found = together(n, shared, folder)
        assert sorted(key for asked, *_ in found for key in asked) == ["d", "e", "f"]
        assert all((r, n_new, n_taken) == (records, 3, 3) for _, r, n_new, n_taken in found)
        assert [path.name for path in folder.iterdir()] == ["items.jsonl"]
        assert (folder / "items.jsonl").read_text() == "".join(lines)


def noted(file: Path) -> tuple[dict, int, float]:
    """A process that makes its notes."""
    join()
    notes = Notes(file)
    notes.add([{"key": f"new {rank()}", "n": rank()}], 1.0 + rank())
    notes.gather()
    for record in notes.found.values():
        record["judged"] = True
    notes.write()
    return notes.found, notes.n_taken, notes.seconds


def test_processes_make_notes_in_one_file(tmp_path):
    file = tmp_path / "items.jsonl"
    file.write_text('{"key": "old"}\n{"key": "cut')
    found = together(2, noted, file)
    expected = {
        key: {"key": key, **n, "judged": True} for key, n in {"old": {}, "new 0": {"n": 0}, "new 1": {"n": 1}}.items()
    }
    assert found == [(expected, 1, 2.0)] * 2
    assert [json.loads(line) for line in file.read_text().splitlines()] == list(expected.values())
    assert [path.name for path in tmp_path.iterdir()] == ["items.jsonl"]


def test_a_file_of_nothing_but_a_line_that_was_cut_takes_what_comes_behind(tmp_path):
    file = tmp_path / "items.jsonl"
    file.write_text('{"key": "a')
    with pytest.raises(KeyboardInterrupt):
        Journal(file).answered([("a", lambda: [{"n": 1}]), ("b", interrupted)])
    asked = Journal(file).answered([("a", lambda: pytest.fail("asked again")), ("b", lambda: [{"n": 2}])])
    assert asked == [{"key": "a", "n": 1}, {"key": "b", "n": 2}]


def interrupted() -> list[dict]:
    raise KeyboardInterrupt


def test_two_items_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two are called a"):
        Journal().answered([("ab", lambda: [{}, {}]), ("ca", lambda: [{}, {}])])
