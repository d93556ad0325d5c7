"""Further task types on the world as it is: equations with a hole, reversal in all directions, functions that are run.

| here | there |
|---|---|
| an equation with an operand missing | BBH: symbolic reasoning |
| a book's author: told, asked the other way round, and as a hole in the told sentence | LLaDA's reversal experiment |
| worked sums as functions, run on other numbers | HumanEval, MBPP: function synthesis |

The world has no words for programs, and its texts stay as they are, so a function is what a worked answer says, read as code.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from illada_lab.data.tokenizer import Tokenizer
from illada_lab.data.worlds import World, sums
from illada_lab.data.worlds.facts import REVERSE_STATEMENTS
from illada_lab.evaluation.choice import ChoiceItem, choose
from illada_lab.evaluation.generation import Generated, generate
from illada_lab.evaluation.masked import looks_back
from illada_lab.evaluation.world_choices import Frame
from illada_lab.models.protocol import Predictor
from illada_lab.samplers import Infill

HOLE = "___"


@dataclass(frozen=True)
class Hole:
    """A sentence with one word missing.

    Attributes:
        text: the sentence, `___` where the word is missing.
        answer: the word.
        pool: words of its kind, the answer among them.
    """

    text: str
    answer: str
    pool: tuple[str, ...]


def equations(n: int, draw: random.Random) -> list[Hole]:
    """Sums with one operand missing: the answer is the result less the other, which no text of the world says in these words."""
    digits = tuple(str(i) for i in range(10))
    found = []
    for item in sums.all_sums():
        found.append(Hole(f"{HOLE} + {item.b} = {item.answer} .", str(item.a), digits))
        found.append(Hole(f"{item.a} + {HOLE} = {item.answer} .", str(item.b), digits))
    return draw.sample(found, min(n, len(found)))


def told_holes(world: World, n: int) -> list[Hole]:
    """ "ada wrote sunrise ." with the name missing, of people whose book is only told in this direction."""
    names = tuple(person.name for person in world.lexicon.people)
    people = [person for person in world.lexicon.people if person.is_one_way]
    return [Hole(f"{HOLE} wrote {person.book} .", person.name, names) for person in people][:n]


def told_statements(world: World, n: int) -> list[tuple[str, str]]:
    """The same people asked in the direction that is told: (text up to the answer, answer)."""
    return [(f"{p.name} wrote", p.book) for p in world.lexicon.people if p.is_one_way][:n]


def reversed_statements(world: World, n: int) -> list[tuple[str, str]]:
    """And in the other one, in the words in which two-way people's books are told: (text up to the answer, answer)."""
    head = REVERSE_STATEMENTS[0].partition(" {name}")[0]
    return [(head.format(book=p.book), p.name) for p in world.lexicon.people if p.is_one_way][:n]


def fill(
    predictor: Predictor, tokenizer: Tokenizer, holes: Sequence[Hole], frame: Frame | None = None
) -> list[tuple[bool, Generated | None, str]]:
    """Fill the holes: whether right, what was written, and the word.

    A mask predictor sees both sides and writes the word. An autoregressive model cannot look ahead: it takes the word of the pool with
    which the whole sentence is most likely, which is the best it can do and needs a pass for each word.

    Args:
        predictor: the model.
        tokenizer: its tokenizer.
        holes: sentences.
        frame: what stands around a sentence; None: BOS and EOS.
    """
    tokens = tokenizer.tokens
    frame = frame or Frame(tokens)

    def ids(hole: Hole, word: str | None) -> list[int]:
        before, _, after = hole.text.partition(HOLE)
        middle = [tokens.mask] if word is None else tokenizer.encode_known(word)
        return frame.behind([*tokenizer.encode_known(before), *middle, *tokenizer.encode_known(after)])

    if looks_back(predictor):
        items = [ChoiceItem(frame.front([]), [ids(h, word) for word in h.pool], h.pool.index(h.answer)) for h in holes]
        chosen = choose(predictor, items, "chain_rule")
        return [(got == item.answer, None, h.pool[got]) for got, item, h in zip(chosen, items, holes, strict=True)]
    written, _ = generate(predictor, tokenizer, [frame.front(ids(h, None)) for h in holes], Infill())
    found = []
    for hole, g in zip(holes, written, strict=True):
        # The one place in which the written sentence may differ from the given one.
        place = hole.text.split().index(HOLE)
        words = g.text.split()[len(frame.front(ids(hole, None))) - len(ids(hole, None)) :]
        word = words[place] if place < len(words) else ""
        found.append((word == hole.answer, g, word))
    return found


def function_of(question: str, response: str) -> str | None:
    """A worked answer to a word sum as a Python function of the question's three numbers; None: it has no steps.

    A number of a step is the result of the step before where it equals it, otherwise the number of the question that it equals and that
    was not used yet, otherwise itself: so a step copied from nowhere computes something else on other numbers.

    >>> print(function_of("tom has 3 nuts . mia gives 2 and leo gives 4 .", "3 + 2 = 5 . 5 + 4 = 9 . the answer is 9"))
    def f(a, b, c):
        s1 = a + b
        s2 = s1 + c
        return s2
    <BLANKLINE>
    """
    free = list(zip([word for word in question.split() if word.isdigit()], "abc", strict=False))
    lines: list[str] = []
    last: tuple[str, str] | None = None

    def name_of(number: str) -> str:
        nonlocal last
        if last is not None and last[0] == number:
            result, last = last[1], None
            return result
        own = next((pair for pair in free if pair[0] == number), None)
        if own is None:
            return number
        free.remove(own)
        return own[1]

    for sentence in response.split(" . "):
        words = sentence.split()
        if len(words) == 5 and words[1] == "+" and words[3] == "=" and all(words[i].isdigit() for i in (0, 2, 4)):
            lines.append(f"s{len(lines) + 1} = {name_of(words[0])} + {name_of(words[2])}")
            last = (words[4], f"s{len(lines)}")
    if not lines:
        return None
    return "def f(a, b, c):\n" + "".join(f"    {line}\n" for line in [*lines, f"return s{len(lines)}"])


def tested(function: str | None) -> str:
    """A program that runs a function on numbers of its own and fails where a result is wrong."""
    cases = ((1, 2, 3), (9, 0, 4), (5, 7, 11), (20, 30, 60))
    checks = [f"assert f({a}, {b}, {c}) == {a + b + c}" for a, b, c in cases]
    return "\n".join([function or "raise ValueError('no function')", *checks])
