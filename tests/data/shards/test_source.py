"""Training from shards: the same stream at every world size, with every number of workers, and after a resume."""

import shutil
from collections import Counter
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only

from illada_lab.data.build_tokenizer import prepared, word_tokenizer
from illada_lab.data.datamodule import DataModule
from illada_lab.data.packing import ConcatAndCut, OnePerRow, WholeDocuments
from illada_lab.data.rows import take
from illada_lab.data.shards.source import ShardSource
from tests.data.shards.made import BYTE, Texts, made, texts
from tests.data.shards.test_read import spoil

# What torchrun tells the first of two processes.
TORCHRUN = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("folders")
    made(root / "a", texts(2000), texts(40), tokens_per_shard=9000)
    made(
        root / "b", [f"OTHER {text}".upper() for text in texts(100)], ["other one", "other two"], tokens_per_shard=9000
    )
    return {name: str(root / name) for name in "ab"}


def module(source, **settings) -> DataModule:
    values = {"length": 16, "batch_size": 8, "packing": ConcatAndCut(), "is_isolated": False, **settings}
    data = DataModule(source=source, tokenizer=prepared, **values)
    data.prepare()
    return data


def same(a, b) -> bool:
    return all(
        torch.equal(getattr(a, name), getattr(b, name)) for name in ("tokens", "segment_ids", "is_prompt", "index")
    )


@pytest.mark.parametrize("packing", [ConcatAndCut(), WholeDocuments()], ids=lambda p: type(p).__name__)
def test_an_epoch_holds_every_token_of_the_text_once(folders, packing):
    data = module(ShardSource(path=folders["a"]), packing=packing, batch_size=1)
    assert data.n_rows is not None
    batches = list(islice(data.train_dataloader(), data.n_rows))
    found = Counter(int(i) for b in batches for i in b.tokens[b.segment_ids > 0])
    assert found == Counter(i for text in texts(2000) for i in [*BYTE.encode(text), BYTE.tokens.eos])
    assert sum(found.values()) == data.n_tokens


def test_rows_are_those_of_the_text_itself(folders):
    shards = module(ShardSource(path=folders["a"]))
    plain = DataModule(source=Texts(texts(2000)), tokenizer=BYTE, length=16, batch_size=8, packing=ConcatAndCut())
    plain.prepare()
    assert shards.n_rows == plain.n_rows and shards.n_rows is not None

    def rows(data) -> Counter:
        batches = islice(data.train_dataloader(), -(-data.n_rows // 8) + 1)
        kept = [(int(i), row) for b in batches for i, row in zip(b.index, b.tokens.tolist(), strict=True)]
        return Counter(tuple(row) for i, row in kept if i < data.n_rows)

    assert rows(shards) == rows(plain)


@pytest.mark.parametrize("n_workers", [0, 2])
@pytest.mark.parametrize("weights", [None, [0.25, 0.75]])
def test_a_resumed_stream_goes_on_where_it_stopped_with_any_number_of_workers(folders, weights, n_workers):
    path = [folders["a"], folders["b"]]
    whole = list(islice(module(ShardSource(path=path, weights=weights)).train_dataloader(), 30))
    data = module(ShardSource(path=path, weights=weights), n_workers=n_workers)
    data.start_batch = 17
    again = list(islice(data.train_dataloader(), 13))
    assert all(same(a, b) for a, b in zip(whole[17:], again, strict=True))


class Rank:
    """What the loader asks a trainer."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.strategy = SimpleNamespace(distributed_sampler_kwargs={"num_replicas": world_size, "rank": rank})


def test_ranks_share_the_batches_of_one_and_resume_at_another_world_size(folders):
    def batches(n, rank=0, world_size=1, start=0):
        data = module(ShardSource(path=folders["a"]), micro_batch_size=8 // world_size)
        data.trainer, data.start_batch = Rank(rank, world_size), start  # type: ignore[assignment]
        return list(islice(data.train_dataloader(), n))

    one = batches(20)
    two = [batches(10, rank, 2) for rank in range(2)]
    for whole, a, b in zip(one[:10], *two, strict=True):
        assert torch.equal(whole.tokens, torch.cat([a.tokens, b.tokens]))
        assert torch.equal(whole.index, torch.cat([a.index, b.index]))
    four = [batches(10, rank, 4, start=10) for rank in range(4)]
    for whole, *parts in zip(one[10:], *four, strict=True):
        assert torch.equal(whole.tokens, torch.cat([part.tokens for part in parts]))


def test_a_mixture_takes_its_shares_and_validates_each_part(folders):
    data = module(ShardSource(path=[folders["a"], folders["b"]], weights=[3, 1]), n_validation=8, batch_size=64)
    # Rows of the second folder stand out by their capitals; a few hundred are enough for its share, within four standard errors.
    capitals = set(BYTE.encode("".join(chr(i) for i in range(65, 91))))
    rows = [row for batch in islice(data.train_dataloader(), 10) for row in batch.tokens.tolist()]
    share = sum(bool(capitals & set(row)) for row in rows) / len(rows)
    assert len(rows) == 640 and abs(share - 0.25) < 4 * (0.25 * 0.75 / 640) ** 0.5
    kinds = Counter(document["kind"] for document in data.validation_documents())
    assert kinds == {"a": 6, "b": 2}


def test_several_folders_without_weights_are_one_corpus(folders):
    both = module(ShardSource(path=[folders["a"], folders["b"]]))
    single = [module(ShardSource(path=folders[name])) for name in "ab"]
    assert both.n_tokens == sum(data.n_tokens or 0 for data in single)


def test_several_folders_without_weights_are_validated_one_by_one(folders):
    data = module(ShardSource(path=[folders["a"], folders["b"]]), n_validation=20, validates_rows=True)
    n_tokens = [part.n_tokens for part in data.source.parts("train")]
    kinds = Counter(document["kind"] for document in data.validation_documents())
    assert kinds == {"a": round(20 * n_tokens[0] / sum(n_tokens)), "b": round(20 * n_tokens[1] / sum(n_tokens))}


@pytest.mark.parametrize("kind", ["truncated", "changed", "missing", "offsets"])
def test_a_damaged_shard_stops_the_run_or_is_skipped_said_and_counted(folders, tmp_path, capsys, kind):
    shutil.copytree(folders["a"], tmp_path / "out")
    whole = ShardSource(path=folders["a"]).load("train")
    message = spoil(tmp_path / "out", kind)
    with pytest.raises(ValueError, match="data.skip_damaged=true leaves the shard out") as error:
        module(ShardSource(path=str(tmp_path / "out")))
    assert message in str(error.value)
    source = ShardSource(path=str(tmp_path / "out"), skip_damaged=True)
    data = module(source)
    lost = whole.places[1].shard.n_tokens
    assert data.n_tokens == whole.n_tokens - lost and len(source.skipped) == 1
    said = capsys.readouterr().err
    assert f"1 of {len(whole.places)} shards skipped, {lost:,} of {whole.n_tokens:,} tokens" in said and message in said
    assert data.n_rows is not None
    assert take(data.train_rows, np.arange(data.n_rows)).n_tokens == data.n_tokens


def test_processes_share_the_reading_of_files(folders, tmp_path, monkeypatch):
    """But each reads all where damaged ones are left out: they have to leave out the same."""
    shutil.copytree(folders["a"], tmp_path / "out")
    spoil(tmp_path / "out", "changed")  # the second shard
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert ShardSource(path=str(tmp_path / "out")).load("train").places
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ValueError, match="data.skip_damaged=true leaves the shard out"):
        ShardSource(path=str(tmp_path / "out")).load("train")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    monkeypatch.setattr(rank_zero_only, "rank", 1, raising=False)  # begun by the first process, which has read all
    assert ShardSource(path=str(tmp_path / "out")).load("train").places
    source = ShardSource(path=str(tmp_path / "out"), skip_damaged=True)
    source.load("train")
    assert len(source.skipped) == 1
    spoil(tmp_path / "out", "truncated")
    with pytest.raises(ValueError, match="data.skip_damaged=true leaves the shard out"):
        ShardSource(path=str(tmp_path / "out")).load("train")


def test_processes_share_the_reading_of_many_small_folders(folders, tmp_path, monkeypatch):
    paths = [str(tmp_path / name) for name in ("one", "two")]
    for path in paths:
        shutil.copytree(folders["b"], path)
    file = tmp_path / "two" / "train-00000.tokens"
    file.write_bytes(file.read_bytes()[::-1])
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert len(ShardSource(path=paths).load("train").places) == 2
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ValueError, match="two/train-00000.tokens; its checksum"):
        ShardSource(path=paths).load("train")


def test_a_corpus_of_damaged_shards_is_no_corpus(folders, tmp_path):
    shutil.copytree(folders["b"], tmp_path / "out")
    for path in (tmp_path / "out").glob("train-*.tokens"):
        path.unlink()
    with pytest.raises(ValueError, match="no sound shard is left"):
        module(ShardSource(path=str(tmp_path / "out"), skip_damaged=True))


def test_a_checkpoint_knows_its_data(folders):
    state = module(ShardSource(path=folders["a"])).state_dict()
    module(ShardSource(path=folders["a"])).load_state_dict(state)
    for other in ({"path": folders["b"]}, {"path": [folders["a"], folders["b"]], "weights": [1, 1]}):
        with pytest.raises(ValueError, match="not what the checkpoint was trained on"):
            module(ShardSource(**other)).load_state_dict(state)
    for settings, told in (
        ({"length": 32}, "length 16, now 32"),
        ({"packing": WholeDocuments()}, "packing ConcatAndCut, now WholeDocuments"),
        ({"seed": 1}, "seed 0, now 1"),
    ):
        with pytest.raises(ValueError, match=f"not what the checkpoint was trained on .*{told}"):
            module(ShardSource(path=folders["a"]), **settings).load_state_dict(state)
    before = {"data": state["data"]["fingerprint"]}  # as it was kept once
    module(ShardSource(path=folders["a"]), seed=1).load_state_dict(before)
    with pytest.raises(ValueError, match="not what the checkpoint was trained on"):
        module(ShardSource(path=folders["b"])).load_state_dict(before)


def test_what_does_not_fit_the_tokens_is_refused(folders, tmp_path):
    with pytest.raises(ValueError, match="data.adds_eos = false; .* was prepared with true; data.adds_eos=true"):
        module(ShardSource(path=folders["a"]), adds_eos=False)
    data = DataModule(source=ShardSource(path=folders["a"]), tokenizer=prepared, length=16, batch_size=8)
    with pytest.raises(ValueError, match="prepared with another tokenizer than the model's"):
        data.prepare(word_tokenizer(["a"]))
    made(tmp_path / "words", ["a a"], tokenizer=word_tokenizer(["a"]))
    with pytest.raises(ValueError, match="prepared with another tokenizer than"):
        module(ShardSource(path=[folders["a"], str(tmp_path / "words")]))
    made(tmp_path / "no_eos", ["a"], adds_eos=False)
    with pytest.raises(ValueError, match="prepared with another BOS and EOS than"):
        module(ShardSource(path=[folders["a"], str(tmp_path / "no_eos")]))
    made(tmp_path / "more_eos", ["a"], max_extra_eos=7)
    module(ShardSource(path=str(tmp_path / "more_eos")), max_extra_eos=7)
    for given in (0, 6):
        with pytest.raises(
            ValueError, match=f"data.max_extra_eos = {given}; .* was prepared with 7; data.max_extra_eos=7"
        ):
            module(ShardSource(path=str(tmp_path / "more_eos")), max_extra_eos=given)
    with pytest.raises(FileNotFoundError, match="no prepared data"):
        module(ShardSource(path=str(tmp_path)))
    with pytest.raises(ValueError, match="tokenizer = prepared; this data has no tokenizer"):
        prepared(Texts(["a"]))
    with pytest.raises(ValueError, match="data.path = \\[\\]"):
        ShardSource(path=[])


def test_long_documents_of_shards_are_left_out_and_said(tmp_path, capsys):
    short, long = ["a", "bc", "def"], ["x" * 20]
    made(tmp_path / "a", short + long)
    made(tmp_path / "b", long)
    data = module(ShardSource(path=str(tmp_path / "a")), packing=OnePerRow(), length=8, drops_long=True)
    assert (data.n_rows, data.n_tokens) == (3, sum(len(text) + 1 for text in short))
    assert "data: 1 of 4 training examples left out, longer than a row of 8 tokens" in capsys.readouterr().err
    both = ShardSource(path=[str(tmp_path / "a"), str(tmp_path / "b")], weights=[1, 1])
    with pytest.raises(ValueError, match="data.drops_long = true; all examples of b are longer than a row of 8 tokens"):
        module(both, packing=OnePerRow(), length=8, drops_long=True)


TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
ROLES = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"


def test_conversations_bring_their_chat_template_to_a_model(tmp_path, capsys):
    """Text may lie beside them, prepared with any template; that a model's own is given up is said."""
    own, other = BYTE.with_chat_template(ROLES), BYTE.with_chat_template(ROLES.replace(":", ";"))
    made(tmp_path / "text", texts(40), tokenizer=BYTE)
    made(tmp_path / "chats", [TALK] * 20, tokenizer=own)
    paths = [str(tmp_path / "text"), str(tmp_path / "chats")]
    both = ShardSource(path=paths)
    assert both.tokenizer.chat_template == ROLES and both.has_conversations
    for given in (None, BYTE, own):
        data = DataModule(source=ShardSource(path=paths), tokenizer=prepared, length=16, batch_size=8)
        data.prepare(given)
        assert data.tokenizer is not None and data.tokenizer.chat_template == ROLES
    assert capsys.readouterr().err == ""
    with pytest.raises(ValueError, match="prepared with another chat template than the model's"):
        both.check(other, adds_bos=False, adds_eos=True)
    tuned = DataModule(source=both, tokenizer=prepared, length=16, batch_size=8)
    tuned.prepare(other)
    assert tuned.tokenizer is not None and tuned.tokenizer.chat_template == ROLES
    assert "have another chat template than the model's, which learns theirs" in capsys.readouterr().err
    data = DataModule(source=ShardSource(path=paths[0]), tokenizer=prepared, length=16, batch_size=8)
    data.prepare(other)
    assert data.tokenizer is not None and data.tokenizer.chat_template == other.chat_template
    made(tmp_path / "others", [TALK] * 20, tokenizer=other)
    with pytest.raises(ValueError, match=r"others; prepared with another chat template than .*chats"):
        ShardSource(path=[*paths, str(tmp_path / "others")]).check(own, adds_bos=False, adds_eos=True)
    with pytest.raises(ValueError, match=r"data.chat_template = plain; prepared conversations are written already"):
        DataModule(source=both, tokenizer=prepared, length=16, batch_size=8, chat_template="plain")
