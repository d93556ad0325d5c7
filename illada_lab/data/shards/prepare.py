"""Preparing data: documents of a source to shards of tokens, with nothing lost, doubled, or half done."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from illada_lab.data.encode import Encoder
from illada_lab.data.shards.chunks import CHUNK_BYTES, Chunk, Encode, chunks, encoding
from illada_lab.data.shards.layout import SPLITS, Manifest, Shard, token_dtype
from illada_lab.data.shards.progress import Progress, claimed
from illada_lab.data.shards.write import ShardWriter
from illada_lab.data.tokenizer import Tokenizer

# 256 MB of uint16: few enough files for a corpus of trillions, soon enough finished to lose little to an interruption.
TOKENS_PER_SHARD = 2**27
Say = Callable[[str], None]


@runtime_checkable
class DocumentSource(Protocol):
    """Where documents come from (see `illada_lab.data.datamodule.Source`)."""

    def load(self, split: str) -> Any: ...


@dataclass(frozen=True)
class Prepared:
    """What `prepare` did.

    Attributes:
        manifest: of the folder.
        seconds: that this call took for tokens, reading and writing included, training a tokenizer not.
        n_tokens, n_text_bytes: made by this call; less than the manifest's where it went on with a broken-off one.
        tokenizer_seconds: to build the tokenizer.
    """

    manifest: Manifest
    seconds: float
    n_tokens: int
    n_text_bytes: int
    tokenizer_seconds: float

    @property
    def speed(self) -> dict[str, float | int]:
        """Tokens and megabytes of text per second."""
        seconds = max(self.seconds, 1e-9)
        return {
            "tokens_per_second": round(self.n_tokens / seconds),
            "mb_per_second": round(self.n_text_bytes / 1e6 / seconds, 2),
        }


def prepare(
    *,
    source: DocumentSource,
    tokenizer: Tokenizer | Callable[[Any], Tokenizer],
    folder: Path,
    settings: dict[str, Any],
    adds_bos: bool = False,
    adds_eos: bool = True,
    max_extra_eos: int = 0,
    seed: int = 0,
    n_processes: int = 1,
    tokens_per_shard: int = TOKENS_PER_SHARD,
    about: dict[str, Any] | None = None,
    say: Say = lambda line: None,
) -> Prepared:
    """Tokenise both splits of a source into a folder of shards.

    The files depend on neither the number of processes nor on interruptions. A call that was broken off is gone on with by the same
    call: its finished shards are kept, after the source's text has been read over and compared with them.

    Args:
        source: documents or conversations.
        tokenizer: the tokenizer, or (source) -> tokenizer.
        folder: a new folder, or what a broken-off call left.
        settings: what names the source and the tokenizer, plain data: a call goes on only with what has the same.
        adds_bos, adds_eos, max_extra_eos, seed: see `Encoder`.
        n_processes: that tokenise; the calling one reads and writes.
        tokens_per_shard: a shard ends after the chunk with which it has so many.
        about: goes into the manifest.
        say: takes a line for every shard.

    Raises:
        ValueError: settings that cannot be, a folder that holds something else, a source that has changed since or is empty.
        RuntimeError: a process was killed.
        OSError: the disk is full, or broken. What is finished is kept in all three cases.
    """
    for key, value in (("n_processes", n_processes), ("tokens_per_shard", tokens_per_shard)):
        if value < 1:
            raise ValueError(f"{key} = {value}; counts from 1; 1 or more")
    form = {"adds_bos": adds_bos, "adds_eos": adds_eos, "max_extra_eos": max_extra_eos}
    kept = {**settings, **form, "tokens_per_shard": tokens_per_shard, "chunk_bytes": CHUNK_BYTES}
    if max_extra_eos:
        kept["seed"] = seed  # of their numbers
    with claimed(folder):
        progress = Progress(folder, kept)
        begin = time.perf_counter()
        made = _tokenizer(progress, tokenizer, source)
        encoder = Encoder(tokenizer=made, **form, seed=seed)
        tokenizer_seconds = time.perf_counter() - begin
        if progress.is_continued:
            say(f"{folder}: going on behind {sum(map(len, progress.done.values()))} finished shards")
        n_before = _counted(progress)
        begin = time.perf_counter()
        dtype = token_dtype(made.vocab_size)
        with encoding(encoder, n_processes) as encode:
            for split in SPLITS:
                for shard in _shards(progress, split, source, encode, dtype, tokens_per_shard):
                    progress.add(split, shard)
                    say(f"{shard.name}: {shard.n_documents:,} documents, {shard.n_tokens:,} tokens")
        seconds = time.perf_counter() - begin
        n_tokens, n_bytes = (after - before for after, before in zip(_counted(progress), n_before, strict=True))
        manifest = progress.finish(dtype=dtype, about=about or {})
    return Prepared(manifest, seconds, n_tokens, n_bytes, tokenizer_seconds)


def _tokenizer(progress: Progress, given: Tokenizer | Callable[[Any], Tokenizer], source: DocumentSource) -> Tokenizer:
    """The tokenizer that the folder was begun with, or the given one, which is then kept there."""
    found = progress.tokenizer()
    if found is None:
        found = given if isinstance(given, Tokenizer) else given(source)
        progress.keep(found)
    elif isinstance(given, Tokenizer) and given.to_dict() != found.to_dict():
        raise ValueError(f"tokenizer; {progress.folder} was begun with another one; the same, or another out=...")
    return found


def _shards(
    progress: Progress, split: str, source: DocumentSource, encode: Encode, dtype: str, tokens_per_shard: int
) -> Iterator[Shard]:
    """The shards of a split that are still missing, each finished on the disk."""
    read = chunks(source.load(split))
    for shard in progress.done[split]:
        _read_over(shard, read)
    n_done = len(progress.done[split])
    writer: ShardWriter | None = None
    try:
        for chunk, documents in encode(read):
            if len(documents.offsets) - 1 != chunk.n_documents:
                raise RuntimeError(f"{len(documents.offsets) - 1} of {chunk.n_documents} documents came back as tokens")
            if writer is None:
                name = f"{split}-{n_done:05}"
                writer = ShardWriter(progress.folder, name, dtype=dtype, has_prompt=chunk.is_chat)
            writer.append(documents, n_text_bytes=chunk.n_bytes, digest=chunk.digest)
            if writer.n_tokens >= tokens_per_shard:
                finished, writer, n_done = writer.close(), None, n_done + 1
                yield finished
        if writer is not None:
            finished, writer, n_done = writer.close(), None, n_done + 1
            yield finished
    finally:
        if writer is not None:
            writer.abandon()
    if n_done == 0:
        raise ValueError(
            f"data = 0 documents to {'train' if split == 'train' else 'validate'} on; a source with more, "
            "or fewer held out (data.source.n_held_out)"
        )


def _read_over(shard: Shard, read: Iterator[Chunk]) -> None:
    """Pass the text of a finished shard, and make sure that it is the same text."""
    text, n_documents = sha256(), 0
    while n_documents < shard.n_documents and (chunk := next(read, None)) is not None:
        text.update(chunk.digest)
        n_documents += chunk.n_documents
    if n_documents != shard.n_documents or text.hexdigest() != shard.text_digest:
        raise ValueError(
            f"data; the text of {shard.name} has changed since it was prepared; the same data, or another out=..."
        )


def _counted(progress: Progress) -> tuple[int, int]:
    shards = [shard for found in progress.done.values() for shard in found]
    return sum(shard.n_tokens for shard in shards), sum(shard.n_text_bytes for shard in shards)
