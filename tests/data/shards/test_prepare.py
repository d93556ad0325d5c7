"""Preparing: what goes in comes out, whatever the number of processes and of interruptions; nothing half done looks whole."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
import pytest
from filelock import FileLock
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from illada_lab.data.build_tokenizer import word_tokenizer
from illada_lab.data.shards.layout import LOCK, MANIFEST, PROGRESS, TOKENIZER, token_dtype
from illada_lab.data.shards.read import Folder, Split
from illada_lab.data.shards.write import ShardWriter
from illada_lab.data.tokenizer import Tokenizer
from illada_lab.tokens import SpecialTokens
from tests.data.shards.made import BYTE, made, texts

CHAT = [[{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"answer {i}"}] for i in range(30)]


def contents(folder) -> dict[str, bytes]:
    """All files that hold data."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.suffix in (".tokens", ".offsets", ".prompt")}


def documents(folder, split="train") -> list[list[int]]:
    """Ids of all documents, read back from the files as they lie there."""
    manifest = json.loads((folder / MANIFEST).read_text())
    found = []
    for shard in manifest["splits"][split]:
        tokens = np.fromfile(folder / f"{shard['name']}.tokens", manifest["dtype"])
        offsets = np.fromfile(folder / f"{shard['name']}.offsets", "<i8")
        found += [tokens[a:b].tolist() for a, b in pairwise(offsets)]
    return found


@pytest.mark.parametrize("adds_eos", [False, True])
@pytest.mark.parametrize("adds_bos", [False, True])
def test_every_document_comes_out_as_it_went_in(tmp_path, adds_bos, adds_eos):
    given = [*texts(80), "", "naïve ☕\n\n", "x" * 1000, ""]
    done = made(tmp_path / "out", given, ["held", "out"], adds_bos=adds_bos, adds_eos=adds_eos)
    head, tail = [BYTE.tokens.bos] * adds_bos, [BYTE.tokens.eos] * adds_eos
    assert documents(tmp_path / "out") == [[*head, *BYTE.encode(text), *tail] for text in given]
    assert documents(tmp_path / "out", "validation") == [[*head, *BYTE.encode(t), *tail] for t in ("held", "out")]
    counts = json.loads((tmp_path / "out" / MANIFEST).read_text())["counts"]["train"]
    n_tokens = sum(len(text.encode()) + adds_bos + adds_eos for text in given)
    assert counts == {"n_documents": 84, "n_tokens": n_tokens, "n_text_bytes": sum(len(t.encode()) for t in given)}
    assert len(done.manifest.splits["train"]) > 3
    assert done.n_tokens == n_tokens + 7 + 2 * (adds_bos + adds_eos) and done.speed["tokens_per_second"] > 0


def test_checksums_are_those_of_the_files(tmp_path):
    done = made(tmp_path / "out", texts(50))
    for shard in done.manifest.splits["train"]:
        for ending, record in shard.files.items():
            data = (tmp_path / "out" / f"{shard.name}.{ending}").read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (record.n_bytes, record.sha256)


def test_conversations_keep_what_is_prompt(tmp_path):
    from illada_lab.data.chat import ChatTemplate

    made(tmp_path / "out", CHAT)
    split = Split(Folder.open(str(tmp_path / "out")).split("train"))
    rendered = [ChatTemplate(BYTE).render(messages) for messages in CHAT]
    blocks = list(split.blocks(50))
    assert np.concatenate([b.tokens for b in blocks]).tolist() == [i for ids, _ in rendered for i in ids]
    assert np.concatenate([b.is_prompt for b in blocks]).tolist() == [flag for _, flags in rendered for flag in flags]


def test_extra_ends_are_drawn_and_kept(tmp_path):
    """Their number depends on the seed alone; whoever goes on with another one is refused."""
    plain = [len(ids) for ids in (made(tmp_path / "plain", CHAT), documents(tmp_path / "plain"))[1]]
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        done = made(tmp_path / name, CHAT, max_extra_eos=3, seed=seed)
        assert done.manifest.settings["max_extra_eos"] == 3 and done.manifest.settings["seed"] == seed
        extra = [len(ids) - n for ids, n in zip(documents(tmp_path / name), plain, strict=True)]
        assert set(extra) == {0, 1, 2, 3}
    assert contents(tmp_path / "one") == contents(tmp_path / "again") != contents(tmp_path / "two")


def spelt() -> Tokenizer:
    """A tokenizer as published ones are, whose special tokens are added to it."""
    backend = Backend.from_str(BYTE.backend.to_str())
    backend.add_special_tokens([AddedToken("<s>", special=True), AddedToken("<m>", special=True)])
    return Tokenizer(backend, SpecialTokens(mask=BYTE.vocab_size + 1, eos=BYTE.vocab_size))


@pytest.mark.parametrize(
    ("tokenizer", "given"), [(BYTE, texts(120)), (spelt(), [f"{text}<m><s>" for text in texts(60)])]
)
def test_the_files_do_not_depend_on_the_number_of_processes(tmp_path, tokenizer, given):
    for n in (1, 2):
        made(tmp_path / str(n), given, n_processes=n, tokenizer=tokenizer)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert sum(ids.count(tokenizer.tokens.mask) for ids in documents(tmp_path / "2")) == 0


def break_off(folder, monkeypatch, *given, n_before: int, **settings) -> None:
    """Prepare until the disk is full, which it is after so many shards."""
    close, n_closed = ShardWriter.close, 0

    def failing(writer):
        nonlocal n_closed
        n_closed += 1
        if n_closed > n_before:
            raise OSError(28, "No space left on device")
        return close(writer)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(ShardWriter, "close", failing)
        made(folder, *given, **settings)


@pytest.mark.parametrize("n_before", [0, 1, 2, 4])
def test_a_broken_off_preparation_goes_on_and_ends_with_the_same_files(tmp_path, monkeypatch, n_before):
    made(tmp_path / "whole", texts(120))
    out = tmp_path / "out"
    break_off(out, monkeypatch, texts(120), n_before=n_before)
    assert not (out / MANIFEST).exists() and list(out.glob("*.partial"))
    with pytest.raises(ValueError, match="its preparation was broken off"):
        Folder.open(str(out))
    done = made(out, texts(120))
    assert contents(out) == contents(tmp_path / "whole")
    assert not list(out.glob("*.partial")) and not (out / PROGRESS).exists()
    n_finished = sum(shard.n_tokens for shard in done.manifest.splits["train"][:n_before])
    assert (
        done.n_tokens
        == done.manifest.total("train", "n_tokens") + done.manifest.total("validation", "n_tokens") - n_finished
    )


def test_a_line_of_progress_that_was_cut_off_is_a_shard_to_be_made_again(tmp_path, monkeypatch):
    made(tmp_path / "whole", texts(120))
    out = tmp_path / "out"
    break_off(out, monkeypatch, texts(120), n_before=2)
    begun = (out / PROGRESS).read_bytes()
    assert begun.count(b"\n") == 3  # the settings and two shards
    (out / PROGRESS).write_bytes(begun[:-9])
    said = []
    made(out, texts(120), say=said.append)
    assert "going on behind 1 finished shards" in said[0] and contents(out) == contents(tmp_path / "whole")


def test_each_finished_shard_is_written_down_once(tmp_path):
    """Not all before it again: a corpus of many shards would be written down many times."""
    sizes = []
    made(tmp_path / "out", texts(120), say=lambda line: sizes.append((tmp_path / "out" / PROGRESS).read_bytes()))
    assert len(sizes) > 4 and all(b.startswith(a) and b.count(b"\n") == a.count(b"\n") + 1 for a, b in pairwise(sizes))


@pytest.mark.parametrize(
    ("given", "settings", "message"),
    [
        (texts(120), {"adds_eos": False}, "adds_eos = False; .* was begun with True; the same, or another out"),
        (texts(120), {"settings": {"data": {"path": "b"}}}, "data.path = b; .* was begun with a"),
        (texts(120), {"tokenizer": word_tokenizer(["a"])}, "tokenizer; .* was begun with another one"),
        ([*texts(20), "new", *texts(120)[21:]], {}, "the text of train-00001 has changed"),
        (texts(2), {}, "the text of train-00000 has changed"),
    ],
)
def test_it_goes_on_only_with_the_same_source_and_settings(tmp_path, monkeypatch, given, settings, message):
    named = {"settings": {"data": {"path": "a"}}}
    break_off(tmp_path / "out", monkeypatch, texts(120), n_before=2, **named)
    with pytest.raises(ValueError, match=message):
        made(tmp_path / "out", given, texts(2), **{**named, **settings})
    made(tmp_path / "out", texts(120), **named)


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    made(tmp_path / "out", texts(20))
    with pytest.raises(ValueError, match="holds prepared data, which would be lost"):
        made(tmp_path / "out", texts(20))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="holds thesis.tex, which would be mixed"):
        made(tmp_path / "other", texts(20))
    with pytest.raises(ValueError, match="a file; a new folder"):
        made(tmp_path / "other" / "thesis.tex", texts(20))


def test_two_cannot_write_to_one_folder(tmp_path):
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / LOCK), pytest.raises(ValueError, match="another process is preparing data there"):
        made(tmp_path / "out", texts(20))
    made(tmp_path / "out", texts(20))


def test_what_failed_before_its_first_shard_leaves_nothing_in_the_way(tmp_path):
    with pytest.raises(ValueError, match="document = 0; holds int, not text"):
        made(tmp_path / "out", [1, 2], settings={"path": "wrong"})
    made(tmp_path / "out", texts(20), settings={"path": "right"}, tokenizer=word_tokenizer(["a"]))
    assert Folder.open(str(tmp_path / "out")).manifest.settings["path"] == "right"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_processes": 0}, "n_processes = 0"),
        ({"tokens_per_shard": 0}, "tokens_per_shard = 0"),
        ({}, "data = 0 documents"),
    ],
)
def test_settings_that_cannot_be(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        made(tmp_path / "out", ["a"] if settings else [], ["b"], **settings)


def test_ids_are_as_small_as_the_vocabulary_allows(tmp_path):
    assert token_dtype(2**16) == "<u2" and token_dtype(2**16 + 1) == "<u4"
    large = word_tokenizer([f"w{i}" for i in range(2**16)])
    made(tmp_path / "out", ["w0 w65535", "w65529"], tokenizer=large)
    assert json.loads((tmp_path / "out" / MANIFEST).read_text())["dtype"] == "<u4"
    assert (
        documents(tmp_path / "out")[0][:2] == large.encode("w0 w65535") and max(documents(tmp_path / "out")[0]) > 2**16
    )


KILLED = """
import sys
from pathlib import Path
from illada_lab.data.shards import chunks, prepare
from tests.data.shards.made import BYTE, Texts, texts
chunks.CHUNK_BYTES = 100
class Slow(Texts):
    def load(self, split):
        table = super().load(split)
        class Table:
            def iter(self, batch_size):
                import time
                for columns in table.iter(batch_size=4):
                    time.sleep(0.01)
                    yield columns
        return Table()
if __name__ == "__main__":
    prepare.prepare(source=Slow(texts(400)), tokenizer=BYTE, folder=Path(sys.argv[1]), settings={},
                    tokens_per_shard=300, n_processes=2, say=lambda line: print(line, flush=True))
"""


def test_a_killed_preparation_leaves_no_process_and_goes_on(tmp_path):
    """kill -9 in the middle of it, twice; then it ends with the files of one that was left alone."""
    made(tmp_path / "whole", texts(400))
    (tmp_path / "killed.py").write_text(KILLED)
    command = [sys.executable, str(tmp_path / "killed.py"), str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
    for n_lines in (2, 4):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(n_lines)]
        assert all(lines)
        children = _children(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert children and _all_end(children)
        assert not (tmp_path / "out" / MANIFEST).exists() and (tmp_path / "out" / TOKENIZER).exists()
    subprocess.run(command, check=True, env=environment, capture_output=True, timeout=60)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def _children(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def _all_end(pids: list[int], seconds: float = 10) -> bool:
    import psutil

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]:
            return True
        time.sleep(0.05)
    return False


def test_a_killed_worker_is_an_error_and_the_rest_is_kept(tmp_path):
    """What the system does when memory runs out."""
    script = KILLED.replace(
        "say=lambda line: print(line, flush=True)",
        "say=lambda line: __import__('os').kill(__import__('psutil').Process().children()[-1].pid, 9)",
    )
    (tmp_path / "killed.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
    command = [sys.executable, str(tmp_path / "killed.py"), str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "a process that tokenises was killed" in done.stderr
    made(tmp_path / "out", texts(400))
    made(tmp_path / "whole", texts(400))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
