"""Text from files or the hub: plain text, JSONL, Parquet, all through `datasets`."""

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import datasets

FORMATS = {".txt": "text", ".md": "text", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}
Split = Literal["train", "validation", "test"]


class TextSource:
    """Documents from a file, a folder, a glob or a Hugging Face data set.

    Args:
        path: file, folder, glob ("data/*.jsonl") or hub id.
        text_field: column of the text (JSONL, Parquet, hub).
        messages_field: column of conversations (list of {role, content}) instead of text.
        format: text, json or parquet; None: from the file's ending.
        separator: what stands between two documents of a plain text file; it is kept at the end of the first, so that no byte is lost.
        validation_share: share of the documents held out, taken from the end of the file (what stands together stays together).
        hub_split: split of a hub data set to use.
        hub_name: configuration of a hub data set.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: an empty file, an unknown field or format, a line that is no JSON object (with its number).
    """

    def __init__(
        self,
        *,
        path: str,
        text_field: str = "text",
        messages_field: str | None = None,
        format: Literal["text", "json", "parquet"] | None = None,
        separator: str = "\n\n",
        validation_share: float = 0.05,
        hub_split: str = "train",
        hub_name: str | None = None,
    ) -> None:
        if not 0 < validation_share < 1:
            raise ValueError(f"validation_share = {validation_share}; a share of the documents; above 0, below 1")
        self.path, self.text_field, self.messages_field, self.format = str(path), text_field, messages_field, format
        self.separator, self.validation_share = separator, validation_share
        self.hub_split, self.hub_name = hub_split, hub_name
        self._all: datasets.Dataset | None = None

    def load(self, split: Split) -> "datasets.Dataset":
        """One split with the column `text` or `messages`. The test split is the validation split."""
        whole = self._load()
        n_held_out = max(1, round(len(whole) * self.validation_share))
        if len(whole) < 2:
            raise ValueError(f"data.path = {self.path}; {len(whole)} document, but some must be held out; two or more")
        cut = len(whole) - n_held_out
        return whole.select(range(cut)) if split == "train" else whole.select(range(cut, len(whole)))

    def tokenizer_texts(self) -> Iterator[str]:
        """Training texts, to train a tokenizer on."""
        column = self.messages_field or self.text_field
        if self.messages_field:
            return (turn["content"] for row in self.load("train") for turn in row["messages"])
        return (row[column if column in row else "text"] for row in self.load("train"))

    def _load(self) -> "datasets.Dataset":
        if self._all is None:
            files = self._files()
            self._all = self._from_files(files) if files else self._from_hub()
        return self._all

    def _files(self) -> list[Path]:
        path = Path(self.path)
        if path.is_file():
            files = [path]
        elif path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.suffix in FORMATS)
            if not files:
                raise FileNotFoundError(f"data.path = {self.path}; no file of a known kind in it; {', '.join(FORMATS)}")
        elif any(sign in self.path for sign in "*?["):
            files = sorted(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor) if path.anchor else path)))
            if not files:
                raise FileNotFoundError(f"data.path = {self.path}; no file matches; a file, folder, glob or hub id")
        else:
            return []
        if empty := [file for file in files if file.stat().st_size == 0]:
            raise ValueError(f"data.path = {empty[0]}; the file is empty; a file with text")
        return files

    def _from_files(self, files: list[Path]) -> "datasets.Dataset":
        import datasets

        kind = self.format or FORMATS.get(files[0].suffix)
        if kind is None:
            raise ValueError(f"data.path = {files[0]}; unknown ending; {', '.join(FORMATS)}, or data.format=text")
        if kind == "text":
            try:
                texts = [piece for file in files for piece in _split_keeping(file.read_text("utf-8"), self.separator)]
            except UnicodeDecodeError as error:
                raise ValueError(f"data.path = {files[0]}; not UTF-8 text (byte {error.start}); save it as UTF-8") from error
            return datasets.Dataset.from_dict({"text": texts})
        if kind == "json":
            for file in files:
                _check_jsonl(file)
        names = [str(file) for file in files]
        try:
            loaded = datasets.load_dataset(kind, data_files=names, split="train")
        except Exception as error:  # datasets wraps reader errors in its own classes
            reason = str(error.__cause__ or error).splitlines()[0][:120]
            raise ValueError(f"data.path = {self.path}; cannot be read as {kind} ({reason}); check the file") from error
        return self._select(loaded)

    def _from_hub(self) -> "datasets.Dataset":
        import datasets

        if "/" not in self.path or self.path.startswith((".", "/")) or Path(self.path).suffix in FORMATS:
            near = difflib.get_close_matches(
                Path(self.path).name, [p.name for p in Path(self.path).parent.glob("*")] if Path(self.path).parent.is_dir() else []
            )
            raise FileNotFoundError(
                f"data.path = {self.path}; no such file; " + (", ".join(near) if near else "a file, folder, glob or hub id")
            )
        try:
            loaded = datasets.load_dataset(self.path, self.hub_name, split=self.hub_split)
        except Exception as error:
            raise FileNotFoundError(
                f"data.path = {self.path}; neither a local file nor reachable on the hub ({type(error).__name__}); "
                "a local path, or a network"
            ) from error
        return self._select(loaded)

    def _select(self, loaded: "datasets.Dataset") -> "datasets.Dataset":
        column, wanted = self.messages_field or self.text_field, "messages" if self.messages_field else "text"
        if column not in loaded.column_names:
            near = difflib.get_close_matches(column, loaded.column_names) or loaded.column_names
            key = "messages_field" if self.messages_field else "text_field"
            raise ValueError(f"data.{key} = {column}; not a field of {self.path}; {', '.join(near)}")
        loaded = loaded.select_columns([column])
        loaded = loaded if column == wanted else loaded.rename_column(column, wanted)
        first = loaded[0][wanted] if len(loaded) else None
        if wanted == "text" and not isinstance(first, str):
            raise ValueError(f"data.text_field = {column}; holds {type(first).__name__}, not text; a field of strings")
        if wanted == "messages" and not isinstance(first, list):
            raise ValueError(f"data.messages_field = {column}; holds {type(first).__name__}; a list of role and content")
        return loaded


def _split_keeping(text: str, separator: str) -> list[str]:
    """Pieces between separators, each with the separator behind it; joined they are the text."""
    if not separator:
        return [text]
    pieces = text.split(separator)
    pieces = [piece + separator for piece in pieces[:-1]] + ([pieces[-1]] if pieces[-1] else [])
    return [piece for piece in pieces if piece]


def _check_jsonl(file: Path) -> None:
    """Name the first line that is not a JSON object; readers give a byte position at best."""
    with open(file, encoding="utf-8") as lines:
        first = lines.readline()
        if file.suffix == ".json" and first.lstrip().startswith("["):
            return
        lines.seek(0)
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"data.path = {file}, line {number}; not JSON ({error.msg}); one object per line") from error
            if not isinstance(value, dict):
                raise ValueError(f"data.path = {file}, line {number}; a JSON {type(value).__name__}, not an object; one object per line")
