"""Files behind URLs are read as local ones are: the same documents, and errors that name the place."""

import bz2
import gzip
import io
import json
import lzma
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import ClassVar

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from illada_lab.data import find
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


class Web:
    """What `fsspec` says of a file on the web, sent on to another signed address each time."""

    def __init__(self, **told):
        self.told, self.n_asked = told, 0

    def isfile(self, path):
        return True

    def info(self, path):
        self.n_asked += 1
        return {"name": path, "url": f"{path}?signature={self.n_asked}", "type": "file", **self.told}

    def checksum(self, path):
        return hash(str(self.info(path)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"ETag": "a"}, {"ETag": "b"}),
        ({"Last-Modified": "Mon", "size": 5}, {"Last-Modified": "Tue", "size": 5}),
        ({"size": 5}, {"size": 6}),
    ],
)
def test_a_file_on_the_web_has_the_stamp_of_its_version(monkeypatch, one, other):
    stamps = []
    for told in (one, other):
        web = Web(**told)
        monkeypatch.setattr(find, "_system", lambda url, web=web: (web, url))
        stamps.append(stamp(["https://a.org/b.txt"]))
        assert stamps[-1] == stamp(["https://a.org/b.txt"])
        assert find_files("https://a.org/b.txt", None) == (["https://a.org/b.txt"], "text")  # also without a size
    assert stamps[0] != stamps[1]
    monkeypatch.setattr(find, "_system", lambda url: (Web(size=0), url))
    with pytest.raises(ValueError, match="b.txt; the file is empty"):
        find_files("https://a.org/b.txt", None)


class NoLengths(BaseHTTPRequestHandler):
    """Sends what it is asked for and does not say how long that is."""

    content: ClassVar[dict[str, bytes]] = {}

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.content[self.path[1:]])

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.parquet", "a.jsonl.gz", "a.json.gz"])
def test_addresses_that_do_not_tell_a_length(name, monkeypatch):
    table = io.BytesIO()
    pq.write_table(pa.table({"text": TEXTS}), table)
    listed = json.dumps([{"text": text} for text in TEXTS]).encode()
    files = {**CONTENT, "a.json": listed, "a.parquet": table.getvalue()}
    files |= {f"{short}.gz": gzip.compress(files[short]) for short in ("a.jsonl", "a.json")}
    monkeypatch.setattr(NoLengths, "content", files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), NoLengths)
    Thread(target=server.serve_forever, daemon=True).start()
    source = TextSource(path=f"http://127.0.0.1:{server.server_port}/{name}", n_held_out=2)
    try:
        found = [row["text"].strip() for split in ("train", "validation") for row in source.load(split)]
        assert sorted(found) == sorted(TEXTS)
    finally:
        server.shutdown()


def test_what_may_be_of_any_size_lies_on_the_disk(monkeypatch, tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(CONTENT["a.txt"])
    monkeypatch.setattr("illada_lab.data.text.stamp", lambda files: [(str(name), None, 0) for name in files])
    asked, make = [], datasets.Dataset.from_generator
    monkeypatch.setattr(datasets.Dataset, "from_generator", lambda *a, **k: asked.append(1) or make(*a, **k))
    assert len(TextSource(path=str(file)).load("train")) == 38 and asked


try:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
except ImportError:  # nothing else needs it
    zstd = None


def zst(content: bytes) -> bytes:
    assert zstd is not None
    return zstd.compress(content)


def test_zstandard_without_the_package_that_reads_it_is_told(tmp_path, monkeypatch):
    """Also where the one that `fsspec` would take instead is there: with it a truncated file is a whole one."""
    (tmp_path / "a.jsonl.zst").write_bytes(b"x")
    for name in ("backports", "backports.zstd", "compression", "compression.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(fsspec.compression.compr, "zstd", lambda file, mode: file)
    with pytest.raises(ImportError, match="a.jsonl.zst; backports.zstd is not installed; pip install backports.zstd"):
        TextSource(path=str(tmp_path / "a.jsonl.zst")).load("train")


@pytest.mark.parametrize(
    "pack",
    [
        pytest.param(gzip.compress, id="gz"),
        pytest.param(bz2.compress, id="bz2"),
        pytest.param(lzma.compress, id="xz"),
        pytest.param(zst, id="zst", marks=pytest.mark.skipif(zstd is None, reason="backports.zstd is not installed")),
    ],
)
@pytest.mark.parametrize("is_url", [False, True])
def test_compressed_files_are_read_and_truncated_ones_named(tmp_path, pack, is_url):
    ending = {gzip.compress: "gz", bz2.compress: "bz2", lzma.compress: "xz", zst: "zst"}[pack]
    file = tmp_path / f"a.jsonl.{ending}"
    file.write_bytes(pack(CONTENT["a.jsonl"]))
    path = f"file://{file}" if is_url else str(file)
    source = TextSource(path=path, streaming=True, n_held_out=5)
    assert [row["text"] for split in ("validation", "train") for row in source.load(split)] == TEXTS
    file.write_bytes(pack(CONTENT["a.jsonl"])[:-20])
    with pytest.raises(ValueError, match=f"a.jsonl.{ending}; damaged or truncated"):
        list(TextSource(path=path, streaming=True, n_held_out=5).load("train"))
    file.write_bytes(b"no such thing " * 9)
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
