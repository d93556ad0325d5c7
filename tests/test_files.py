"""Files are written whole or not at all, and what cannot be written is said before anything is computed."""

import errno
import os

import pytest

from illada_lab.cli import _say
from illada_lab.files import check_writable, write_text


def test_nothing_is_half_written(tmp_path, monkeypatch):
    path = write_text(tmp_path / "deep" / "page", "first")
    monkeypatch.setattr(
        "os.replace", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    )
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_text(path, "second")
    assert caught.value.filename == str(path) and _say(caught.value).startswith(f"{path}; no space left on device; ")
    assert path.read_text() == "first" and [p.name for p in path.parent.iterdir()] == ["page"]


def test_a_link_stays_one_and_a_pipe_is_written_into(tmp_path):
    (tmp_path / "far").mkdir()
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(tmp_path / "far" / "file")
    for text in ("first", "second"):
        assert write_text(link, text) == link and link.is_symlink() and (tmp_path / "far" / "file").read_text() == text
    os.mkfifo(pipe)
    check_writable("trace", pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_text(pipe, "read")
    assert os.read(reader, 9) == b"read" and pipe.is_fifo()
    os.close(reader)


def test_the_name_in_an_error_is_the_one_that_was_given(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as caught:
        write_text(tmp_path / "file" / "page", "text")
    assert caught.value.filename == str(tmp_path / "file" / "page")


@pytest.mark.parametrize(
    ("path", "is_folder", "message"),
    [
        ("folder", False, "out = {}/folder; is a folder; another name"),
        ("file", True, "out = {}/file; is a file; another name"),
        ("file/deep/page", False, "out = {0}/file/deep/page; {0}/file is a file, not a folder; another place"),
        ("new/deep/page", False, None),
        ("new/deep", True, None),
        ("file", False, None),
        ("folder", True, None),
    ],
)
def test_what_can_be_written(tmp_path, path, is_folder, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    if message is None:
        check_writable("out", tmp_path / path, is_folder=is_folder)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
    else:
        with pytest.raises(ValueError) as caught:
            check_writable("out", tmp_path / path, is_folder=is_folder)
        assert str(caught.value) == message.format(tmp_path)


def test_a_place_that_may_not_be_written_is_refused(tmp_path, monkeypatch):
    """The folder of a file that is there too: what is new is written beside it."""
    # Whoever runs the tests may be allowed everything.
    monkeypatch.setattr("os.access", lambda place, mode: str(place) != str(tmp_path))
    (tmp_path / "there").write_text("")
    for name in ("t.jsonl", "there"):
        with pytest.raises(
            ValueError, match=f"^trace = {tmp_path}/{name}; {tmp_path} may not be written; another place$"
        ):
            check_writable("trace", tmp_path / name)


def test_relative_paths_are_looked_at_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    check_writable("out", "new/page")
    with pytest.raises(ValueError, match="is a file, not a folder"):
        check_writable("out", "file/page")
