"""Rows cut out of shards are the rows that packing makes; a damaged file is named."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from illada_lab.data.packing import ConcatAndCut, Documents, Dropped, OnePerRow, Rows, pack_blocks
from illada_lab.data.rows import COLUMNS, take
from illada_lab.data.shards.layout import MANIFEST, TOKENIZER
from illada_lab.data.shards.read import Folder, Place, Split, damages
from illada_lab.data.shards.rows import DocumentRows, JoinedRows, ShardRows
from illada_lab.data.shards.write import ShardWriter
from tests.data.shards.made import made, texts


def written(folder: Path, shards: list[list[list[int]]], has_prompt: bool) -> tuple[Split, Documents]:
    """Shards of given documents, and the same documents in memory."""
    places, parts = [], []
    for number, ids in enumerate(shards):
        flags = [[has_prompt and i % 3 == 0 for i in document] for document in ids]
        documents = Documents.from_lists(ids, flags)
        writer = ShardWriter(folder, f"train-{number:05}", dtype="<u2", has_prompt=has_prompt)
        writer.append(documents, n_text_bytes=0, digest=b"")
        places.append(Place(str(folder), writer.close(), "<u2"))
        parts.append(documents)
    return Split(places), Documents.join(parts)


def assert_same(found: Rows, expected: Rows) -> None:
    for name in COLUMNS:
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
        assert getattr(found, name).dtype == getattr(expected, name).dtype


document = st.lists(st.integers(0, 65_535), max_size=9)


@settings(max_examples=150, deadline=None)
@given(
    shards=st.lists(st.lists(document, min_size=1, max_size=6), min_size=1, max_size=4),
    length=st.integers(2, 12),
    has_prompt=st.booleans(),
)
def test_rows_of_shards_are_the_rows_of_the_packing(shards, length, has_prompt):
    with tempfile.TemporaryDirectory() as folder:
        split, documents = written(Path(folder), shards, has_prompt)
        if not split.n_tokens:
            return
        expected = ConcatAndCut()(documents, length, 9)
        rows = ShardRows(split, length=length, filler=9)
        assert len(rows) == len(expected.tokens)
        assert_same(take(rows, np.arange(len(rows))), expected)
        packed = list(pack_blocks(split.blocks(5), ConcatAndCut(), length, 9))
        assert np.array_equal(np.concatenate([part.tokens for part in packed]), expected.tokens)


@settings(max_examples=150, deadline=None)
@given(
    shards=st.lists(st.lists(document, min_size=1, max_size=6), min_size=1, max_size=4),
    length=st.integers(9, 12),
    has_prompt=st.booleans(),
    data=st.data(),
)
def test_one_document_per_row(shards, length, has_prompt, data):
    with tempfile.TemporaryDirectory() as folder:
        split, documents = written(Path(folder), shards, has_prompt)
        if not split.n_tokens:
            return
        expected = OnePerRow()(documents, length, 9)
        rows = DocumentRows(split, length=length, filler=9)
        assert len(rows) == len(expected.tokens)
        numbers = st.integers(0, len(rows) - 1)
        chosen = np.array(data.draw(st.lists(numbers, min_size=1, max_size=9)))
        assert_same(take(rows, chosen), Rows(*(getattr(expected, name)[chosen] for name in COLUMNS)))


def test_a_document_that_does_not_fit_into_a_row_is_named(tmp_path):
    split, documents = written(tmp_path, [[[1], [2, 3]], [[4], [5, 6, 7, 8]]], False)
    for rows in (lambda: DocumentRows(split, length=3, filler=0), lambda: OnePerRow()(documents, 3, 0)):
        with pytest.raises(ValueError, match=r"example = 3; 4 tokens.* 1 too long among 4\); scale.length=4"):
            rows()


@settings(max_examples=60, deadline=None)
@given(shards=st.lists(st.lists(document, min_size=1, max_size=6), min_size=1, max_size=4), length=st.integers(1, 9))
def test_documents_that_do_not_fit_are_left_out_where_that_is_asked_for(shards, length):
    with tempfile.TemporaryDirectory() as folder:
        split, documents = written(Path(folder), shards, True)
        dropped, same = Dropped(length), Dropped(length)
        rows = DocumentRows(split, length=length, filler=9, dropped=dropped)
        (left,) = same.left([documents])
        expected = OnePerRow()(left, length, 9)
        assert dropped == same and len(rows) == len(expected.tokens) and rows.n_tokens == len(left.tokens)
        assert_same(take(rows, np.arange(len(rows))), expected)


def test_a_shard_that_was_written_anew_is_read_anew(tmp_path):
    """In one process, as in a notebook: the old file stays mapped, and is not the one that is meant."""
    found = []
    for ids in ([1, 2, 3], [4, 5, 6]):
        shutil.rmtree(tmp_path / "a", ignore_errors=True)
        (tmp_path / "a").mkdir()
        split, _ = written(tmp_path / "a", [[ids]], False)
        found.append(take(ShardRows(split, length=3, filler=0), np.array([0])).tokens[0].tolist())
    assert found == [[1, 2, 3], [4, 5, 6]]


def test_rows_come_in_the_order_asked_for_and_from_several_tables(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    a, _ = written(tmp_path / "a", [[[1, 2, 3], [4]], [[5, 6]]], False)
    b, _ = written(tmp_path / "b", [[[7, 8, 9, 10]]], False)
    rows = JoinedRows([ShardRows(split, length=2, filler=0) for split in (a, b)])
    assert len(rows) == 5
    found = take(rows, np.array([4, 0, 3, 0, 2]))
    assert found.tokens.tolist() == [[9, 10], [1, 2], [7, 8], [1, 2], [5, 6]]
    assert found.segment_ids[1].tolist() == [1, 1] and found.tokens[4].tolist() == [5, 6]


def test_blocks_are_as_large_as_asked_for(tmp_path):
    split, documents = written(tmp_path, [[[i] * (i % 5) for i in range(100)], [[1] * 50, [], [2]]], False)
    blocks = list(split.blocks(10))
    assert np.array_equal(np.concatenate([b.tokens for b in blocks]), documents.tokens)
    lengths = np.concatenate([np.diff(b.offsets) for b in blocks])
    assert np.array_equal(lengths, np.diff(documents.offsets))
    assert all(len(b.tokens) <= 10 or len(b.offsets) == 2 for b in blocks) and len(blocks) > 15


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards") / "whole"
    made(folder, texts(2000), tokens_per_shard=9000)
    return folder


def spoil(folder: Path, kind: str) -> str:
    """Damage a file; returns what must be said of it."""
    path = folder / "train-00001.tokens"
    data = bytearray(path.read_bytes())
    if kind == "truncated":
        path.write_bytes(data[:-2])
        return f"train-00001.tokens; {len(data) - 2:,} bytes, {len(data):,} were written"
    if kind == "changed":
        data[7] ^= 1
        path.write_bytes(data)
        return "train-00001.tokens; its checksum is not the one it was written with"
    if kind == "missing":
        path.unlink()
        return "train-00001.tokens; cannot be read"
    (folder / "train-00001.offsets").write_bytes(b"")
    return "train-00001.offsets; 0 bytes"


@pytest.mark.parametrize("kind", ["truncated", "changed", "missing", "offsets"])
def test_a_damaged_shard_is_named(tmp_path, whole, kind):
    shutil.copytree(whole, tmp_path / "out")
    places = Folder.open(str(tmp_path / "out")).split("train")
    assert damages(places, (0, 1)) == [None] * len(places) and len(places) >= 3
    message = spoil(tmp_path / "out", kind)
    found = damages(places, (0, 1))
    assert found[1] is not None and message in found[1] and [why is None for why in found].count(False) == 1
    # Sizes alone find everything but changed bytes.
    assert (damages(places, None)[1] is None) == (kind == "changed")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (MANIFEST, None, "no prepared data"),
        (MANIFEST, "{", "cannot be read as prepared data"),
        (MANIFEST, '{"format": 99}', "format = 99"),
        (TOKENIZER, "{}", "tokenizer_state.json is not the one"),
        (TOKENIZER, None, "cannot be read as prepared data"),
    ],
)
def test_a_folder_that_is_no_prepared_data(tmp_path, whole, file, content, message):
    shutil.copytree(whole, tmp_path / "out")
    (tmp_path / "out" / file).unlink() if content is None else (tmp_path / "out" / file).write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Folder.open(str(tmp_path / "out"))
