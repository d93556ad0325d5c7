"""Documents to tokens by several processes, in the order of the documents and in little memory."""

import hashlib
import json
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from typing import Any

from illada_lab.data.encode import Encoder
from illada_lab.data.packing import Documents

# Bytes of text that travel to a process at once: some tenths of a second of work, and a hundred times as much memory meanwhile.
CHUNK_BYTES = 2**20
# Documents read at once.
PER_READ = 64


@dataclass
class Chunk:
    """Some documents in a row.

    Attributes:
        first: number of the first in its split.
        columns: `text` or `messages`.
        is_chat: whether these are conversations.
        n_documents: in it.
        n_bytes: UTF-8 bytes of the texts (of conversations: of their JSON).
        digest: of these bytes and where documents end.
    """

    first: int
    columns: dict[str, list[Any]]
    is_chat: bool
    n_documents: int
    n_bytes: int
    digest: bytes


def chunks(table: Any) -> Iterator[Chunk]:
    """The documents of a table in chunks of `CHUNK_BYTES` or a little more; the same chunks whoever reads them.

    Args:
        table: a `datasets.Dataset` or `IterableDataset` with `text` or `messages`.

    Raises:
        ValueError: names the document that is no text.
    """
    first, waiting, n_bytes, digest = 0, [], 0, hashlib.sha256()
    column = "text"
    for columns in table.iter(batch_size=PER_READ):
        column = "messages" if "messages" in columns else "text"
        for document in columns[column]:
            data = _bytes(document, first + len(waiting))
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)
            waiting.append(document)
            n_bytes += len(data)
            if n_bytes >= CHUNK_BYTES:
                yield Chunk(first, {column: waiting}, column == "messages", len(waiting), n_bytes, digest.digest())
                first, waiting, n_bytes, digest = first + len(waiting), [], 0, hashlib.sha256()
    if waiting:
        yield Chunk(first, {column: waiting}, column == "messages", len(waiting), n_bytes, digest.digest())


def _bytes(document: Any, number: int) -> bytes:
    if isinstance(document, list):
        return json.dumps(document, ensure_ascii=False, sort_keys=True).encode("utf-8", "surrogatepass")
    if not isinstance(document, str):
        raise ValueError(f"document = {number}; holds {type(document).__name__}, not text; a string, or drop it")
    return document.encode("utf-8", "surrogatepass")


Encode = Callable[[Iterator[Chunk]], Iterator[tuple[Chunk, Documents]]]


@contextmanager
def encoding(encoder: Encoder, n_processes: int) -> Iterator[Encode]:
    """A function from chunks to their documents in tokens, in the same order.

    Args:
        encoder: makes the tokens.
        n_processes: processes of one thread each; 1: this process, with the threads that the tokenizer takes by itself.

    Raises:
        RuntimeError: a process died.
    """
    if n_processes == 1:
        yield lambda read: ((chunk, encoder.encode(chunk.columns, chunk.first)) for chunk in read)
        return
    pool = ProcessPoolExecutor(
        n_processes,
        # Fresh interpreters: a fork of a process whose libraries have threads may hang.
        mp_context=get_context("spawn"),
        initializer=_begin,
        initargs=(encoder,),
    )
    try:
        yield lambda read: _in_order(pool, read, 2 * n_processes)
    except BrokenProcessPool as error:
        raise RuntimeError(
            "n_processes; a process that tokenises was killed, perhaps for want of memory; what is finished is kept: "
            "the same command goes on, with fewer n_processes if need be"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(pool: ProcessPoolExecutor, read: Iterator[Chunk], n_waiting: int) -> Iterator[tuple[Chunk, Documents]]:
    waiting: deque[tuple[Chunk, Future[Documents]]] = deque()
    for chunk in read:
        waiting.append((chunk, pool.submit(_encode, chunk.columns, chunk.first)))
        # The text lives in the task alone, and goes with it.
        chunk.columns = {}
        if len(waiting) >= n_waiting:
            chunk, task = waiting.popleft()
            yield chunk, task.result()
    while waiting:
        chunk, task = waiting.popleft()
        yield chunk, task.result()


# In a process that tokenises.
_encoder: Encoder | None = None


def _begin(encoder: Encoder) -> None:
    global _encoder
    _encoder = encoder
    # One thread each: the processes are the parallelism.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # Ctrl-C reaches every process of a terminal; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None, "runs in a child process"
    # A parent that was killed cannot say so: without this its processes would wait for work for ever.
    threading.Thread(target=lambda: (connection.wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def _encode(columns: dict[str, list[Any]], first: int) -> Documents:
    assert _encoder is not None, "_begin comes first"
    return _encoder.encode(columns, first)
