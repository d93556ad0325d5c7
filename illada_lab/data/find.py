"""The files a path means: on this machine, or behind a URL that `fsspec` can open (s3://, gs://, https://, memory://, ...)."""

import difflib
import lzma
import shutil
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from importlib import import_module
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import IO, Any

FORMATS = {".txt": "text", ".md": "text", ".jsonl": "json", ".ndjson": "json", ".json": "json", ".parquet": "parquet"}
# Endings of compressed files, behind those of the format: corpus.jsonl.gz. Zstandard needs a package of its own (see `_zstd`).
PACKED = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd"}
# Name, size in bytes (None where a server does not tell it), and a mark of the version (time of change, or what a remote store says): the
# same stamp, the same contents.
Stamp = tuple[str, int | None, int]
# What a web server says of a version, the surest first.
MARKS = ("ETag", "Content-MD5", "Last-Modified")


def find_files(path: str, kind: str | None) -> tuple[list[str], str] | None:
    """The files a path means and their format.

    Args:
        path: a file, a folder (searched to the bottom) or a glob, local or as a URL.
        kind: text, json or parquet; None: from the files' endings.

    Returns:
        Sorted names and their format, or None where the path can only be a hub id.

    Raises:
        FileNotFoundError: nothing is there, or the store cannot be reached.
        ImportError: no package here knows the protocol of the URL.
        ValueError: an empty file, an unknown ending, or files of several formats.
    """
    files = _remote(path, kind) if is_url(path) else _local(path, kind)
    if files is None:
        return None
    kinds = {kind} if kind else {FORMATS.get(_ending(file)) for file in files}
    if None in kinds:
        odd = next(file for file in files if _ending(file) not in FORMATS)
        raise ValueError(
            f"data.path = {odd}; unknown ending {_ending(odd)!r}; {', '.join(FORMATS)}, or data.source.format=text"
        )
    if len(kinds) > 1:
        named = " and ".join(sorted(str(k) for k in kinds))
        raise ValueError(
            f"data.path = {path}; holds files of several formats ({named}); data.source.format={sorted(map(str, kinds))[0]}"
        )
    for name, size, _ in stamp(files):
        if size == 0:
            raise ValueError(f"data.path = {name}; the file is empty; a file with text")
    return files, str(kinds.pop())


def stamp(files: Iterable[str | Path]) -> list[Stamp]:
    """Name, size and version of each file.

    Raises:
        ValueError: a file may not be read.
    """
    return [_stamp_remote(str(file)) if is_url(str(file)) else _stamp_local(Path(file)) for file in files]


@contextmanager
def open_bytes(name: str) -> Iterator[IO[bytes]]:
    """A file or URL to read from, decompressed where its last ending says so.

    Raises:
        ValueError: what is compressed is truncated or damaged; names the file.
    """
    if not is_url(name) and Path(name).suffix not in PACKED:
        with open(name, "rb") as file:
            yield file
        return
    import fsspec
    from fsspec.compression import compr

    packed = PACKED.get(PurePosixPath(name).suffix)
    damages: tuple[type[Exception], ...] = (EOFError, zlib.error, lzma.LZMAError, OSError)
    if packed == "zstd":
        damages = (*damages, _zstd(name).ZstdError)
    try:
        with ExitStack() as opened:
            file: Any = opened.enter_context(fsspec.open(name, "rb"))  # type: ignore[arg-type]
            if getattr(file, "size", 0) is None:
                # An address that does not tell its length cannot go back to the beginning.
                copy = opened.enter_context(TemporaryFile())
                shutil.copyfileobj(file, copy)
                copy.seek(0)
                file = copy
            yield opened.enter_context(compr[packed](file, mode="rb")) if packed else file  # type: ignore[index]
    except damages as error:
        if packed is None:
            raise
        raise ValueError(f"data.path = {name}; damaged or truncated ({_reason(error)}); the whole file") from error


def _zstd(name: str) -> Any:
    """The standard library's module, or its backport: `fsspec` reads with them where they are.

    What it would take instead (zstandard) cannot go back to the beginning, and takes a truncated file for a whole one.
    """
    try:
        return import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    except ImportError as error:
        raise ImportError(f"data.path = {name}; backports.zstd is not installed; pip install backports.zstd") from error


def is_url(path: str) -> bool:
    """Whether a path names its protocol."""
    return "://" in path


def _stamp_local(file: Path) -> Stamp:
    try:
        file.open("rb").close()
        return str(file), file.stat().st_size, file.stat().st_mtime_ns
    except OSError as error:
        raise ValueError(f"data.path = {file}; cannot be read ({error.strerror}); a file you may read") from error


def _stamp_remote(url: str) -> Stamp:
    system, path = _system(url)
    info = system.info(path)
    return (
        url,
        info.get("size"),
        _web_mark(info) if url.startswith(("http://", "https://")) else int(system.checksum(path)),
    )


def _web_mark(info: dict[str, Any]) -> int:
    """A mark of the version of a file on the web. The address a store sends us on to does not count: it may be signed anew each time."""
    told = next((info[mark] for mark in MARKS if info.get(mark)), None) or {**info, "url": None}
    return int.from_bytes(sha256(repr(told).encode()).digest()[:8], "big")


def _local(path: str, kind: str | None) -> list[str] | None:
    local = Path(path).expanduser()
    is_glob = any(sign in path for sign in "*?[") and not local.exists()
    if local.is_file():
        return [str(local)]
    if is_glob:
        found = Path(local.anchor or ".").glob(str(local.relative_to(local.anchor) if local.anchor else local))
    elif local.is_dir():
        found = (file for file in local.rglob("*") if not any(p.startswith(".") for p in file.relative_to(local).parts))
    elif _is_hub_id(path):
        return None
    else:
        raise FileNotFoundError(f"data.path = {path}; no such file; {_near(local)}")
    return _wanted([str(file) for file in sorted(found) if file.is_file()], path, kind, is_glob)


def _remote(path: str, kind: str | None) -> list[str]:
    system, inner = _system(path)
    is_glob = any(sign in path for sign in "*?[")
    try:
        if is_glob:
            found = system.glob(inner)
        elif system.isfile(inner):
            return [path]
        else:
            found = system.find(inner)
    except Exception as error:  # every store has classes of its own
        raise FileNotFoundError(
            f"data.path = {path}; cannot be reached ({_reason(error)}); a path that exists, and the right to read it"
        ) from error
    return _wanted(sorted(str(system.unstrip_protocol(name)) for name in found), path, kind, is_glob)


def _wanted(files: Sequence[str], path: str, kind: str | None, is_glob: bool) -> list[str]:
    """Of what was found, the data: a folder may hold other things (a README among Parquet files); what a glob names is meant."""
    if not is_glob or kind:
        known = [file for file in files if _ending(file) in FORMATS and kind in (None, FORMATS[_ending(file)])]
        files = known if known or not is_glob else files
    if not files:
        why = "no file matches" if is_glob else f"no {kind or 'data'} file in this folder"
        raise FileNotFoundError(f"data.path = {path}; {why}; files ending in {', '.join(FORMATS)}")
    return list(files)


def _system(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path in it."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ImportError(f"data.path = {url}; {_reason(error)}; the package that reads this protocol") from error
    except ValueError as error:
        raise ValueError(
            f"data.path = {url}; {_reason(error)}; s3://, gs://, https://, hf://, file:// or a path"
        ) from error


def _ending(name: str) -> str:
    """What the ending says of the format; that of a compression does not count."""
    path = PurePosixPath(name.replace("\\", "/"))
    return PurePosixPath(path.stem).suffix if path.suffix in PACKED else path.suffix


def _is_hub_id(path: str) -> bool:
    """Whether a path that is no file has the form owner/name."""
    return path.count("/") == 1 and not path.startswith((".", "/", "~")) and _ending(path) not in FORMATS


def _near(local: Path) -> str:
    """Files beside a misspelt one."""
    beside = [p.name for p in local.parent.iterdir()] if local.parent.is_dir() else []
    near = difflib.get_close_matches(local.name, beside)
    return (
        ", ".join(str(local.parent / name) for name in near) if near else "a file, folder, glob or hub id (owner/name)"
    )


def _reason(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
