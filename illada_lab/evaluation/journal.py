"""Records of items, one a line, written as they come: a broken-off run goes on where it stopped."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from illada_lab.files import write_text

Records = list[dict[str, Any]]


class Journal:
    """Batches of records in a fixed order; what an earlier run of the same settings has written whole is taken over.

    Args:
        file: JSON lines; made where it is not there. None: nothing is written or taken over.

    Attributes:
        n_taken: records of an earlier run.
        n_new: records of this one.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.file, self.n_taken, self.n_new = file, 0, 0
        self._before = [] if file is None or not file.exists() else _whole_lines(file)

    def batch(self, keys: Sequence[str], answer: Callable[[], Records]) -> Records:
        """The records of the next batch: those of the file if all of them are there, otherwise what `answer` gives.

        What an earlier run has written behind a batch that is not whole is cut off, so that the file comes out the same.

        Args:
            keys: names of the items.
            answer: makes a record for each of them, plain data.
        """
        found = self._before[self.n_taken : self.n_taken + len(keys)]
        if not self.n_new and [record.get("key") for record in found] == list(keys):
            self.n_taken += len(keys)
            return found
        if not self.n_new and self.file is not None:
            self.file.write_text("".join(_line(record) for record in self._before[: self.n_taken]), encoding="utf-8")
        lines = [_line({"key": key} | record | {"key": key}) for key, record in zip(keys, answer(), strict=True)]
        if self.file is not None:
            with self.file.open("a", encoding="utf-8") as file:
                file.write("".join(lines))
        self.n_new += len(lines)
        # As they would be read again: tuples are lists.
        return [json.loads(line) for line in lines]


class Notes:
    """Records in whatever order they come, of each key the last; what an earlier run has written is taken over.

    Args:
        file: JSON lines; made with the first record.

    Attributes:
        found: records by key.
        n_taken: those of an earlier run that this one has not made again.
        seconds: that this run took for its own.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.found: dict[str, dict[str, Any]] = {}
        if file.exists():
            self.found = {str(record.get("key")): record for record in _whole_lines(file)}
            self.write()  # without the line that was cut short
        self._new: set[str] = set()
        self.seconds = 0.0

    @property
    def n_taken(self) -> int:
        return len(self.found) - len(self._new)

    def add(self, records: Records, seconds: float) -> None:
        """Keep some records, plain data with a key, and the seconds that they took."""
        with self.file.open("a", encoding="utf-8") as file:
            file.write("".join(map(_line, records)))
        self.found |= {record["key"]: record for record in records}
        self._new |= {record["key"] for record in records}
        self.seconds += seconds

    def write(self) -> None:
        """The file anew: each record once, with what has been added to it."""
        write_text(self.file, "".join(map(_line, self.found.values())))


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _whole_lines(file: Path) -> Records:
    """Records of a file up to the first line that is none: the rest was cut short."""
    found: Records = []
    # Not splitlines: a text may hold other characters that end lines. Behind the last newline is nothing, or what was cut short.
    *lines, _ = file.read_text(encoding="utf-8", errors="replace").split("\n")
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            break
        found.append(record)
    return found
