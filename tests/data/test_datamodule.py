"""From documents to batches: every token of every document exactly once an epoch, the same stream after a resume and on other ranks."""

import json
import pickle
import tempfile
from collections import Counter
from functools import partial
from itertools import islice
from unittest.mock import Mock

import numpy as np
import pytest
import torch

import illada_lab.data.tables
from illada_lab import processes
from illada_lab.config import compose_and_check
from illada_lab.data import datamodule
from illada_lab.data.build_tokenizer import word_tokenizer
from illada_lab.data.datamodule import DataModule
from illada_lab.data.held_out import padded
from illada_lab.data.order import StreamOrder
from illada_lab.data.packing import ConcatAndCut, Dropped, OnePerRow, WholeDocuments
from illada_lab.data.rows import COLUMNS, store, take
from illada_lab.data.text import TextSource
from illada_lab.training import run
from tests.data.sources import WORDS, ListSource, numbered

WORD = word_tokenizer(WORDS)


def module(source, **settings) -> DataModule:
    values = {"length": 16, "batch_size": 4, **settings}
    data = DataModule(source=source, tokenizer=WORD, **values)
    data.prepare()
    return data


@pytest.mark.parametrize("packing", [WholeDocuments(), ConcatAndCut(), OnePerRow()], ids=lambda p: type(p).__name__)
def test_an_epoch_holds_every_token_once(packing):
    source = numbered(103)
    data = module(source, packing=packing, batch_size=1)
    assert data.n_rows is not None
    batches = list(islice(data.train_dataloader(), data.n_rows))
    # One document per row pads with EOS that counts as response: there only what is left of each document is compared.
    found = Counter(int(i) for b in batches for i in b.tokens[b.segment_ids > 0])
    expected = Counter(i for text in source.load("train")["text"] for i in [*WORD.encode(text), WORD.tokens.eos])
    assert found == expected and sum(expected.values()) == data.n_tokens


def test_a_resumed_stream_goes_on_where_it_stopped():
    whole = list(islice(module(numbered(50)).train_dataloader(), 30))
    data = module(numbered(50))
    data.start_batch = 17
    for a, b in zip(whole[17:], data.train_dataloader(), strict=False):
        assert torch.equal(a.tokens, b.tokens) and torch.equal(a.index, b.index)


def test_order_is_a_permutation_each_epoch_and_the_same_for_every_world_size():
    one = StreamOrder(n_rows=10, batch_size=4, seed=3)
    positions = [draw for batch in islice(one, 10) for draw in batch]
    assert [position for position, _ in positions] == list(range(40))
    epochs = [[row for _, row in positions[start : start + 10]] for start in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs) and len(set(map(tuple, epochs))) == 4
    two = [StreamOrder(n_rows=10, batch_size=4, seed=3, rank=rank, world_size=2) for rank in range(2)]
    joined = [draw for batches in islice(zip(*two, strict=True), 10) for batch in batches for draw in batch]
    assert joined == positions
    with pytest.raises(ValueError, match="must divide among 3 ranks; nearest: 3"):
        StreamOrder(n_rows=10, batch_size=4, seed=0, world_size=3)


@pytest.fixture
def stream(tmp_path):
    """A file of 200 documents, read as a stream."""
    texts = numbered(200).load("train")["text"]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return lambda: TextSource(path=str(tmp_path / "a.jsonl"), streaming=True, n_held_out=20)


def test_a_stream_holds_every_token_once_an_epoch_in_mixed_order(stream):
    data = module(stream(), n_buffer=16, batch_size=1)
    expected = Counter(i for row in stream().load("train") for i in [*WORD.encode(row["text"]), WORD.tokens.eos])
    found, first = Counter(), []
    for batch in data.train_dataloader():
        if found == expected:
            break
        found.update(int(i) for i in batch.tokens[batch.segment_ids > 0])
        first.append(batch.tokens)
        assert sum(found.values()) <= sum(expected.values())
    assert data.n_tokens is None and data.steps_per_epoch is None
    other = module(stream(), n_buffer=16, batch_size=1, seed=1)
    assert any(not torch.equal(a, b.tokens) for a, b in zip(first, other.train_dataloader(), strict=False))


def test_a_stream_resumes_and_is_shared_among_ranks(stream):
    def batches(n, world_size=1, start=0):
        """`n` batches, each joined from the shares of all ranks."""
        ranks = []
        for rank in range(world_size):
            data = module(stream(), n_buffer=16)
            data.trainer, data.start_batch = Mock(), start
            data.trainer.strategy.distributed_sampler_kwargs = {"num_replicas": world_size, "rank": rank}
            ranks.append(islice(data.train_dataloader(), n))
        return [
            [torch.cat([getattr(b, name) for b in shares]) for name in ("tokens", "index")]
            for shares in zip(*ranks, strict=True)
        ]

    whole = batches(12)
    for again in (batches(12, world_size=2), whole[:9] + batches(3, start=9), whole[:9] + batches(3, 2, start=9)):
        assert all(torch.equal(*pair) for a, b in zip(whole, again, strict=True) for pair in zip(a, b, strict=True))


@pytest.mark.parametrize("is_streaming", [False, True])
def test_examples_are_padded_as_if_their_step_were_one_batch(tmp_path, is_streaming):
    """Padding is learnt from there: how many micro-batches or processes share a step must not change it."""
    texts = [" ".join(["cat"] * (1 + 7 * i % 11)) for i in range(60)]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))

    def batches(n, rank=None, **settings):
        source = TextSource(path=str(tmp_path / "a.jsonl"), streaming=is_streaming, n_held_out=20)
        data = module(source, packing=OnePerRow(), **settings)
        if rank is not None:
            data.trainer = Mock()
            data.trainer.strategy.distributed_sampler_kwargs = {"num_replicas": 2, "rank": rank}
        return list(islice(data.train_dataloader(), n))

    whole, short, parts = (
        batches(6, batch_size=8),
        batches(24, batch_size=2),
        batches(24, batch_size=8, micro_batch_size=2),
    )
    assert sum(batch.tokens.numel() for batch in short) < sum(batch.tokens.numel() for batch in whole)
    for step, batch in enumerate(whole):
        for name in ("tokens", "segment_ids", "is_prompt", "index"):
            joined = torch.cat([getattr(part, name) for part in parts[4 * step : 4 * step + 4]])
            assert torch.equal(joined, getattr(batch, name)), name
    two = [batches(6, batch_size=8, rank=rank) for rank in (0, 1)]
    for batch, *halves in zip(whole, *two, strict=True):
        assert torch.equal(torch.cat([half.tokens for half in halves]), batch.tokens)


def test_other_data_is_told_from_what_a_checkpoint_counts_through(stream):
    data, same, fewer = module(numbered(50)), module(numbered(50)), module(numbered(49))
    same.load_state_dict(data.state_dict())
    for other in (fewer, module(numbered(50), length=17), module(numbered(50), seed=1), module(stream())):
        with pytest.raises(ValueError, match="data; not what the checkpoint was trained on"):
            other.load_state_dict(data.state_dict())
    before = {key: data.state_dict()["data"][key] for key in ("n_rows", "n_tokens", "crc32")}  # as it was kept once
    same.load_state_dict({"data": before})
    with pytest.raises(ValueError, match="data; not what the checkpoint was trained on .crc32"):
        fewer.load_state_dict({"data": before})


def test_a_stream_is_told_from_other_streams(stream, tmp_path):
    data, state = module(stream()), module(stream()).state_dict()
    data.load_state_dict(state)
    data.load_state_dict({"data": {"is_stream": True}})  # as it was kept once
    source = stream()
    source.n_held_out = 21
    for other, told in (
        (module(stream(), n_buffer=9), "n_buffer 10000, now 9"),
        (module(stream(), seed=1), "seed 0, now 1"),
        (module(stream(), length=17), "length 16, now 17"),
        (module(source), "crc32 .* n_held_out 20, now 21"),
        (module(numbered(50)), "is_stream True, now None"),
    ):
        with pytest.raises(ValueError, match=f"data; not what the checkpoint was trained on .*{told}"):
            other.load_state_dict(state)
    # The same beginning, but more behind it; elsewhere, the same files.
    file = tmp_path / "a.jsonl"
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "a.jsonl").write_bytes(file.read_bytes())
    moved = TextSource(path=str(tmp_path / "moved" / "a.jsonl"), streaming=True, n_held_out=20)
    module(moved).load_state_dict(state)
    with file.open("a") as more:
        more.write('\n{"text": "red"}')
    with pytest.raises(ValueError, match="files "):
        module(stream()).load_state_dict(state)


def test_processes_with_other_rows_are_named(monkeypatch, tmp_path):
    def among(value):
        return [value, value, {**value, "crc32": 0}, {**value, "n_rows": 1}]

    monkeypatch.setattr(processes, "gathered", among)
    with pytest.raises(ValueError, match="process 2, 3 would train otherwise than process 0 .another crc32, n_rows.;"):
        run.train(compose_and_check(["scale=smoke", f"run_dir={tmp_path}/run"]))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_short_examples_end_in_eos_that_is_learnt():
    """Source: LLaDA, fine-tuning: what a batch is padded with is part of the response."""
    batch = next(iter(module(numbered(80), packing=OnePerRow(), batch_size=16).train_dataloader()))
    first = (batch.tokens == WORD.tokens.eos).int().argmax(1)
    is_behind = torch.arange(batch.tokens.shape[1]) >= first[:, None]
    assert (first < batch.tokens.shape[1] - 1).any() and (batch.tokens[is_behind] == WORD.tokens.eos).all()
    assert batch.is_valid.all() and not batch.is_prompt[is_behind].any()


def test_a_row_without_response_is_found():
    data = module(numbered(5))
    assert data.row_without_response() is None
    data.train_rows = data.train_rows.map(lambda row: {"is_prompt": np.ones_like(row["is_prompt"])}).with_format(
        "numpy"
    )
    assert data.row_without_response() == WORD.decode(take(data.train_rows, np.array([0])).tokens[0].tolist())[:60]


def test_processes_divide_the_search_for_a_row_without_response(monkeypatch):
    data, seen = module(numbered(400)), []
    monkeypatch.setattr(datamodule, "ROWS_AT_ONCE", 3)
    monkeypatch.setattr(datamodule, "take", lambda rows, index: seen.append(index.tolist()) or take(rows, index))
    for share in ((0, 2), (1, 2)):
        assert data.row_without_response(share) is None
    assert data.n_rows and data.n_rows > 6 and sorted(sum(seen, [])) == list(range(data.n_rows))


def test_validation_documents_bring_what_is_known_of_them():
    data = module(numbered(30), n_validation=7, max_validation_length=4)
    documents = data.validation_documents()
    assert len(documents) >= 7
    assert all(len(d["ids"]) <= 4 for d in documents) and all(d["n_bytes"] > 0 for d in documents)


def test_padded_examples_are_validated_with_their_padding():
    """Steps of 4: those of one step are as long as its longest, and what stands behind an example is to be predicted as well."""
    source = ListSource(text=[" ".join(WORDS[: 1 + i * i % 7]) for i in range(20)])
    plain, data = (module(source, packing=packing, n_validation=10) for packing in (WholeDocuments(), OnePerRow()))
    documents, eos = plain.validation_documents(), data.tokenizer.tokens.eos
    found, n = data.validation_documents(), data.batch_size
    assert len(found) == len(documents) > n == 4
    lengths = [len(document["ids"]) for document in documents]
    assert len(set(lengths[:n])) > 1
    for i, (new, old, length) in enumerate(zip(found, documents, lengths, strict=True)):
        longest = max(lengths[i // n * n : i // n * n + n])
        assert new["ids"] == old["ids"] + [eos] * (longest - length)
        assert new["is_prompt"] == old["is_prompt"] + [False] * (longest - length)
        assert new["n_bytes"] == old["n_bytes"]
    prompt = {"ids": [5, 6], "is_prompt": [True, True], "log_prob": -1.0}
    long = {"ids": [5, 6, 2], "is_prompt": [True, False, False], "log_prob": -2.0, "segment_ids": [1, 1, 2]}
    short = {**long, "ids": [5, 2], "is_prompt": [True, False], "segment_ids": [1, 2]}
    assert padded([prompt, long, short], n_together=8, pad_with=9) == [
        prompt, long, {"ids": [5, 2, 9], "is_prompt": [True, False, False], "log_prob": None},
    ]  # fmt: skip


@pytest.mark.parametrize("is_isolated", [True, False])
def test_validated_rows_are_segmented_as_those_of_training(is_isolated):
    data = module(numbered(30), length=16, packing=ConcatAndCut(), validates_rows=True, is_isolated=is_isolated)
    assert data.tokenizer is not None
    assert int(next(iter(data.train_dataloader())).segment_ids.max() > 1) == is_isolated
    for row in data.validation_documents():
        is_end = torch.tensor(row["ids"][:-1]) == data.tokenizer.tokens.eos
        assert not is_isolated or (torch.tensor(row["segment_ids"]).diff() > 0).tolist() == is_end.tolist()
        assert is_isolated or "segment_ids" not in row


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size = 0"),
        ({"length": 1}, "length = 1"),
        ({"micro_batch_size": 0}, "micro_batch_size = 0; out of range; 1 or more"),
        ({"n_validation": 0}, "n_validation = 0"),
        ({"n_buffer": 0}, "n_buffer = 0"),
    ],
)
def test_sizes_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        module(numbered(5), **settings)


def test_a_stream_has_one_reader(stream):
    with pytest.raises(ValueError, match="data.n_workers = 2; a stream has one reader"):
        module(stream(), n_workers=2)


def test_a_large_table_lies_on_the_disk_for_as_long_as_it_is_needed(monkeypatch, tmp_path):
    """The same rows as in memory; the folder is not made before it is needed, and is deleted afterwards."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    small = module(numbered(20))
    assert not list(tmp_path.iterdir())
    small.close()
    monkeypatch.setattr(illada_lab.data.tables, "store", partial(store, tokens_in_memory=10))
    large = module(numbered(20))
    (file,) = tmp_path.rglob("rows.arrow")
    rows = np.arange(len(small.train_rows))
    for name in COLUMNS:
        assert (large.train_rows[rows][name] == small.train_rows[rows][name]).all()
    assert large.n_tokens == small.n_tokens and file.stat().st_size > 0
    large.close()
    assert not list(tmp_path.iterdir())


def test_a_run_leaves_nothing_but_its_folder(monkeypatch, tmp_path):
    """A process that trains many models would keep the tables of all of them, as long as anything refers to their data."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.setattr(illada_lab.data.tables, "store", partial(store, tokens_in_memory=10))
    kept, prepare = [], run._prepare
    monkeypatch.setattr(run, "_prepare", lambda *given: kept.append(prepare(*given)) or kept[-1])
    run.train(compose_and_check(["scale=smoke", "trainer.max_steps=4", f"run_dir={tmp_path}/run"]))
    assert kept and not list((tmp_path / "scratch").iterdir()) and (tmp_path / "run" / "checkpoints").is_dir()


@pytest.fixture
def uneven(tmp_path):
    """Ten documents, of which the third and the last but one are longer than a row of 8; one more is held out, which is too."""
    sizes = [2, 3, 9, 4, 1, 5, 7, 2, 20, 6]
    rows = [json.dumps({"text": " ".join(WORDS[i % 8] for i in range(n))}) for n in sizes]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "b.jsonl").write_text("\n".join(rows[:4]))

    def source(**settings):
        held_out = str(tmp_path / "held" / "b.jsonl")
        return TextSource(path=str(tmp_path / "a.jsonl"), validation_path=held_out, **settings)

    return source


@pytest.mark.parametrize("packing", [OnePerRow(), WholeDocuments()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("is_streaming", [False, True])
def test_what_is_longer_than_a_row_is_left_out_and_said(uneven, capsys, packing, is_streaming):
    data = module(
        uneven(streaming=is_streaming),
        packing=packing,
        length=8,
        batch_size=1,
        drops_long=True,
        validates_rows=True,
        n_buffer=1,
    )
    what = "examples at the beginning of the stream" if is_streaming else "training examples"
    said = f"data: 2 of 10 {what} left out, longer than a row of 8 tokens (data.drops_long)\n"
    assert capsys.readouterr().err == said
    if not is_streaming:
        assert data.n_tokens == sum(n + 1 for n in (2, 3, 4, 1, 5, 7, 2, 6))
    n_rows = 8 if isinstance(packing, OnePerRow) else 6
    batches = list(islice(data.train_dataloader(), n_rows))
    ends = Counter(int((b.tokens[b.segment_ids > 0] == WORD.tokens.eos).sum()) for b in batches)
    assert sum(k * v for k, v in ends.items()) == 8  # each of the eight that are left, once
    capsys.readouterr()
    documents = data.validation_documents()
    assert sum(len(document["ids"]) for document in documents) == 3 + 4 + 5
    assert "data: 1 of 4 validation examples left out" in capsys.readouterr().err
    with pytest.raises(ValueError, match="all 10 .* longer than a row of 1 tokens"):
        Dropped(1, n=10, n_seen=10, longest=20).say("examples")


def test_only_what_packs_whole_examples_leaves_some_out(uneven):
    with pytest.raises(ValueError, match=r"data.drops_long = true; ConcatAndCut cuts a stream, .*WholeDocuments$"):
        module(uneven(), packing=ConcatAndCut(), drops_long=True)
    with pytest.raises(ValueError, match=r"example = 8; 21 tokens, .* 2 too long among 10\)"):
        module(uneven(), packing=OnePerRow(), length=8)
    with pytest.raises(
        ValueError, match=r"data.drops_long = true; all 10 training examples .* scale.length=21 takes all"
    ):
        module(ListSource(text=["red green"] * 9 + ["red " * 20]), length=2, drops_long=True)


def test_a_stream_that_leaves_long_examples_out_is_another_stream(uneven):
    """Also where none of the beginning was too long."""
    settings = {"packing": WholeDocuments(), "length": 32}
    state = module(uneven(streaming=True), **settings).state_dict()
    with pytest.raises(ValueError, match="drops_long False, now True"):
        module(uneven(streaming=True), drops_long=True, **settings).load_state_dict(state)


def test_short_examples_are_put_into_rows_few_at_a_time(monkeypatch):
    """A row is as long as the longest: a block of short examples would become a thousand times as large."""
    monkeypatch.setattr(illada_lab.data.tables, "BLOCK", 64)
    together = []

    class Counting(OnePerRow):
        def __call__(self, documents, length, filler):
            together.append(len(documents.offsets) - 1)
            return super().__call__(documents, length, filler)

    data = module(numbered(50), packing=Counting())
    assert data.n_rows == 50 and max(together) <= 64 // 16


def test_nothing_to_train_on_is_said_before_there_is_a_model():
    with pytest.raises(ValueError, match="^data = 0 rows; nothing to train on"):
        module(numbered(0))


def test_a_stream_travels_to_a_worker_without_its_run(stream):
    data = module(stream(), batch_size=2)
    data.trainer = Mock(strategy=Mock(distributed_sampler_kwargs={"num_replicas": 1, "rank": 0}))
    data.unpicklable = lambda: None
    batches = pickle.loads(pickle.dumps(data.train_dataloader().dataset))
    assert torch.equal(next(iter(batches)).tokens, next(iter(data.train_dataloader())).tokens)


@pytest.mark.parametrize(("is_chat", "told"), [(True, 2), (False, 0)])
def test_ends_that_conversations_do_not_take_are_said(tmp_path, capsys, is_chat, told):
    rows = [
        {"text": "a cat", "messages": [{"role": "user", "content": "a cat"}, {"role": "assistant", "content": "red"}]}
    ] * 4
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = TextSource(path=str(tmp_path / "a.jsonl"), messages_field="messages" if is_chat else None)
    module(source, adds_bos=True, adds_eos=False)
    assert capsys.readouterr().err.count("without effect on conversations") == told
