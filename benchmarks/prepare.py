"""Preparation of a corpus through the command line: time, speed, and memory of all its processes together.

    python -m benchmarks.prepare [--mb 1000] [--processes 2] [--cap-mb 2000]

The corpus is made here, from a seed: JSONL documents of a few hundred words drawn from a Zipf distribution over 50,000 invented words.
`illada-lab prepare` runs on it as a user would run it, tokenizer training included, and is watched from outside: the resident memory of
each process every 50 ms. Then everything is counted again: text in, and tokens out, which must decode to the text. Writes
`benchmarks/results/prepare_cpu.json`; exits with 1 where memory went over the cap or a count is wrong.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.common import parser, started, write
from illada_lab.data.shards.read import Folder, Split

N_WORDS, ZIPF, VOCABULARY = 50_000, 1.1, 8192
# Documents written at once.
BLOCK = 2000


def words(random: np.random.Generator) -> np.ndarray:
    """Invented words of one to five syllables, short ones first, as frequent words are."""
    syllables = np.array([a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er", "is")])
    n = 1 + np.minimum(np.arange(N_WORDS) // 100, 4)
    n = np.where(np.arange(N_WORDS) >= 400, 2 + random.integers(4, size=N_WORDS), n)
    return np.array(["".join(random.choice(syllables, size=k)) for k in n], dtype=object)


def write_corpus(path: Path, n_bytes: int) -> tuple[int, int]:
    """A JSONL file of at least so many bytes of text; returns its documents and bytes of text."""
    random = np.random.Generator(np.random.PCG64(0))
    known = words(random)
    weights = np.arange(1, N_WORDS + 1, dtype=np.float64) ** -ZIPF
    cumulative = np.cumsum(weights / weights.sum())
    n_documents = n_written = 0
    with path.open("w", encoding="utf-8") as file:
        while n_written < n_bytes:
            lengths = np.clip(random.lognormal(5.3, 0.9, size=BLOCK).astype(int), 5, 5000)
            drawn = known[np.minimum(np.searchsorted(cumulative, random.random(lengths.sum())), N_WORDS - 1)]
            for part in np.split(drawn, np.cumsum(lengths)[:-1]):
                text = sentences(part.tolist())
                file.write(json.dumps({"text": text}) + "\n")
                n_documents, n_written = n_documents + 1, n_written + len(text)
                if n_written >= n_bytes:
                    break
    return n_documents, n_written


def sentences(drawn: list[str]) -> str:
    """Words as sentences of eleven words, every fourth sentence ending a line."""
    parts = [" ".join(drawn[i : i + 11]).capitalize() for i in range(0, len(drawn), 11)]
    return ". ".join(part if i % 4 else "\n" + part for i, part in enumerate(parts)).strip() + "."


class Watch:
    """Memory of a process and all its children, sampled from outside."""

    def __init__(self, pid: int) -> None:
        self.process = psutil.Process(pid)
        self.peak_sum = 0  # of the sums at each moment: shared pages count once per process, so this is an upper bound
        self.peak_proportional = 0  # shared pages divided among the processes that share them
        self.peak_of: dict[int, int] = {}

    def look(self) -> None:
        """One sample."""
        try:
            family = [self.process, *self.process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        resident = proportional = 0
        for process in family:
            try:
                memory = process.memory_full_info()
            except (psutil.NoSuchProcess, psutil.AccessDenied):  # ended meanwhile
                continue
            resident += memory.rss
            proportional += getattr(memory, "pss", memory.rss)
            self.peak_of[process.pid] = max(self.peak_of.get(process.pid, 0), memory.rss)
        self.peak_sum = max(self.peak_sum, resident)
        self.peak_proportional = max(self.peak_proportional, proportional)

    def result(self) -> dict[str, Any]:
        """Megabytes."""
        peaks = sorted(self.peak_of.values(), reverse=True)
        return {
            "peak_mb": round(self.peak_sum / 1e6),
            "peak_proportional_mb": round(self.peak_proportional / 1e6),
            "peak_of_each_process_mb": [round(peak / 1e6) for peak in peaks],
        }


def run(command: list[str]) -> tuple[float, Watch, str]:
    """Run a command under watch; seconds, memory, and what it printed."""
    begin = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, text=True)
        watch = Watch(process.pid)
        while process.poll() is None:
            watch.look()
            time.sleep(0.05)
        output.seek(0)
        printed = output.read()
    if process.returncode:
        raise SystemExit(f"prepare ended with status {process.returncode}")
    return time.perf_counter() - begin, watch, printed


def recount(corpus: Path, out: Path) -> dict[str, Any]:
    """Everything once more: documents and bytes in the shards, decoded, against the corpus, document by document."""
    folder = Folder.open(str(out))
    splits = [Split(folder.split(name)) for name in ("validation", "train")]  # a stream holds its beginning out
    n_documents = n_tokens = 0
    with corpus.open(encoding="utf-8") as lines:
        for documents in (block for split in splits for block in split.blocks(2**18)):
            pieces = [documents.tokens[a:b] for a, b in zip(documents.offsets[:-1], documents.offsets[1:], strict=True)]
            texts = folder.tokenizer.backend.decode_batch([piece[:-1].tolist() for piece in pieces])
            ends = [int(piece[-1]) for piece in pieces]
            if any(end != folder.tokenizer.tokens.eos for end in ends):
                raise SystemExit("a document does not end in EOS")
            for text in texts:
                if json.loads(next(lines))["text"] != text:
                    raise SystemExit(f"document {n_documents} is not the document of the corpus")
                n_documents += 1
            n_tokens += len(documents.tokens)
        if next(lines, None) is not None:
            raise SystemExit("the corpus has more documents than the shards")
    return {"n_documents": n_documents, "n_tokens": n_tokens}


def main() -> None:
    """Make, prepare, recount, write."""
    made = parser(str(__doc__), rounds=1)
    made.add_argument("--mb", type=float, default=1000.0, help="megabytes of text")
    made.add_argument("--processes", type=int, default=2)
    made.add_argument("--cap-mb", type=int, default=2000, help="for all processes together")
    arguments = started(made)
    with tempfile.TemporaryDirectory(prefix="illada_lab_") as name:
        corpus, out = Path(name) / "corpus.jsonl", Path(name) / "prepared"
        n_documents, n_bytes = write_corpus(corpus, int(arguments.mb * 1e6))
        overrides = [
            "data=jsonl",
            f"data.path={corpus}",
            "data.source.streaming=true",
            f"tokenizer.vocab_size={VOCABULARY}",
        ]
        program = [sys.executable, "-m", "illada_lab.cli", "prepare"]
        seconds, watch, printed = run([*program, *overrides, f"out={out}", f"n_processes={arguments.processes}"])
        counts = recount(corpus, out)
        about = json.loads((out / "manifest.json").read_text())
    total = sum(split["n_text_bytes"] for split in about["counts"].values())
    is_whole = (counts["n_documents"], total) == (n_documents, n_bytes)
    memory = watch.result()
    result = {
        "corpus": {"mb": n_bytes / 1e6, "n_documents": n_documents, "vocabulary": VOCABULARY},
        "n_processes": arguments.processes,
        "seconds": round(seconds, 1),
        "printed": [line for line in printed.splitlines() if line.startswith("speed")],
        **counts,
        "is_whole": is_whole,
        "cap_mb": arguments.cap_mb,
        **memory,
    }
    write(arguments, "prepare", result)
    print(json.dumps(result, indent=1))
    if not is_whole or memory["peak_mb"] > arguments.cap_mb:
        raise SystemExit("over the cap" if is_whole else "documents or bytes are missing")


if __name__ == "__main__":
    main()
