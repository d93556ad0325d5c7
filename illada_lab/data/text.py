"""Text and conversations from files or the hub: plain text, JSONL, Parquet, all as `datasets`, in memory, on disk or streamed."""

from collections.abc import Callable, Iterator
from copy import copy
from functools import partial
from hashlib import sha256
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from illada_lab.data.columns import as_documents, first_row, without_empty
from illada_lab.data.fields import Fields
from illada_lab.data.files import PIECE, pieces_of, read_json, read_parquet, read_text, reason_of
from illada_lab.data.find import PACKED, find_files, is_url, open_bytes, stamp
from illada_lab.data.hub import HubChoice

if TYPE_CHECKING:
    import datasets

Split = Literal["train", "validation", "test"]
# Files up to this size are held in memory, larger ones as an Arrow table on disk (in the cache folder of `datasets`).
BYTES_IN_MEMORY = 2**27
# How much larger than its file a compressed text may well be. Our choice: prose is three to five times, records that repeat far more.
MOST_PACKED = 100
# A tokenizer learns from so many characters at the beginning of the training split: more changes few merges and takes minutes.
TOKENIZER_CHARACTERS = 200_000_000
# Separators that may cut what is one document, in the words of a command line; blank lines of Windows come before its lines.
CUTS = (
    ("\r\n\r\n", "separator='\\r\\n\\r\\n', the blank lines of Windows"),
    (None, "separator=null, which cuts a running text into pieces"),
    ("\n", "separator='\\n' for a document a line"),
)


class TextSource:
    """Documents or conversations from a file, a folder, a glob or a Hugging Face data set.

    What is held out stays together: the end of the data, or, of a stream, whose end is far, its beginning.

    Args:
        path: file, folder, glob ("data/*.jsonl"), a URL of one of them (s3://, gs://, https://, ...) or a hub id (owner/name).
        format: text, json or parquet; None: from the files' endings.
        text_field: column of the text (JSONL, Parquet, hub).
        messages_field: column of conversations instead of text: a list of {role, content}, or in ShareGPT's form of {from, value},
            spoken by human or user, gpt or assistant, and system.
        prompt_field, response_field: columns of the two turns of a conversation, instead of text.
        input_field: column of what the prompt is about (Alpaca's `input`): a further paragraph of it where it is neither empty nor null.
        separator: what stands between two documents of a plain text file; it stays at the end of the first, so that no byte is lost.
            None: the file is one running text, handed on in pieces of about 16,000 characters that end at a line.
        validation_path: file, folder, glob or URL of what to validate on, of the same fields; all of `path` is trained on then.
            None: some of `path` is held out.
        validation_share: share of the documents held out, 0 to 1; not of streams.
        streaming: read while training, for data that would not fit on the disk.
        n_held_out: documents held out from the beginning of a stream.
        hub_split: split of a hub data set to train on.
        hub_validation_split: split of a hub data set to validate on; None: hold out some of `hub_split`.
        hub_name: configuration of a hub data set.
        hub_revision: commit, branch or tag of a hub data set.

    Raises:
        ValueError: a share or number that cannot be, or settings that contradict each other.

    Source: our choice.
    """

    def __init__(
        self,
        *,
        path: str,
        format: Literal["text", "json", "parquet"] | None = None,
        text_field: str = "text",
        messages_field: str | None = None,
        prompt_field: str | None = None,
        response_field: str | None = None,
        input_field: str | None = None,
        separator: str | None = "\n\n",
        validation_path: str | None = None,
        validation_share: float = 0.05,
        streaming: bool = False,
        n_held_out: int = 1000,
        hub_split: str = "train",
        hub_validation_split: str | None = None,
        hub_name: str | None = None,
        hub_revision: str | None = None,
    ) -> None:
        if not 0 < validation_share < 1:
            raise ValueError(
                f"data.source.validation_share = {validation_share}; a share of the documents; above 0, below 1"
            )
        if n_held_out < 1:
            raise ValueError(f"data.source.n_held_out = {n_held_out}; some documents must be held out; 1 or more")
        if separator == "":
            raise ValueError("data.source.separator = ''; nothing separates nothing; a text such as '\\n\\n', or null")
        if validation_path is not None and hub_validation_split is not None:
            raise ValueError(
                f"data.source.validation_path = {validation_path}; the split {hub_validation_split} is validated on "
                "(hub_validation_split); null for one of them"
            )
        self.path, self.format = str(path), format
        self.fields = Fields(
            text=text_field, messages=messages_field, prompt=prompt_field, response=response_field, input=input_field
        )
        # A shell's command line cannot easily hold a line break: \\n is one, \\r\\n that of Windows.
        self.separator = None if separator is None else separator.replace("\\r", "\r").replace("\\n", "\n")
        self.validation_share = validation_share
        self.is_streaming, self.n_held_out = streaming, n_held_out
        self.hub = HubChoice(
            split=hub_split, validation_split=hub_validation_split, name=hub_name, revision=hub_revision
        )
        self._loaded: dict[str, Any] = {}
        self._commit: str | None = None
        self._validation: TextSource | None = None
        if validation_path is not None:
            self._validation = copy(self)
            self._validation.path, self._validation._loaded = str(validation_path), {}
            # Files of one's own beside a data set of the hub have none of its splits.
            self._validation.hub = HubChoice()

    def load(self, split: Split) -> "datasets.Dataset | datasets.IterableDataset":
        """One split with the column `text` or `messages`. The test split is the validation split.

        Raises:
            FileNotFoundError: nothing is there, and no such data set can be reached.
            ValueError: an empty or unreadable file, an unknown field or format, a line that is no JSON object (with its number).
        """
        is_train = split == "train"
        if self._validation is not None:
            self._check_apart(self._validation.path)
            return self._whole() if is_train else _told_as("validation_path", self._validation._whole)
        if self.hub.validation_split is not None and find_files(self.path, self.format) is None:
            return self._table(self.hub.split if is_train else self.hub.validation_split)
        whole = self._table(self.hub.split)
        if self.is_streaming:
            return whole.skip(self.n_held_out) if is_train else whole.take(self.n_held_out)
        if len(whole) < 2:
            raise ValueError(
                f"data.path = {self.path}; {len(whole)} document, but some must be held out; "
                f"two or more{self._cut_advice(whole)}"
            )
        cut = min(max(1, len(whole) - round(len(whole) * self.validation_share)), len(whole) - 1)
        return whole.select(range(cut)) if is_train else whole.select(range(cut, len(whole)))

    def _whole(self) -> Any:
        """Everything at the path, where nothing of it is held out."""
        table = self._table(self.hub.split)
        first_row(table, self.path)
        return table

    def _check_apart(self, validation_path: str) -> None:
        """Refuse to validate on what is trained on."""
        found = _told_as("validation_path", partial(find_files, validation_path, self.format))
        if found is None:
            raise FileNotFoundError(
                f"data.source.validation_path = {validation_path}; no such file; a file, folder or glob; of the hub: "
                "data.source.hub_validation_split"
            )
        trained_on = find_files(self.path, self.format)
        both = (
            {} if trained_on is None else {_real(name) for name in trained_on[0]} & {_real(name) for name in found[0]}
        )
        if both:
            raise ValueError(
                f"data.source.validation_path = {validation_path}; {min(both)} is in data.path too and would be trained on; "
                "files that data.path leaves out"
            )

    def _cut_advice(self, whole: Any) -> str:
        """What makes several documents of a file of text that is one; nothing where there is no such thing."""
        found = find_files(self.path, self.format)
        if found is None or found[1] in ("json", "parquet"):
            return ""
        text = whole[0]["text"] if len(whole) else ""
        advice = [f", or data.source.{way}" for cut, way in CUTS if len([p for p in pieces_of(text, cut) if p]) > 1]
        if self.separator is None:
            advice.insert(0, f": a text of more than {PIECE:,} characters")
        return "".join(advice)

    def identity(self) -> dict[str, Any]:
        """What tells a stream from another, plain data: a digest of its files' names and sizes, wherever they lie.

        Of a hub data set: what is asked for, and its commit where the hub told it.
        """
        found = find_files(self.path, self.format)
        n_held_out = self.n_held_out if self._validation is None else 0
        if found is not None:
            files = [(PurePath(name).name, size) for name, size, _ in stamp(found[0])]
            return {"n_held_out": n_held_out, "files": sha256(repr(files).encode()).hexdigest()}
        told = {"path": self.path, "hub_name": self.hub.name, "hub_split": self.hub.split}
        return {"n_held_out": n_held_out, **told, **({"commit": self._commit} if self._commit else {})}

    def tokenizer_texts(self) -> Iterator[str]:
        """Training texts to train a tokenizer on, from the beginning of the training split."""
        n = 0
        for row in iter(self.load("train")):
            assert isinstance(row, dict)
            texts = [row["text"]] if self.fields.column == "text" else [turn["content"] for turn in row["messages"]]
            yield from texts
            n += sum(map(len, texts))
            if n >= TOKENIZER_CHARACTERS:
                return

    def _table(self, hub_split: str) -> Any:
        """Everything at the path, as a table with the one column wanted."""
        if hub_split not in self._loaded:
            found = find_files(self.path, self.format)
            if found is not None:
                self.hub.refuse_of_files(self.path)
            if found is None:
                table, self._commit = self.hub.load(self.path, hub_split, is_streaming=self.is_streaming)
                table = self._documents(table)
            elif found[1] == "parquet" and not self.is_streaming and not is_url(self.path):
                # Local tables are mapped or converted as they are, without a reader of our own.
                table = self._documents(self._from_parquet(found[0]))
            elif found[1] in ("json", "parquet"):
                read = read_json if found[1] == "json" else read_parquet
                table = self._generated(read, found[0], fields=self.fields)
            elif self.fields.column == "messages":
                key, field = next(iter(self.fields.named.items()))
                raise ValueError(
                    f"data.source.{key} = {field}; plain text has no fields; null, or data.source.format=json"
                )
            else:
                table = self._generated(read_text, found[0], separator=self.separator)
            self._loaded[hub_split] = table if self.fields.column == "messages" else without_empty(table, self.path)
        return self._loaded[hub_split]

    def _documents(self, table: Any) -> Any:
        return as_documents(table, self.fields, self.path, is_streaming=self.is_streaming)

    def _generated(self, read: Callable[..., Iterator[dict[str, Any]]], files: list[str], **arguments: Any) -> Any:
        """A table of what a reader yields."""
        import datasets
        from datasets.exceptions import DatasetGenerationError

        # The stamp makes a changed file another table in the cache.
        arguments["files"] = stamp(files)
        if self.is_streaming:
            if read is read_json:
                arguments["needs_all"] = True
            first_row(read(**arguments), self.path)  # errors of the beginning come out before training
            return datasets.IterableDataset.from_generator(read, gen_kwargs=arguments)
        growth = {True: MOST_PACKED, False: 1}
        # A size that a server does not tell may be any.
        sizes = [
            BYTES_IN_MEMORY + 1 if size is None else size * growth[PurePosixPath(name).suffix in PACKED]
            for name, size, _ in arguments["files"]
        ]
        if sum(sizes) <= BYTES_IN_MEMORY:
            values = [row[self.fields.column] for row in read(**arguments)]
            return datasets.Dataset.from_dict({self.fields.column: values})
        try:
            return datasets.Dataset.from_generator(read, gen_kwargs=arguments)
        except DatasetGenerationError as error:
            raise (
                error.__cause__
                if isinstance(error.__cause__, ValueError)
                else ValueError(_cannot(self.path, "text", error))
            ) from None

    def _from_parquet(self, files: list[str]) -> Any:
        import datasets
        import pyarrow.parquet as pq

        for file in files:
            try:
                with open_bytes(file) as opened:
                    names = pq.read_schema(opened).names
            except Exception as error:  # Arrow's classes are many
                raise ValueError(_cannot(file, "Parquet", error)) from error
            self.fields.check(names, file)
        try:
            # No other columns: in them, files may differ.
            columns = list(self.fields.named.values())
            return datasets.load_dataset("parquet", data_files=files, split="train", columns=columns)
        except Exception as error:  # datasets wraps reader errors in its own classes
            raise ValueError(_cannot(self.path, "Parquet", error)) from error


def _real(name: str) -> str:
    return name if is_url(name) else str(Path(name).resolve())


def _told_as(key: str, read: Callable[[], Any]) -> Any:
    """What is read from another path than data.path, with errors that name its setting."""
    try:
        return read()
    except (FileNotFoundError, ValueError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(str(error).replace("data.path = ", f"data.source.{key} = ")) from error


def _cannot(path: object, kind: str, error: BaseException) -> str:
    return f"data.path = {path}; cannot be read as {kind} ({reason_of(error)}); check the file"
