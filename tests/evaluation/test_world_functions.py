"""Programs in the world's words: what they mean, that the tests find wrong ones, what a guess is worth."""

import itertools
import random

import pytest

from illada_lab.data.build_tokenizer import word_tokenizer
from illada_lab.data.worlds import World
from illada_lab.evaluation import world_functions as functions
from illada_lab.evaluation.world_functions import FunctionTask, to_python

TASKS = functions.function_tasks(40, random.Random(0))


def value_of(text: str, task: FunctionTask, case: dict[str, int]):
    """What a program computes; None where it is none or fails. Harmless: the language has sums only."""
    scope: dict = {}
    source = to_python(text, task.parameters)
    if source is None:
        return None
    exec(source, scope)
    try:
        return scope["f"](**case)
    except NameError:
        return None


def is_right(text: str, task: FunctionTask) -> bool:
    return all(value_of(text, task, case) == result for case, result in task.tests())


def test_problems_are_sentences_of_the_world_with_letters():
    words = set(World(seed=0, n_people=8).words)
    assert len({task.prompt for task in TASKS}) == 40
    for task in TASKS:
        assert set(f"{task.prompt} {task.program}".split()) <= words
        assert task.parameters and task.prompt.endswith("have ?")
        assert [word for word in task.prompt.split() if word in (*"abcd", *functions.NUMBERS)] == list(task.slots)
    many = functions.function_tasks(200, random.Random(0))
    assert {len(task.parameters) for task in many} == {1, 2, 3} and many[:40] == TASKS
    tokenizer = word_tokenizer(World(seed=0, n_people=8).words)
    assert tokenizer.decode(tokenizer.encode_known(TASKS[0].program)) == TASKS[0].program


def test_right_programs_pass_in_the_sandbox_and_wrong_ones_fail():
    task = FunctionTask("tom has a nuts . mia gives 3 and leo gives b . how many nuts does tom have ?", ("a", "3", "b"))
    programs = {
        task.program: True,
        "a + b = c . c + 3 = d . the answer is d .": True,
        "a plus 3 is d . the sum of d and b is a . the answer is a": True,
        "a + 3 = d . d + b = d": False,  # says no answer
        "a + 3 = d . d + a = d . the answer is d": False,
        "a + 3 = d . the answer is d": False,
        "d + 3 = d . d + b = d . the answer is d": False,  # not bound
        "2 + 3 = 5 . the answer is 5": False,  # a numeral cannot be bound
        "import os": False,
        "": False,
    }
    outcomes = functions.run_functions([task] * len(programs), list(programs))
    assert [outcome.has_passed for _, outcome in outcomes] == list(programs.values())
    assert outcomes[6][1].reason.startswith("UnboundLocalError") and outcomes[-2][0] is None
    assert outcomes[4][1].reason.startswith("AssertionError")


def test_gold_programs_are_right():
    assert all(is_right(task.program, task) for task in TASKS)


def test_tests_are_hidden_and_the_same_for_everybody():
    again = functions.function_tasks(40, random.Random(0))
    assert [task.tests() for task in TASKS] == [task.tests() for task in again]
    # Sums of two-digit numbers: no table of the world holds them.
    assert all(max(result for _, result in task.tests()) > 18 for task in TASKS)


@pytest.mark.parametrize("number", [0, 3, 11])
def test_chance_is_what_guessing_operands_gives(number):
    task, pool = TASKS[number], ("a", "b", "c", "d", *functions.NUMBERS)
    guesses = [f"{x} + {y} = d . d + {z} = d . the answer is d" for x, y, z in itertools.product(pool, repeat=3)]
    n_right = sum(is_right(guess, task) for guess in guesses)
    assert functions.chance([task]) == pytest.approx(n_right / len(pool) ** 3)
    assert 0 < functions.chance(TASKS) < 0.01
