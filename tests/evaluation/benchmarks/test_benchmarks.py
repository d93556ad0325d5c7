"""The benchmarks' own files: gold answers are right, wrong ones are not, malformed files are named."""

import gzip
import json
import os
import re
import time
from decimal import Decimal
from pathlib import Path

import pytest
import yaml

from illada_lab import evaluation
from illada_lab.evaluation.benchmarks import Bbh, Gsm8k, HumanEval, Mbpp
from illada_lab.evaluation.benchmarks.bbh import final_answer
from illada_lab.evaluation.benchmarks.gsm8k import final_number
from illada_lab.samplers import VariableLength

DATA = Path(os.environ.get("ILLADA_LAB_SHARED_DATA") or Path(__file__).parents[4] / "shared" / "data")
SAMPLER = VariableLength(max_length=16, block_length=8)
TASKS = Path(evaluation.__file__).with_name("tasks")


def needs(name: str):
    return pytest.mark.skipif(not (DATA / name).exists(), reason=f"no {name} here (ILLADA_LAB_SHARED_DATA)")


def write(path: Path, *lines) -> str:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return str(path)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("5 eggs at $2 each make $10.", "10"),
        ("so 1,200 - 200 = 1,000 dollars", "1000"),
        ("the answer is -3.50%", "-3.50"),
        ("10-5", "5"),
        ("x = .5", "0.5"),
        ("a\n#### 2,125\n\nQuestion: 7 and 8?", "2125"),
        ("#### $70000", "70000"),
        ("<think> 3 </think> 4", "4"),
        ("1,2", "2"),
        ("total 1{,}000", "1000"),
        ("#### 12{,}345{,}678.5", "12345678.5"),
    ],
)
def test_numbers_are_read_as_the_benchmark_reads_them(text, number):
    assert final_number(text) == Decimal(number)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So the answer is **(B)**.", "(B)"),
        ("**The answer is: (B).**", "(B)"),
        ("**The answer is:** (B)", "(B)"),
        ("the answer is *valid*", "valid"),
        ("**valid**\n\nQ: next", "valid"),
        ("the answer is ) ] }.", ") ] }"),
    ],
)
def test_answers_are_read_without_stars(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is $18$.", "18"),
        ("5 eggs at $2 each make $10.", "10"),
        ("so 1,200 - 200 = 1,000 dollars", "1000"),
        ("-$5", "-5"),
        ("1 and 2 are 3\n#### 3\n\nQuestion: 7 and 8?", "3"),
        ("#### is the mark\n4", "4"),
        ("4 ####", "4"),
        ("#### -2.50 of 9", "-2.50"),
        ("$ and $", None),
    ],
)
def test_lm_evals_task_reads_the_number_behind_the_mark_else_the_last(text, number):
    """As lm-eval's filter does: the last match, of whose groups the first that is not empty; commas and $ do not count."""
    task = yaml.safe_load((TASKS / "gsm8k_local.yaml").read_text(encoding="utf-8"))
    (regex,) = [step for step in task["filter_list"][0]["filter"] if step["function"] == "regex"]
    found = re.compile(regex["regex_pattern"]).findall(text)
    said = next(filter(None, found[regex["group_select"]])) if found else None
    for ignored in task["metric_list"][0]["regexes_to_ignore"]:
        said = said and re.sub(ignored, "", said)
    assert said == number


@pytest.mark.parametrize("text", ["", "none", "$", "####"])
def test_a_text_without_a_number_has_none(text):
    assert final_number(text) is None


@needs("gsm8k")
@pytest.mark.parametrize(("file", "n"), [("test.jsonl", 1319), ("train.jsonl", 7473)])
def test_gsm8k_gold_answers_are_right_and_others_wrong(file, n):
    benchmark = Gsm8k(path=str(DATA / "gsm8k" / file), sampler=SAMPLER)
    items = benchmark.items()
    assert len(items) == n
    assert all(j.is_correct for j in benchmark.judge(items, [item.gold for item in items]))
    # In words, with a unit, and without the mark.
    said = [f"That makes ${final_number(item.gold):,f} in all." for item in items]
    assert all(j.is_correct for j in benchmark.judge(items, said))
    wrong = benchmark.judge(items, [f"#### {final_number(item.gold) + 1}" for item in items])
    assert not any(j.is_correct for j in wrong)


@needs("gsm8k")
def test_gsm8k_prompts_show_worked_examples():
    benchmark = Gsm8k(path=str(DATA / "gsm8k" / "test.jsonl"), n_shots=8, n_items=3, sampler=SAMPLER)
    items = benchmark.items()
    text = benchmark.prompt(items[2])
    assert benchmark.settings()["shots"] == [f"train/{n}" for n in range(1, 9)]
    assert [Path(file).name for file in benchmark.settings()["sha256"]] == ["test.jsonl", "train.jsonl"]
    assert len(items) == 3 and text.count("Question: ") == 9 and text.count("#### ") == 8
    assert text.endswith(f"Question: {items[2].question}\nAnswer:")
    chat = Gsm8k(path=benchmark.path, is_chat=True, sampler=SAMPLER)
    assert chat.prompt(items[0]).startswith(items[0].question) and "####" in chat.prompt(items[0])


def test_a_helper_with_a_longer_name_is_not_the_function(tmp_path):
    problem = {
        "task_id": "a/0",
        "prompt": "def fib(n):\n",
        "entry_point": "fib",
        "test": "def check(f):\n    assert f(7) == 13\n",
    }
    benchmark = HumanEval(path=write(tmp_path / "a.jsonl", problem), run_code=True, sampler=SAMPLER)
    (item,) = benchmark.items()
    inside = "    def fib_up(a, b, n):\n        return a if n == 0 else fib_up(b, a + b, n - 1)\n    return fib_up(0, 1, n)\n"
    whole = f"```python\ndef fib_all(n):\n    pass\n```\n```python\ndef fib(n):\n{inside}```"
    assert [judged.is_correct for judged in benchmark.judge([item] * 2, [inside, whole])] == [True, True]


@needs("humaneval")
@pytest.mark.slow
def test_humaneval_canonical_solutions_pass_and_wrong_ones_do_not(capsys):
    benchmark = HumanEval(
        path=str(DATA / "humaneval" / "HumanEval.jsonl.gz"), run_code=True, sampler=SAMPLER, seconds=20.0
    )
    items, begin = benchmark.items(), time.perf_counter()
    assert "run_code = true" in capsys.readouterr().err and len(items) == 164
    judged = benchmark.judge(items, [item.gold for item in items])
    seconds = time.perf_counter() - begin
    assert [item.key for item, j in zip(items, judged, strict=True) if not j.is_correct] == []
    print(f"164 programs in {seconds:.0f} s")
    # As an instruct model answers, and with nothing to say.
    few = items[:6]
    fenced = [f"Here it is:\n```python\n{item.question}{item.gold}```\nIt works." for item in few]
    assert all(j.is_correct for j in benchmark.judge(few, fenced))
    empty = benchmark.judge(few, ["    pass\n"] * 6)
    assert not any(j.is_correct for j in empty) and empty[0].note.startswith("failed: AssertionError")


@needs("bbh")
@pytest.mark.parametrize(
    "phrase", ["{}", " {}.", "Two and three. So the answer is {}.", "the answer is: {}\n\nQ: next"]
)
def test_bbh_gold_answers_are_right_and_others_wrong(phrase):
    benchmark = Bbh(path=str(DATA / "bbh"), sampler=SAMPLER)
    items = benchmark.items()
    assert len(items) == 1000 and {item.group for item in items} >= {"web_of_lies", "object_counting"}
    assert all(j.is_correct for j in benchmark.judge(items, [phrase.format(item.gold) for item in items]))
    assert not any(j.is_correct for j in benchmark.judge(items, [phrase.format("(Z)") for _ in items]))


@needs("bbh")
def test_bbh_examples_are_not_scored():
    benchmark = Bbh(path=str(DATA / "bbh"), n_shots=3, n_items=5, sampler=SAMPLER)
    items = benchmark.items()
    assert len(items) == 20 and items[0].key == "boolean_expressions/4"
    text = benchmark.prompt(items[0])
    shots = benchmark.settings()["shots"]
    assert len(shots) == 12 and shots[:3] == [f"boolean_expressions/{n}" for n in (1, 2, 3)]
    assert text.count("Q: ") == 4 and text.count("the answer is ") == 3 and text.endswith(f"Q: {items[0].question}\nA:")


def test_bbh_published_examples(tmp_path):
    path = write(tmp_path / "counting.json", {"examples": [{"input": "one and one?", "target": "2"}]})
    (tmp_path / "counting.txt").write_text("a warning\n-----\nQ: none?\nA: the answer is 0.\n")
    benchmark = Bbh(path=path, shots_path=str(tmp_path), sampler=SAMPLER)
    assert benchmark.prompt(benchmark.items()[0]) == "Q: none?\nA: the answer is 0.\n\nQ: one and one?\nA:"
    assert final_answer("it is 3.\nand more") == "it is 3"
    told = benchmark.settings()
    assert told["shots"] == ["counting.txt"] and len(told["sha256"]) == 2
    (tmp_path / "counting.txt").unlink()
    with pytest.raises(FileNotFoundError, match="counting.txt"):
        benchmark.prompt(benchmark.items()[0])


def task(number: int | str, name: str = "f", **changes) -> dict:
    return {
        "task_id": number, "text": f"Write a function {name} that doubles a number.", "code": f"def {name}(x):\r\n    return TWO * x",
        "test_list": [f"assert {name}(2) == 4", f"assert {name}(-1) == -2"], "test_setup_code": "TWO = 2", "challenge_test_list": [],
        **changes,
    }  # fmt: skip


def mbpp(path: str, **settings) -> Mbpp:
    return Mbpp(path=path, run_code=True, sampler=SAMPLER, **{"seconds": 20.0, **settings})


def test_mbpp_gold_answers_pass_and_others_do_not(tmp_path, capsys):
    path = write(tmp_path / "mbpp.jsonl", *[task(n) for n in (1, 2, 3, 4, 11, 12, 510, 511)])
    benchmark = mbpp(path)
    items = benchmark.items()
    assert [item.key for item in items] == [
        "mbpp/11",
        "mbpp/12",
        "mbpp/510",
    ] and "run_code = true" in capsys.readouterr().err
    assert [item.key for item in mbpp(path, split="all").items()] == [*(item.key for item in items), "mbpp/511"]
    said = [
        items[0].gold,
        f"{items[1].gold}\n[DONE]\n\nYou are an expert [BEGIN] nonsense",
        f"<think> ```python\nno\n``` </think> So:\n```python\n{items[2].gold}\n```\nIt works.",
    ]
    assert [j.is_correct for j in benchmark.judge(items, said)] == [True] * 3
    wrong = benchmark.judge(items, ["def f(x): return 4", "def g(x): return 2 * x", ""])
    assert [j.is_correct for j in wrong] == [False] * 3
    assert [j.note.split(":")[1] for j in wrong] == [" AssertionError", " NameError", " NameError"]


def test_mbpp_prompts_are_the_published_ones(tmp_path):
    path = write(tmp_path / "mbpp.jsonl", *[task(n, f"f{n}") for n in (4, 3, 2, 11)])
    benchmark = mbpp(path, n_shots=3)
    text = benchmark.prompt(benchmark.items()[0])
    assert benchmark.settings()["shots"] == ["mbpp/2", "mbpp/3", "mbpp/4"] and benchmark.settings()["split"] == "test"
    assert text.count("You are an expert Python programmer, and here is your task: ") == 4
    assert (
        text.index("assert f2(2)")
        < text.index("assert f3(2)")
        < text.index("assert f4(2)")
        < text.index("assert f11(2)")
    )
    assert text.count("[DONE]\n\n") == 3 and text.endswith("assert f11(-1) == -2\n[BEGIN]\n")
    sanitized = task(11, test_imports=["import math"])
    sanitized["prompt"] = sanitized.pop("text")
    other = mbpp(write(tmp_path / "sanitized.jsonl", sanitized), n_shots=1, shots_path=path)
    assert other.shots() == ["mbpp/2"] and len(other.settings()["sha256"]) == 2
    assert other.program(other.items()[0], "x").startswith("import math\nx\nTWO = 2\nassert")
    chat = mbpp(path, is_chat=True)
    assert chat.prompt(chat.items()[0]).endswith("Give all of your code in one code block.") and chat.shots() == []


@pytest.mark.parametrize(
    ("lines", "settings", "message"),
    [
        ([task(11), task(11)], {}, "line 2; task_id = 11; a whole number of its own"),
        ([task("11")], {}, "line 1; task_id = '11'"),
        ([task(11, test_list=[])], {}, "line 1; an item without test_list"),
        ([task(11, test_list="assert f(1)")], {}, "line 1; an item without test_list"),
        ([task(11, code="")], {}, "line 1; an item without code"),
        ([task(11), "{"], {}, "line 2; not JSON"),
        ([""], {}, "an empty file"),
        ([task(600)], {}, "split = test; .* has no such task among its 1"),
        ([task(3)], {"split": "all"}, "split = all"),
        ([task(11), task(2)], {"n_shots": 2}, "has no task 3, which is an example"),
    ],
)
def test_malformed_mbpp_files_are_named(lines, settings, message, tmp_path):
    benchmark = mbpp(write(tmp_path / "mbpp.jsonl", *lines), **settings)
    with pytest.raises(ValueError, match=message):
        benchmark.prompt(benchmark.items()[0])


GOOD = {"question": "one and one?", "answer": "#### 2"}
PROBLEM = {"task_id": "t/1", "prompt": "def f():\n", "entry_point": "f", "test": "def check(c): pass"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([GOOD, "{"], "line 2; not JSON"),
        ([GOOD, GOOD, "[1]"], "line 3; list, not an object"),
        ([GOOD, {"question": "two?"}], "line 2; an item without answer"),
        ([GOOD, {"question": "two?", "answer": ""}], "line 2; an item without answer"),
        ([{"question": 3, "answer": "3"}], "line 1; an item with no text as question"),
        ([{"question": "two?", "answer": "two"}], "line 1; an answer without a number"),
        ([""], "an empty file"),
    ],
)
def test_malformed_gsm8k_files_are_named(lines, message, tmp_path):
    path = write(tmp_path / "test.jsonl", *lines)
    with pytest.raises(ValueError, match=message):
        Gsm8k(path=path, sampler=SAMPLER).items()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([PROBLEM, {**PROBLEM, "test": None}], "line 2; an item without test"),
        ([{**PROBLEM, "entry_point": "g"}], "line 1; the prompt has no def g"),
    ],
)
def test_malformed_humaneval_files_are_named(lines, message, tmp_path):
    path = write(tmp_path / "problems.jsonl", *lines)
    with pytest.raises(ValueError, match=message):
        HumanEval(path=path, run_code=True, sampler=SAMPLER).items()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"kind.json, line .; not JSON"),
        ("{}", "no list of examples"),
        ('{"examples": [{"input": "a", "target": "b"}, {"input": "a"}]}', "example 2; an item without target"),
    ],
)
def test_malformed_bbh_files_are_named(text, message, tmp_path):
    path = write(tmp_path / "kind.json", text)
    with pytest.raises(ValueError, match=message):
        Bbh(path=path, sampler=SAMPLER).items()


def test_files_that_are_not_there_or_not_text(tmp_path):
    for benchmark in (Gsm8k, Bbh):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            benchmark(path=str(tmp_path / "nowhere"), sampler=SAMPLER).items()
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(b"no gzip")
    with pytest.raises(ValueError, match="not a text file"):
        Gsm8k(path=str(packed), sampler=SAMPLER).items()
    whole = gzip.compress(json.dumps(GOOD).encode())
    packed.write_bytes(whole[:20] + bytes([whole[20] ^ 255]) + whole[21:])
    with pytest.raises(ValueError, match="not a text file"):
        Gsm8k(path=str(packed), sampler=SAMPLER).items()
    packed.write_bytes(whole)
    assert len(Gsm8k(path=str(packed), sampler=SAMPLER).items()) == 1
    shots = Gsm8k(path=str(packed), n_shots=1, sampler=SAMPLER)
    with pytest.raises(FileNotFoundError, match="train.jsonl"):
        shots.prompt(shots.items()[0])
    with pytest.raises(ValueError, match="n_shots = 2; .* has fewer; at most 1"):
        Gsm8k(path=str(packed), n_shots=2, shots_path=str(packed), sampler=SAMPLER).prompt(shots.items()[0])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Gsm8k(path="a", n_shots=8, is_chat=True, sampler=SAMPLER), "n_shots = 8; has no effect with is_chat"),
        (lambda: Gsm8k(path="a", n_shots=-1, sampler=SAMPLER), "n_shots = -1"),
        (lambda: Gsm8k(path="a", shots_path="b", sampler=SAMPLER), "shots_path = b; has no effect"),
        (lambda: Gsm8k(path="a", n_items=0, sampler=SAMPLER), "n_items = 0"),
        (lambda: Gsm8k(path="a", batch_size=0, sampler=SAMPLER), "batch_size = 0"),
        (lambda: HumanEval(path="a", n_shots=1, sampler=SAMPLER), "HumanEval shows no examples"),
        (lambda: HumanEval(path="a", seconds=0.0, sampler=SAMPLER), "seconds = 0.0"),
        (lambda: HumanEval(path="a", sampler=SAMPLER).items(), "run_code = false; .*run_code=true"),
        (lambda: HumanEval(path="a", n_workers=0, sampler=SAMPLER), "n_workers = 0"),
        (lambda: Mbpp(path="a", n_shots=4, sampler=SAMPLER), "n_shots = 4; the published prompt has 3"),
        (lambda: Mbpp(path="a", split="train", sampler=SAMPLER), "split = 'train'; not a part of the benchmark"),
        (lambda: Mbpp(path="a", shots_path="b", sampler=SAMPLER), "shots_path = b; has no effect"),
        (lambda: Mbpp(path="a", sampler=SAMPLER).items(), "run_code = false; Mbpp is scored by"),
        (lambda: Bbh(path="a", shots_path="b", n_shots=1, sampler=SAMPLER), "shots_path = b"),
    ],
)
def test_settings_that_cannot_be_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
