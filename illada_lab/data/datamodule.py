"""From a source of documents to batches: the LightningDataModule."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader

from illada_lab.data.batch import Batch
from illada_lab.data.chat import ChatTemplate
from illada_lab.data.order import Draw, StreamOrder
from illada_lab.data.packing import Documents, OnePerRow, Packing, Rows, WholeDocuments
from illada_lab.data.tokenizer import Tokenizer


@runtime_checkable
class Source(Protocol):
    """Where documents come from."""

    def load(self, split: str) -> Any:
        """A `datasets.Dataset` with the column `text` or `messages`, and perhaps `kind` and `log_prob`."""
        ...


class DataModule(pl.LightningDataModule):
    """Tokenises a source, packs it into rows, and serves batches in an order that survives resuming.

    Args:
        source: documents or conversations.
        tokenizer: (source) -> tokenizer, or a tokenizer; a run that starts from a checkpoint gets the checkpoint's.
        length: tokens per row.
        batch_size: rows per optimiser step, over all devices and accumulated micro-batches.
        micro_batch_size: rows per forward pass and device; None: the whole batch.
        packing: how documents become rows; None: whole documents.
        is_isolated: documents of one row do not see each other. iLLaDA's paper does not say; both are offered.
        adds_bos: put BOS in front of every document (see `Pretrain`, is_bos_maskable).
        adds_eos: put EOS behind every document.
        max_extra_eos: behind each conversation up to so many further EOS, their number uniform from 0: an answer of unknown length
            in a window of known length, which is what a sampler asks for. 0: none, as in the paper, where the next example
            stands there.
        n_validation: validation documents used, at most.
        max_validation_length: validation documents are cut to so many tokens; None: `length`.
        seed: of the order.
        n_workers: processes that build batches; 0: the training process.

    Raises:
        ValueError: see the source, the packing and `StreamOrder`.
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
        is_isolated: bool = True,
        adds_bos: bool = False,
        adds_eos: bool = True,
        max_extra_eos: int = 0,
        n_validation: int = 500,
        max_validation_length: int | None = None,
        seed: int = 0,
        n_workers: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1 or length < 2:
            raise ValueError(f"batch_size = {batch_size}, length = {length}; a batch needs rows of tokens; 1 and 2 or more")
        self.source, self.tokenizer_or_builder, self.length = source, tokenizer, length
        self.batch_size, self.micro_batch_size = batch_size, micro_batch_size or batch_size
        self.packing, self.is_isolated = packing or WholeDocuments(), is_isolated
        self.adds_bos, self.adds_eos, self.max_extra_eos = adds_bos, adds_eos, max_extra_eos
        self.n_validation, self.max_validation_length = n_validation, max_validation_length or length
        self.seed, self.n_workers = seed, n_workers
        self.start_batch = 0
        self.tokenizer: Tokenizer | None = None
        self.rows: Rows | None = None

    def prepare(self, tokenizer: Tokenizer | None = None) -> None:
        """Read, tokenise and pack everything; all data errors come out here, before a model exists.

        Args:
            tokenizer: use this one (a checkpoint's) instead of building one.
        """
        import datasets

        datasets.disable_progress_bars()
        given = self.tokenizer_or_builder
        self.tokenizer = tokenizer or (given if isinstance(given, Tokenizer) else given(self.source))
        self.train_documents = self._encode(self.source.load("train"))
        self.rows = self.packing(self.train_documents, self.length, self.tokenizer.tokens.filler)

    @property
    def n_tokens(self) -> int:
        """Tokens of the training documents."""
        assert self.rows is not None, "prepare() comes first"
        return self.rows.n_tokens

    @property
    def n_rows(self) -> int:
        """Rows of an epoch."""
        assert self.rows is not None, "prepare() comes first"
        return len(self.rows.tokens)

    @property
    def steps_per_epoch(self) -> float:
        """Optimiser steps in which every row is seen once."""
        return self.n_rows / self.batch_size

    def train_dataloader(self) -> DataLoader:
        """Endless batches from `start_batch` (micro-batches) on."""
        assert self.rows is not None, "prepare() comes first"
        trainer = self.trainer
        world_size = trainer.world_size if trainer is not None else 1
        order = StreamOrder(
            n_rows=self.n_rows,
            batch_size=self.micro_batch_size * world_size,
            seed=self.seed,
            start_batch=self.start_batch,
            rank=trainer.global_rank if trainer is not None else 0,
            world_size=world_size,
        )
        return DataLoader(
            _Numbered(), batch_sampler=order, collate_fn=self.collate, num_workers=self.n_workers, persistent_workers=self.n_workers > 0
        )

    def collate(self, draws: list[Draw]) -> Batch:
        """Rows of the drawn numbers as a batch."""
        assert self.rows is not None and self.tokenizer is not None, "prepare() comes first"
        positions, chosen = (np.array(column) for column in zip(*draws, strict=True))
        tokens = torch.from_numpy(self.rows.tokens[chosen]).long()
        segment_ids = torch.from_numpy(self.rows.segment_ids[chosen]).long()
        is_prompt = torch.from_numpy(self.rows.is_prompt[chosen])
        if isinstance(self.packing, OnePerRow):
            # EOS up to the longest of the batch, visible and part of the response (LLaDA).
            longest = int((segment_ids > 0).sum(1).max())
            tokens, is_prompt = tokens[:, :longest], is_prompt[:, :longest]
            tokens = torch.where(segment_ids[:, :longest] > 0, tokens, self.tokenizer.tokens.eos)
            segment_ids = torch.ones_like(tokens)
        elif not self.is_isolated:
            segment_ids = (segment_ids > 0).long()
        return Batch(tokens=tokens, segment_ids=segment_ids, is_prompt=is_prompt, index=torch.from_numpy(positions))

    def validation_documents(self) -> list[dict[str, Any]]:
        """Held-out documents, each for itself: ids, kind, log_prob and n_bytes where known, is_prompt."""
        assert self.tokenizer is not None, "prepare() comes first"
        table = self.source.load("validation")
        table = table.select(range(min(self.n_validation, len(table))))
        encoded = self._encode(table)
        found = []
        for i, (start, end) in enumerate(zip(encoded.offsets[:-1], encoded.offsets[1:], strict=True)):
            ids = encoded.tokens[start:end][: self.max_validation_length].tolist()
            row = table[i]
            is_whole = len(ids) == end - start
            found.append(
                {
                    "ids": ids,
                    "is_prompt": encoded.is_prompt[start:end][: self.max_validation_length].tolist(),
                    "kind": row.get("kind"),
                    "log_prob": row.get("log_prob") if is_whole else None,
                    "n_bytes": self.tokenizer.n_bytes(ids),
                }
            )
        return found

    def _encode(self, table: Any) -> Documents:
        """Token ids of a table of texts or conversations."""
        assert self.tokenizer is not None, "prepare() comes first"
        tokenizer, tokens = self.tokenizer, self.tokenizer.tokens
        if self.adds_bos and tokens.bos is None:
            raise ValueError("data.adds_bos = True; this tokenizer has no BOS; data.adds_bos=false")
        if "messages" in table.column_names:
            rendered = [ChatTemplate(tokenizer).render(messages) for messages in table["messages"]]
            extra = np.random.Generator(np.random.PCG64([self.seed, 5])).integers(self.max_extra_eos + 1, size=len(rendered))
            return Documents.from_lists(
                [ids + [tokens.eos] * n for (ids, _), n in zip(rendered, extra.tolist(), strict=True)],
                [flags + [False] * n for (_, flags), n in zip(rendered, extra.tolist(), strict=True)],
            )
        head = [tokens.bos] if self.adds_bos else []
        tail = [tokens.eos] if self.adds_eos else []
        lists = []
        for start in range(0, len(table), 4096):
            lists += [[*head, *ids, *tail] for ids in tokenizer.encode_batch(table[start : start + 4096]["text"])]
        return Documents.from_lists(lists)


class _Numbered(torch.utils.data.Dataset):
    """Hands a draw through; rows are looked up for a whole batch at once, in `collate`."""

    def __getitem__(self, draw: Draw) -> Draw:
        return draw
