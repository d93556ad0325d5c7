"""Checkpoints by hub id: from a cache laid out as the hub's client does, and what is said where there is none."""

import json

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from tokenizers import Tokenizer, models, pre_tokenizers

from illada_lab import load_predictor
from illada_lab.cli import main
from illada_lab.interop.hub import FILES, RELEASED, checkpoint_folder, is_hub_id
from illada_lab.tokens import ILLADA as IDS
from tests.interop.reference import ILLADA, LLADA, random_state, write

COMMIT = "a" * 40


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def put(cache, repository, revision="main"):
    """A repository in the cache: the commit's files, and which commit a branch means."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / revision).write_text(COMMIT)
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    config = ILLADA if "iLLaDA" in repository else LLADA
    state = random_state(config)
    write(snapshot, config, state, n_shards=2)
    return snapshot, state


@pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}"])
@pytest.mark.parametrize("name", RELEASED)
def test_every_released_id_is_read_from_the_cache(cache, name, revision):
    snapshot, state = put(cache, name)
    assert checkpoint_folder(name + revision) == snapshot
    head = load_predictor(name + revision).head_weight
    assert torch.equal(
        head, state["model.embed_tokens.weight" if "iLLaDA" in name else "model.transformer.ff_out.weight"]
    )


def test_commands_take_an_id(cache, capsys):
    snapshot, _ = put(cache, "GSAI-ML/iLLaDA-8B-Base")
    words = {f"w{i}": i for i in range(ILLADA["vocab_size"])}
    words = {("<eos>" if i == IDS.eos else "<mask>" if i == IDS.mask else word): i for word, i in words.items()}
    backend = Tokenizer(models.WordLevel(words, unk_token="w3"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(["<eos>", "<mask>"])
    backend.save(str(snapshot / "tokenizer.json"))
    settings = ["sampler.response_length=4", "sampler.block_length=4", "sampler.n_steps=4", "n_samples=1", "--json"]
    assert main(["sample", "checkpoint=GSAI-ML/iLLaDA-8B-Base", "prompt=w9", *settings]) == 0
    assert json.loads(capsys.readouterr().out)["samples"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("GSAI-ML/iLLaDA-8B-Bse", "did you mean GSAI-ML/iLLaDA-8B-Base"),
        ("gsai-ml/llada-1.5", "did you mean GSAI-ML/LLaDA-1.5?"),
        ("someone/LLaDA-8B-Instruct", "did you mean GSAI-ML/LLaDA-8B-Instruct"),
        ("GSAI-ML/LLaDA-8B-Base", "`hf download GSAI-ML/LLaDA-8B-Base` where there is a network"),
        ("someone/other", "a folder, or one of GSAI-ML/LLaDA-8B-Base, "),
    ],
)
def test_what_is_neither_here_nor_reachable_is_said_in_one_line(cache, capsys, name, message):
    with pytest.raises(FileNotFoundError, match="not in the cache, and the hub cannot be reached") as caught:
        load_predictor(name)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert main(["sample", f"checkpoint={name}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_only_what_is_read_is_downloaded(tmp_path, monkeypatch):
    folder = write(tmp_path / "model", ILLADA, random_state(ILLADA))
    asked = {}
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **how: asked.update(name=name, **how) or str(folder)
    )
    assert checkpoint_folder("owner/model@v1") == folder
    assert asked == {"name": "owner/model", "revision": "v1", "allow_patterns": list(FILES)}
    assert not [pattern for pattern in FILES if pattern.endswith((".py", ".bin", "*"))]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (ValueError("anything"), r"the hub cannot be reached \(ValueError\)"),
    ],
)
def test_a_full_disk_stays_a_full_disk(monkeypatch, error, message):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(OSError, match=message):
        checkpoint_folder("owner/model")


def test_paths_are_not_taken_for_ids(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    for name in ("models/nothing", "runs/nothing", "runs", "./a/b", "/a/b", "a/b/c", "~/b", "../a/b", "a b/c"):
        assert not is_hub_id(name), name
    assert all(is_hub_id(name) and is_hub_id(f"{name}@main") for name in RELEASED)
    with pytest.raises(FileNotFoundError, match="no such file or folder|no last.ckpt there"):
        load_predictor("runs/nothing")
