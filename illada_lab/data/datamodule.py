"""From a source of documents to batches: the LightningDataModule."""

import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader

from illada_lab.data.chat import templated
from illada_lab.data.collate import Collate, CollateDraws
from illada_lab.data.encode import Encoder
from illada_lab.data.held_out import held_out_documents, held_out_rows, padded
from illada_lab.data.order import Draw, StreamOrder
from illada_lab.data.packing import Dropped, OnePerRow, Packing, WholeDocuments
from illada_lab.data.rows import take
from illada_lab.data.shards.source import ShardSource
from illada_lab.data.stream import StreamBatches, StreamedRows
from illada_lab.data.tables import parts_of, row_table
from illada_lab.data.text import TextSource
from illada_lab.data.tokenizer import Tokenizer
from illada_lab.data.workers import leave_signals_to_the_run

# Rows whose tokens tell one table from another, and rows looked at together.
FINGERPRINT_ROWS, ROWS_AT_ONCE = 64, 4096
# Marks of a state that only one kind of data has: streams, shards.
KINDS = ("is_stream", "fingerprint")
# Whole numbers and the least that they can be.
LEAST = {
    "length": 2,
    "batch_size": 1,
    "micro_batch_size": 1,
    "max_extra_eos": 0,
    "n_validation": 1,
    "max_validation_length": 1,
    "n_buffer": 1,
    "n_workers": 0,
    "seed": 0,
}


@runtime_checkable
class Source(Protocol):
    """Where documents come from."""

    def load(self, split: str) -> Any:
        """A `datasets.Dataset` (or `IterableDataset`) with the column `text` or `messages`, and perhaps `kind`, `log_prob` and
        `log_prob_of_length` (nats)."""
        ...


class DataModule(pl.LightningDataModule):
    """Tokenises a source, packs it into rows, and serves batches in an order that survives resuming.

    Args:
        source: documents or conversations.
        tokenizer: (source) -> tokenizer, or a tokenizer; a run that starts from a checkpoint gets the checkpoint's.
        length: tokens per row.
        batch_size: rows per optimiser step, over all devices and accumulated micro-batches.
        micro_batch_size: rows per forward pass and device; None: the device's share of the batch.
        packing: how documents become rows; None: whole documents.
        drops_long: leave out examples longer than a row, of training and of validated rows, and say how many. False: `OnePerRow` refuses
            them, `WholeDocuments` cuts them.
        is_isolated: documents of one row do not see each other. iLLaDA's paper does not say; both are offered.
        adds_bos: put BOS in front of every document (see `Pretrain`, is_bos_maskable).
        adds_eos: put EOS behind every document.
        max_extra_eos: behind each conversation up to so many further EOS, their number uniform from 0: an answer of unknown length
            in a window of known length, which is what a sampler asks for. 0: none, as in the paper, where the next example
            stands there.
        chat_template: how conversations are written: "plain" or a Jinja file, in place of what the tokenizer brings (see
            `chat.templated`); the model keeps it. None: the tokenizer's own; of prepared conversations theirs.
        validates_rows: validate on rows packed as in training instead of on single documents.
        n_validation: validation documents (or rows) used, at most.
        max_validation_length: longer validation documents are validated in parts of at most so many tokens; None: `length`.
        seed: of the order.
        n_buffer: rows a stream is shuffled in; other data is shuffled as a whole.
        n_workers: processes that build batches; 0: the training process. A stream has one at most.

    Raises:
        ValueError: a number out of range, or `drops_long` of a packing that cuts one stream; see also the source, the packing and
            `StreamOrder`.
    """

    def __init__(
        self,
        *,
        source: Source,
        tokenizer: Tokenizer | Callable[[Source], Tokenizer],
        length: int,
        batch_size: int,
        micro_batch_size: int | None = None,
        packing: Packing | None = None,
        drops_long: bool = False,
        is_isolated: bool = True,
        adds_bos: bool = False,
        adds_eos: bool = True,
        max_extra_eos: int = 0,
        chat_template: str | None = None,
        validates_rows: bool = False,
        n_validation: int = 500,
        max_validation_length: int | None = None,
        seed: int = 0,
        n_buffer: int = 10_000,
        n_workers: int = 0,
    ) -> None:
        super().__init__()
        numbers = {name: value for name, value in locals().items() if name in LEAST}
        if problems := self.check_config(**numbers):
            raise ValueError("; ".join(problems))
        self.source, self.tokenizer_or_builder, self.length = source, tokenizer, length
        self.batch_size, self.micro_batch_size = batch_size, micro_batch_size
        self.packing, self.is_isolated = packing or WholeDocuments(), is_isolated
        self.drops_long = drops_long
        if drops_long and self.packing.is_stream:
            raise ValueError(
                f"data.drops_long = true; {type(self.packing).__name__} cuts a stream, in which no example is too long; false, or "
                "data.packing._target_=illada_lab.data.packing.WholeDocuments"
            )
        self.adds_bos, self.adds_eos, self.max_extra_eos = adds_bos, adds_eos, max_extra_eos
        self.chat_template = chat_template
        if chat_template is not None and isinstance(source, ShardSource):
            raise ValueError(
                f"data.chat_template = {chat_template}; prepared conversations are written already; prepare data.chat_template=..."
            )
        self.validates_rows = validates_rows
        self.n_validation, self.max_validation_length = n_validation, max_validation_length or length
        self.seed, self.n_buffer, self.n_workers = seed, n_buffer, n_workers
        self.start_batch = 0
        self.is_streaming = bool(getattr(source, "is_streaming", False))
        if self.is_streaming and n_workers > 1:
            raise ValueError(f"data.n_workers = {n_workers}; a stream has one reader, two would read it twice; 0 or 1")
        self.tokenizer: Tokenizer | None = None
        self.train_rows: Any = None
        self._n_tokens: int | None = None
        self._stream: dict[str, Any] = {}
        self._folder: tempfile.TemporaryDirectory | None = None

    @staticmethod
    def check_config(**values: Any) -> list[str]:
        """Problems of a set of arguments, for `illada_lab.config.check`."""
        return [
            f"{name} = {values[name]}; out of range; {least} or more"
            for name, least in LEAST.items()
            if values.get(name) is not None and values[name] < least
        ]

    def prepare(self, tokenizer: Tokenizer | None = None, *, keeps_template: bool = False) -> None:
        """Read, tokenise and pack everything (of a stream: the beginning); data errors come out here, before a model exists.

        Args:
            tokenizer: use this one (a checkpoint's) instead of building one.
            keeps_template: it has its chat template already: a run goes on, whose file may have changed.
        """
        import datasets

        datasets.disable_progress_bars()
        given = self.tokenizer_or_builder
        self.tokenizer = tokenizer or (given if isinstance(given, Tokenizer) else given(self.source))
        if self.chat_template is not None and not keeps_template:
            self.tokenizer = templated(self.tokenizer, self.chat_template)
        if isinstance(self.source, ShardSource):
            self.tokenizer = self.source.written_with(self.tokenizer)
            self.source.check(
                self.tokenizer, adds_bos=self.adds_bos, adds_eos=self.adds_eos, max_extra_eos=self.max_extra_eos
            )
        self.encoder = Encoder(
            tokenizer=self.tokenizer,
            adds_bos=self.adds_bos,
            adds_eos=self.adds_eos,
            max_extra_eos=self.max_extra_eos,
            seed=self.seed,
        )
        self._warn_of_settings_without_effect()
        if self.is_streaming:
            dropped = Dropped(self.length)
            first = next(iter(self._stream_rows()(dropped)), None)
            if self.drops_long:
                # How many are left out in all is known at its end, which may be days away.
                dropped.say("examples at the beginning of the stream")
            if first is None:
                raise ValueError(
                    "data = 0 rows; nothing is left of the stream to train on; fewer held-out documents (n_held_out)"
                )
            told = self.source.identity() if isinstance(self.source, TextSource) else {}
            self._stream = {**told, "drops_long": self.drops_long, "crc32": zlib.crc32(first.tokens.tobytes())}
            return
        self.train_rows, self._order, self._n_tokens = row_table(
            parts_of(self.source, "train"),
            encoder=self.encoder,
            packing=self.packing,
            length=self.length,
            seed=self.seed,
            folder=self._scratch,
            drops_long=self.drops_long,
        )
        if not len(self.train_rows):
            raise ValueError(
                "data = 0 rows; nothing to train on; a longer text, more documents or a smaller scale.length"
            )

    def _warn_of_settings_without_effect(self) -> None:
        """Say which settings do nothing: conversations begin and end as their template says."""
        is_chat = isinstance(self.source, TextSource) and self.source.fields.column == "messages"
        told = {"adds_bos = true": self.adds_bos, "adds_eos = false": not self.adds_eos}
        if is_chat and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            for setting in (setting for setting, is_idle in told.items() if is_idle):
                print(
                    f"data.{setting}; without effect on conversations, which have what their template says",
                    file=sys.stderr,
                )

    def _scratch(self) -> Path:
        """A folder for what is too large for memory, deleted with this object if not by `close`."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="illada_lab_", ignore_cleanup_errors=True)
        return Path(self._folder.name)

    def close(self) -> None:
        """Delete what was written for training, which is over: the next model of this process would find the disk fuller."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _stream_rows(self) -> StreamedRows:
        """The packed training rows of a stream."""
        return StreamedRows(
            source=self.source,
            encoder=self.encoder,
            packing=self.packing,
            length=self.length,
            drops_long=self.drops_long,
        )

    @property
    def n_tokens(self) -> int | None:
        """Tokens of the training documents; None for a stream."""
        return self._n_tokens

    @property
    def n_rows(self) -> int | None:
        """Rows of an epoch; None for a stream."""
        return None if self.train_rows is None else len(self.train_rows)

    @property
    def is_padded(self) -> bool:
        """Whether rows are padded to the longest of their step, so that each step has a length of its own."""
        return isinstance(self.packing, OnePerRow)

    @property
    def steps_per_epoch(self) -> float | None:
        """Optimiser steps that take as many rows as there are, each once where there are no weights; None for a stream."""
        return None if self.n_rows is None else self.n_rows / self.batch_size

    def train_dataloader(self) -> DataLoader:
        """Endless batches from `start_batch` (micro-batches) on."""
        assert self.tokenizer is not None, "prepare() comes first"
        # LLaDA's fine-tuning: EOS up to the longest of the step, visible and part of the response.
        pad_with = self.tokenizer.tokens.eos if self.is_padded else None
        collate = Collate(pad_with=pad_with, is_isolated=self.is_isolated)
        # Processes that share layers (tensor parallelism) read the same rows: the strategy knows which share is ours.
        strategy = None if self.trainer is None else self.trainer.strategy
        ours = getattr(strategy, "distributed_sampler_kwargs", {"num_replicas": 1, "rank": 0})
        share = self.micro_batch_size or self.batch_size // ours["num_replicas"]
        place: dict[str, int] = {
            "batch_size": share * ours["num_replicas"],
            "seed": self.seed,
            "start_batch": self.start_batch,
            "rank": ours["rank"],
            "world_size": ours["num_replicas"],
        }
        workers: dict[str, Any] = {
            "num_workers": self.n_workers,
            "persistent_workers": self.n_workers > 0,
            "worker_init_fn": leave_signals_to_the_run,
        }
        if self.n_rows is None:
            return DataLoader(
                StreamBatches(
                    blocks=self._stream_rows(),
                    collate=collate,
                    n_buffer=self.n_buffer,
                    n_together=self.batch_size,
                    **place,
                ),
                batch_size=None,
                **workers,
            )
        order = StreamOrder(n_rows=self.n_rows, order=self._order, **place)
        draws = CollateDraws(table=self.train_rows, collate=collate, order=order.order, n_together=self.batch_size)
        return DataLoader(_Numbered(), batch_sampler=order, collate_fn=draws, **workers)

    def validation_documents(self) -> list[dict[str, Any]]:
        """What to validate on: ids, is_prompt and n_bytes of each; kind and log_prob where known, segment_ids where it has several.

        Where the rows of a step are padded, so are they.
        """
        found: list[dict[str, Any]] = []
        dropped = Dropped(self.length) if self.drops_long and self.validates_rows else None
        for part in parts_of(self.source, "validation"):
            n = max(1, round(self.n_validation * part.share))
            if self.validates_rows:
                documents = held_out_rows(
                    part.table,
                    self.encoder,
                    n=n,
                    length=self.length,
                    packing=self.packing,
                    is_isolated=self.is_isolated,
                    dropped=dropped,
                )
            else:
                documents = held_out_documents(part.table, self.encoder, n=n, max_length=self.max_validation_length)
            found += documents if part.name is None else [{**document, "kind": part.name} for document in documents]
        if dropped is not None:
            dropped.say("validation examples")
        if self.is_padded:
            assert self.tokenizer is not None, "prepare() comes first"
            found = padded(found, n_together=self.batch_size, pad_with=self.tokenizer.tokens.eos)
        return found

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: which rows its steps count through, and their order. The position in it is the step."""
        about = {"length": self.length, "packing": type(self.packing).__name__, "seed": self.seed}
        if self.n_rows is None:
            return {"data": {**about, "is_stream": True, "n_buffer": self.n_buffer, **self._stream}}
        about["n_rows"] = self.n_rows
        if isinstance(self.source, ShardSource):
            return {"data": {**about, "fingerprint": self.source.fingerprint()}}
        some = take(self.train_rows, np.unique(np.linspace(0, self.n_rows - 1, FINGERPRINT_ROWS).astype(np.int64)))
        return {"data": {**about, "n_tokens": self.n_tokens, "crc32": zlib.crc32(some.tokens.tobytes())}}

    def row_without_response(self, share: tuple[int, int] = (0, 1)) -> str | None:
        """The beginning of a training row in which all is prompt, None if there is none; of a stream it is not known.

        Args:
            share: (i, n): look at every n-th piece of the rows only, from the i-th on.
        """
        assert self.tokenizer is not None, "prepare() comes first"
        own, n_processes = share
        for piece, first in enumerate(range(0, self.n_rows or 0, ROWS_AT_ONCE)):
            if piece % n_processes != own:
                continue
            rows = take(self.train_rows, np.arange(first, min(first + ROWS_AT_ONCE, self.n_rows or 0)))
            is_empty = ~((rows.segment_ids > 0) & ~rows.is_prompt).any(1)
            if is_empty.any():
                return self.tokenizer.decode(rows.tokens[is_empty][0].tolist())[:60]
        return None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to resume on other data. What an older checkpoint does not say is not compared.

        Raises:
            ValueError: the rows (of shards: the files, their order or their weights) or their order are not those of the checkpoint.
        """
        saved, now = state_dict["data"], self.state_dict()["data"]
        if isinstance(saved, str):  # of shards, formerly
            saved = {"fingerprint": saved}
        told = [
            f"{key} {saved.get(key)}, now {now.get(key)}"
            for key in sorted({*saved, *now})
            if saved.get(key) != now.get(key) and (key in KINDS or (key in saved and key in now))
        ]
        if told:
            raise ValueError(
                f"data; not what the checkpoint was trained on ({', '.join(told)}), so rows would be repeated and left out; the same "
                "files, folders, weights and skipped shards, in the same rows and order, or init_from=... for a new run from its weights"
            )


class _Numbered(torch.utils.data.Dataset):
    """Hands a draw through; rows are looked up for a whole batch at once, in `CollateDraws`."""

    def __getitem__(self, draw: Draw) -> Draw:
        return draw
