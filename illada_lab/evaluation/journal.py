"""Records of items, one a line, written as they come: a broken-off run goes on where it stopped, and several processes share the items."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from illada_lab.files import write_text
from illada_lab.processes import gathered, n_processes, of_first, rank, wait

Records = list[dict[str, Any]]
# Names of some items, and what makes a record for each of them, plain data.
Batch = tuple[Sequence[str], Callable[[], Records]]


class Journal:
    """Records of batches of items; what an earlier run of the same settings has written whole is taken over.

    Where several processes have a file, each answers every n-th batch that is not there, and gets the records of the others.

    Args:
        file: JSON lines; made where it is not there. None: nothing is written, taken over or shared.

    Attributes:
        n_taken: records of an earlier run.
        n_new: records of this one, of all its processes.
        is_own: whether this process has made all of them.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.n_taken, self.n_new, self.is_own = 0, 0, True
        self._shelf = None if file is None else _Shelf(file)
        self._before = {} if self._shelf is None else self._shelf.found
        self._done: dict[str, dict[str, Any]] = {}
        self._n_shared = 0

    def answered(self, batches: Sequence[Batch]) -> Records:
        """The records of some batches in their order: of each those of the file if all of them are there, otherwise what it answers.

        The file has them in the same order in the end, however often the run was broken off; what nobody asks for stands behind them.

        Raises:
            ValueError: two items of one name.
        """
        names = [key for keys, _ in batches for key in keys]
        if doubled := next((key for key, count in Counter(names).items() if count > 1), None):
            raise ValueError(
                f"items; two are called {doubled}; the answer to one would count for both; each its own name"
            )
        known = {key: self._before[key] for keys, _ in batches if self._has(keys) for key in keys}
        missing = [batch for batch in batches if not self._has(batch[0])]
        n = 1 if self._shelf is None else n_processes()
        # Where there are few batches at a time, it is another's turn each time.
        i = 0 if n == 1 else (rank() - self._n_shared) % n
        self._n_shared += len(missing)
        own: dict[str, dict[str, Any]] = {}
        for keys, answer in missing[i::n]:
            # As they would be read again: tuples are lists.
            lines = [_line({"key": key} | record | {"key": key}) for key, record in zip(keys, answer(), strict=True)]
            if self._shelf is not None:
                self._shelf.append(lines)
            own |= {key: json.loads(line) for key, line in zip(keys, lines, strict=True)}
        for part in [own] if self._shelf is None else gathered(own):
            known |= part
        records = [known[key] for key in names]
        self.n_new += sum(len(keys) for keys, _ in missing)
        self.n_taken += len(records) - sum(len(keys) for keys, _ in missing)
        self.is_own &= n == 1 and not self.n_taken
        self._done |= {record["key"]: record for record in records}
        if self._shelf is not None:
            self._shelf.put(self._done | {key: r for key, r in self._before.items() if key not in self._done})
        return records

    def _has(self, keys: Sequence[str]) -> bool:
        return all(key in self._before for key in keys)


class Notes:
    """Records in whatever order they come, of each key the last; what an earlier run has written is taken over.

    Several processes can share a file; all of them make their notes, `gather` and `write` at the same time.

    Args:
        file: JSON lines; made with the first record.

    Attributes:
        found: records by key; those of other processes after `gather` only.
        n_taken: those of an earlier run that this one has not made again.
        seconds: that this run took for its own.
    """

    def __init__(self, file: Path) -> None:
        self._shelf = _Shelf(file)
        self.file, self.found = file, dict(self._shelf.found)
        self._new: set[str] = set()
        self.seconds = 0.0

    @property
    def n_taken(self) -> int:
        return len(self.found) - len(self._new)

    def add(self, records: Records, seconds: float) -> None:
        """Keep some records, plain data with a key, and the seconds that they took."""
        self._shelf.append([_line(record) for record in records])
        self.found |= {record["key"]: record for record in records}
        self._new |= {record["key"] for record in records}
        self.seconds += seconds

    def gather(self) -> None:
        """Get what the other processes have added; the seconds are then those of the slowest."""
        parts = gathered(({key: self.found[key] for key in self._new}, self.seconds))
        for own, _ in parts:
            self.found |= own
            self._new |= set(own)
        self.seconds = max(seconds for _, seconds in parts)

    def write(self) -> None:
        """The file anew: each record once, with what has been added to it. All processes call this, and have gathered."""
        if self.found:
            self._shelf.put(self.found)


class _Shelf:
    """A file of records; of several processes the first appends to it, the others to files beside it until all are put together.

    Args:
        file: JSON lines; made with the first record.

    Attributes:
        found: records by key of all those files, without lines that were cut short.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.own = file if rank() == 0 else file.with_stem(f"{file.stem}-{rank()}")
        # One reads for all: they divide what is missing, and must agree on it.
        parts = [part for part in [file, *self._parts()] if part.exists()] if rank() == 0 else []
        read = {str(record.get("key")): record for part in parts for record in _whole_lines(part)}
        found: dict[str, dict[str, Any]]
        found, has_files = of_first((read, bool(parts)))
        self.found = found
        if has_files:  # without a line that was cut short, which the next one would be written behind
            self.put(found)

    def append(self, lines: Sequence[str]) -> None:
        with self.own.open("a", encoding="utf-8") as file:
            file.write("".join(lines))

    def put(self, records: dict[str, dict[str, Any]]) -> None:
        """All records into the one file; the others go. Called by all processes, with the same records."""
        wait()
        if rank() == 0:
            write_text(self.file, "".join(map(_line, records.values())))
            for part in self._parts():
                part.unlink()
        wait()

    def _parts(self) -> list[Path]:
        found = self.file.parent.glob(f"{self.file.stem}-*{self.file.suffix}")
        return sorted(part for part in found if part.stem.removeprefix(f"{self.file.stem}-").isdigit())


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
