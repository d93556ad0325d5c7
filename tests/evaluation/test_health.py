import pytest

from illada_lab.evaluation import health as module
from illada_lab.evaluation.generation import Generated
from illada_lab.evaluation.health import _loops, eos_shares, health
from illada_lab.tokens import ILLADA

EOS = ILLADA.eos


def one(text, reason="eos", trace=()):
    return Generated(text, reason, nfe=4, n_tokens=len(text.split()), trace=list(trace))


def panel(*generations):
    return {row["name"]: row for row in health(generations, 1.0, ILLADA)}


def test_health_warns_of_empty_and_looping_answers():
    good = panel(one("rome"), one("4"))
    assert not any(row["is_warning"] for row in good.values()) and good["passes per answer"]["value"] == "4.0"
    bad = panel(one(""), one("a b a b a b", "length"), one("x", "length"))
    assert bad["empty answers"]["is_warning"] and bad["answers with a loop"]["is_warning"]
    assert bad["stop reasons"]["is_warning"] and bad["stop reasons"]["value"] == "length 66.7%, eos 33.3%"


def test_the_known_pattern_is_called_by_its_name():
    assert "most answers are EOS or blanks only" in panel(one(""), one(""), one("x"))["empty answers"]["note"]
    assert "most answers are EOS or blanks only" not in panel(one(""), one("x"), one("x"))["empty answers"]["note"]


def test_where_and_when_eos_comes():
    """Two rows of four tokens: EOS at the last two places, revealed first by one and last by the other."""
    places = [0, 1, 2, 3]
    first = [dict(position=p, step=s, token=EOS if p > 1 else 9) for p, s in zip(places, [3, 4, 1, 2], strict=True)]
    last = [dict(position=p, step=s, token=EOS if p > 1 else 9) for p, s in zip(places, [11, 12, 13, 14], strict=True)]
    generations = [one("a b", trace=first), one("a b", trace=last)]
    shares = eos_shares(generations, ILLADA, n_bins=4)
    assert shares == {"by_position": [0.0, 0.0, 1.0, 1.0], "by_step": [0.5, 0.5, 0.5, 0.5]}
    assert panel(*generations)["EOS by position"]["value"].endswith("0% to 100%")
    assert eos_shares([one("a")], ILLADA, n_bins=2) == {"by_position": [None] * 2, "by_step": [None] * 2}
    assert panel(one("a"))["EOS by step"]["value"] == "no trace"


@pytest.mark.parametrize("n", [0, 1])
def test_health_of_next_to_nothing(n):
    assert panel(*[one("rome")] * n)


def test_the_panel_explains_its_pictures():
    """A bar chart of one line says nothing by itself; "no trace" needs no word."""
    trace = [{"position": 0, "step": 1, "token": 9}, {"position": 1, "step": 2, "token": EOS}]
    told = module.panel(health([one("x", trace=trace)], 1.0, ILLADA)).splitlines()
    assert sum("from the first tenth of the" in line for line in told) == 2
    told = module.panel(health([one("x")], 1.0, ILLADA)).splitlines()
    assert sum("no trace" in line for line in told) == 2 and "tenth" not in "".join(told)


@pytest.mark.parametrize(
    ("text", "is_loop"),
    [
        ("a b a b a b", True),
        ("so so so", True),
        ("a b a b a c", False),
        ("<assistant>" * 8, True),
        ("哈" * 8, True),
        ("aaaaaaaaaaaa", True),
        ("11111111", True),
        ("good", False),
        ("----------------", False),
        ("banana", False),
    ],
)
def test_loops_are_seen_in_words_and_inside_of_them(text, is_loop):
    assert _loops(text) is is_loop


def test_blanks_are_no_answer():
    rows = health([Generated(text, "length", 4, 4, []) for text in ("    ", "\n\n", "so")], 1.0, ILLADA)
    assert next(row["value"] for row in rows if row["name"] == "empty answers") == "66.7%"
