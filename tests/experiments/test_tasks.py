"""What models are asked: tasks whose right answers are right and whose wrong ones are wrong."""

import pytest

from illada_lab.data.build_tokenizer import word_tokenizer
from illada_lab.data.worlds import World
from illada_lab.evaluation.generation import left_padded
from illada_lab.experiments.asking import STORY_TOKENS, Task, ask, story_task
from illada_lab.experiments.choices import choice_items
from illada_lab.experiments.lab import Lab
from illada_lab.samplers import FixedLength
from illada_lab.training.checkpoint import LoadedRun
from tests.scripted import Scripted


@pytest.fixture(scope="module")
def world():
    return World(seed=0, n_people=8)


@pytest.fixture(scope="module")
def tokenizer(world):
    return word_tokenizer(world.words)


def run_of(predictor, tokenizer) -> LoadedRun:
    """A run around a scripted predictor, which the checked constructor would refuse."""
    run = object.__new__(LoadedRun)
    run.predictor, run.tokenizer = predictor, tokenizer
    return run


def test_right_candidates_are_true_and_wrong_ones_are_not(world, tokenizer):
    tasks = choice_items(world, tokenizer.encode_known, 0, 2, 12, seed=0)
    statements = {text for kind in ("fact", "sum") for texts in world.tables[kind].values() for text in texts}
    assert all(len(items) >= 4 for items in tasks.values())
    for task, items in tasks.items():
        for item in items:
            assert len({tuple(c) for c in item.candidates}) == 4
            for number, candidate in enumerate(item.candidates):
                text = tokenizer.decode([*item.prompt, *candidate])
                is_true = text in statements if task in ("facts", "sums") else None
                if task == "last sentence" or task == "whole story":
                    is_true = world.stories.parse(text) is not None
                assert is_true == (number == item.answer), (task, text)


def test_a_story_is_right_when_the_grammar_accepts_it(world, tokenizer):
    """A predictor that knows the rest of one story: right for its own first sentence, wrong for another hero's."""
    story = next(
        d.text for d in world.documents("test", 500)
        if len(d.text.partition(" . ")[2].split()) == STORY_TOKENS - 1 and d.text.split()[1] == "was"
    )  # fmt: skip
    head = story.partition(" . ")[0] + " ."
    ids = [0, *tokenizer.encode_known(story), 2]
    model = run_of(Scripted(ids, vocab_size=tokenizer.vocab_size), tokenizer)
    other = ("mia" if story.split()[0] == "tom" else "tom") + " " + head.partition(" ")[2]
    task = Task(
        [[0, *tokenizer.encode_known(text)] for text in (head, other)],
        [lambda text, h=h: world.stories.parse(f"{h} {text}") is not None for h in (head, other)],
    )
    asked = ask(model, task, FixedLength(response_length=STORY_TOKENS, n_steps=6))
    assert asked.is_correct == [True, False] and asked.share == 0.5
    assert asked.nfe == 6 and asked.token_forwards == 6 * (len(task.prompts[0]) + STORY_TOKENS)
    assert asked.row(order="x")["order"] == "x" and asked.empty == 0


def test_story_prompts_are_first_sentences(world, tokenizer):
    class Known:
        tokens = Scripted([0]).tokens

    task = story_task(world, run_of(Known(), tokenizer), 5, seed=0)
    for prompt, check in zip(task.prompts, task.checks, strict=True):
        text = tokenizer.decode(prompt)
        assert text.count(".") == 1 and text.endswith(".") and not check("nonsense")


def test_left_padding():
    x, is_valid = left_padded([[7, 8], [9]], 1)
    assert (
        x.tolist() == [[7, 8], [1, 9]] and is_valid is not None and is_valid.tolist() == [[True, True], [False, True]]
    )
    assert left_padded([[7], [9]], 1)[1] is None


def test_a_folder_of_other_settings_is_refused(tmp_path):
    lab = Lab("smoke", 0, tmp_path)
    first = lab.train("variant", "trainer.max_steps=2", "lr.n_warmup_steps=1")
    assert first.model.step == 2
    before = first.model.path.stat().st_mtime_ns
    again = Lab("smoke", 0, tmp_path).train("variant", "trainer.max_steps=2", "lr.n_warmup_steps=1")
    assert again.model.path.stat().st_mtime_ns == before and again.history == first.history
    with pytest.raises(ValueError, match=r"variant; holds a run with another lr.decay_start; another runs_dir"):
        Lab("smoke", 0, tmp_path).train("variant", "trainer.max_steps=2", "lr.n_warmup_steps=1", "lr.decay_start=1.0")
