"""The world as a data source."""

import math

import pytest

from illada_lab.data.worlds import World, WorldSource


def test_pretraining_documents() -> None:
    source = WorldSource(n_documents=300, n_validation=50, world_seed=1)
    train, validation, test = (source.load(split) for split in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == (300, 50, 50)
    assert set(train.column_names) == {"text", "kind", "log_prob", "log_prob_of_length"}
    assert set(train["kind"]) == {"story", "fact", "sum"}
    world = World(seed=1)
    for row in validation:
        known = world.log_prob_given_length(row["text"], row["kind"], source.mixture)
        assert math.isclose(row["log_prob"], known, rel_tol=1e-9)
    assert not set(train["text"]) & set(validation["text"])
    assert list(source.load("train")["text"]) == list(train["text"])


def test_instructions() -> None:
    source = WorldSource(stage="sft", n_documents=80, n_validation=20, kinds=["fact", "choice"])
    train = source.load("train")
    assert set(train.column_names) == {"messages", "kind", "answer", "choices"}
    assert len(train) == 80 and len(source.load("test")) == 20
    for row in train:
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
        assert row["messages"][1]["content"] == row["answer"]
        assert (row["choices"] is None) == (row["kind"] == "fact")


def test_a_world_without_choices_has_the_column_too() -> None:
    assert WorldSource(stage="sft", n_documents=4, kinds=["sum"]).load("train")["choices"][:] == [None] * 4


def test_vocabulary_and_texts_for_tokenizers() -> None:
    source = WorldSource(n_documents=10, n_people=4)
    assert source.words == World(n_people=4).words
    assert {word for text in source.tokenizer_texts() for word in text.split()} <= set(source.words)


def test_unknown_stage() -> None:
    with pytest.raises(ValueError, match="stage = 'rl'; .*pretrain or sft"):
        WorldSource(stage="rl", n_documents=1)  # type: ignore[arg-type]
