"""Files that are there whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any


def write_text(path: str | Path, text: str) -> Path:
    """Write text aside and rename it into place, so that a kill or a full disk leaves the old file or the new one.

    A link stays one: what it points to is written. What is no file (a pipe, a terminal) is written into.

    Args:
        path: of the file; its folder is made.
        text: of the file.

    Returns:
        The path.

    Raises:
        OSError: it cannot be written; names the path.
    """
    path = Path(path)
    target = Path(os.path.realpath(path))
    # The process in the name: two jobs with one folder must not write into each other's file.
    aside = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        if _is_special(target):
            target.write_text(text, encoding="utf-8")
            return path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            aside.write_text(text, encoding="utf-8")
            os.replace(aside, target)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        # The name that the user knows, which a full disk does not tell at all.
        raise type(error)(error.errno, error.strerror or str(error), str(path)) from error
    return path


def write_json(path: str | Path, content: Any) -> Path:
    """Write plain data as JSON; see `write_text`. ValueError for numbers that JSON does not have."""
    return write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def check_writable(setting: str, path: str | Path, *, is_folder: bool = False) -> None:
    """See, before anything is computed for it, that a file can be written or a folder made; nothing is.

    Args:
        setting: that names it, for the message.
        path: of the file or folder.
        is_folder: which of them.

    Raises:
        ValueError: it is the other of them, something in its way is no folder, or writing is not allowed.
    """
    path = Path(path)
    if path.exists() and path.is_dir() != is_folder:
        raise ValueError(f"{setting} = {path}; is a {'file' if is_folder else 'folder'}; another name")
    target = Path(os.path.realpath(path))
    # A file is written aside, so its folder must allow that too.
    places = [target] if target.exists() else []
    if not (is_folder and places) and not _is_special(target):
        places.append(next(place for place in target.parents if place.exists()))
        if not places[-1].is_dir():
            raise ValueError(f"{setting} = {path}; {places[-1]} is a file, not a folder; another place")
    for place in places:
        if not os.access(place, os.W_OK):
            raise ValueError(f"{setting} = {path}; {place} may not be written; another place")


def _is_special(path: Path) -> bool:
    """Whether there is something that is neither file nor folder."""
    return path.exists() and not path.is_file() and not path.is_dir()
