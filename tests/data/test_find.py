"""Files behind URLs are read as local ones are: the same documents, and errors that name the place."""

import bz2
import gzip
import json
import lzma

import datasets
import fsspec
import pytest

from illada_lab.data.find import find_files, stamp
from illada_lab.data.text import TextSource

TEXTS = [f"document {i} says naïve things ." for i in range(40)]
CONTENT = {
    "a.txt": "\n\n".join(TEXTS).encode(),
    "a.jsonl": "\n".join(json.dumps({"text": text}) for text in TEXTS).encode(),
}


@pytest.fixture
def store(tmp_path):
    """An empty store in memory, under a name of its own."""
    system = fsspec.filesystem("memory")
    root = f"/{tmp_path.name}"
    yield lambda name, content: system.pipe_file(f"{root}/{name}", content), f"memory:/{root}"
    system.rm(root, recursive=True)


def parquet(tmp_path) -> bytes:
    file = tmp_path / "a.parquet"
    datasets.Dataset.from_dict({"text": TEXTS}).to_parquet(str(file))
    return file.read_bytes()


@pytest.mark.parametrize("is_streaming", [False, True])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_every_format_is_read_through_a_url(store, tmp_path, name, is_streaming):
    put, root = store
    put(f"corpus/{name}", CONTENT.get(name) or parquet(tmp_path))
    put("corpus/README.rst", b"no data")
    for path in (f"{root}/corpus", f"{root}/corpus/{name}", f"{root}/*/a.*"):
        source = TextSource(path=path, streaming=is_streaming, n_held_out=5)
        splits = ("validation", "train") if is_streaming else ("train", "validation")
        found = [row["text"].rstrip() for split in splits for row in source.load(split)]
        assert found == TEXTS


def test_a_local_file_url_is_the_file(tmp_path):
    (tmp_path / "a.txt").write_bytes(CONTENT["a.txt"])
    source = TextSource(path=f"file://{tmp_path}/a.txt")
    assert len(source.load("train")) + len(source.load("validation")) == len(TEXTS)


def test_several_files_come_in_order_and_a_changed_one_has_another_stamp(store):
    put, root = store
    put("c/b.txt", b"3\n\n4")
    put("c/a.txt", b"1\n\n2")
    found = find_files(f"{root}/c", None)
    assert found is not None and [name.rpartition("/")[2] for name in found[0]] == ["a.txt", "b.txt"]
    before = stamp(found[0])
    put("c/b.txt", b"3\n\n5 and more")
    after = stamp(found[0])
    assert before[0] == after[0] and before[1] != after[1]


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("memory://nothing/here", FileNotFoundError, "no data file in this folder"),
        ("memory://nothing/*.txt", FileNotFoundError, "no file matches"),
        ("gopher://a/b.txt", ValueError, "data.path = gopher://a/b.txt; .*s3://"),
    ],
)
def test_urls_with_nothing_behind_them(path, error, message):
    with pytest.raises(error, match=message):
        find_files(path, None)


def test_an_empty_object_is_named(store):
    put, root = store
    put("e.txt", b"")
    with pytest.raises(ValueError, match="e.txt; the file is empty"):
        find_files(f"{root}/e.txt", None)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=["gz", "bz2", "xz"])
@pytest.mark.parametrize("is_url", [False, True])
def test_compressed_files_are_read_and_truncated_ones_named(tmp_path, pack, is_url):
    ending = {gzip.compress: "gz", bz2.compress: "bz2", lzma.compress: "xz"}[pack]
    file = tmp_path / f"a.jsonl.{ending}"
    file.write_bytes(pack(CONTENT["a.jsonl"]))
    path = f"file://{file}" if is_url else str(file)
    source = TextSource(path=path, streaming=True, n_held_out=5)
    assert [row["text"] for split in ("validation", "train") for row in source.load(split)] == TEXTS
    file.write_bytes(pack(CONTENT["a.jsonl"])[:-20])
    with pytest.raises(ValueError, match=f"a.jsonl.{ending}; damaged or truncated"):
        list(TextSource(path=path, streaming=True, n_held_out=5).load("train"))


def test_a_truncated_or_changed_table_is_named(store, tmp_path):
    put, root = store
    data = parquet(tmp_path)
    for spoilt in (data[:-9], data[: len(data) // 2], data[:40] + bytes(60) + data[100:]):
        put("t.parquet", spoilt)
        with pytest.raises(ValueError, match="t.parquet; cannot be read as Parquet"):
            list(TextSource(path=f"{root}/t.parquet", streaming=True, n_held_out=1).load("train"))
    put("t.parquet", data)
    with pytest.raises(ValueError, match="text_field = texd; not a field of .*t.parquet; text"):
        TextSource(path=f"{root}/t.parquet", streaming=True, text_field="texd").load("train")
