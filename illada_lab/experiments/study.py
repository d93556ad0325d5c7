"""What an experiment of the paper is here: claims, and a run that measures them for one seed."""

import ast
import inspect
import json
import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

from illada_lab.experiments.claims import Claim
from illada_lab.experiments.lab import Lab

Rows = list[dict[str, Any]]


@dataclass
class Outcome:
    """What one seed measured.

    Attributes:
        tables: tidy tables by name, one dict per row (`pandas.DataFrame(rows)` reads them).
        effects: claim id -> effect, in the claim's unit.
        rooms: claim id -> largest effect that could have shown, where there is a limit.
    """

    tables: dict[str, Rows] = field(default_factory=dict)
    effects: dict[str, float] = field(default_factory=dict)
    rooms: dict[str, float] = field(default_factory=dict)


@runtime_checkable
class Study(Protocol):
    """An experiment of the paper: one file here, one YAML in conf/study, one paragraph of a notebook."""

    title: ClassVar[str]
    """What it is about, in a line."""
    claims: ClassVar[tuple[Claim, ...]]
    """What it tests."""
    trains_many: ClassVar[bool]
    """Whether it trains several models from nothing for each seed."""

    def run(self, lab: Lab) -> Outcome:
        """Measure everything for the lab's seed; `effects` has an entry for each claim."""
        ...


def check_study(study: Any, name: str) -> None:
    """See what can be seen of a study before hours are spent on it.

    Args:
        study: built.
        name: of the study.

    Raises:
        ValueError: it is no `Study`, its claims cannot be told apart or written down, or its `run` writes out ids of no claim.
    """
    kind = type(study)
    told = f"study = {name}; {kind.__module__}.{kind.__qualname__}"
    if missing := [part for part in (*Study.__annotations__, "run") if not hasattr(study, part)]:
        raise ValueError(
            f"{told} has no {', '.join(missing)}; a study has title, claims, trains_many (true or false) and run(lab)"
        )
    claims = study.claims
    if not isinstance(claims, Sequence) or not all(isinstance(claim, Claim) for claim in claims):
        raise ValueError(f"{told}.claims is not what it tests; a tuple of Claim: (Claim(...),)")
    ids = [claim.id for claim in claims]
    if twice := sorted({one for one in ids if ids.count(one) > 1}):
        raise ValueError(f"{told} has several claims {', '.join(twice)}; an id of its own for each")
    for claim in claims:
        try:
            json.dumps(vars(claim), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{told}, claim {claim.id}: {error}; texts, and finite numbers: float(...)") from None
    if unknown := [one for one in _written_ids(kind) if one not in ids]:
        raise ValueError(f"{told}.run measures {', '.join(unknown)}, which no claim is called; {', '.join(ids)}")


def _written_ids(kind: type) -> Iterator[str]:
    """Ids that the method `run` writes out, as `Outcome(effects={"gain": ...})`; ids that it computes are not known before."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind.run)))  # type: ignore[attr-defined]
    except (OSError, TypeError, SyntaxError, AttributeError):  # typed into a console, or no Python
        return
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and ast.unparse(call.func).rpartition(".")[2] == Outcome.__name__:
            for given in call.keywords:
                if given.arg in ("effects", "rooms") and isinstance(given.value, ast.Dict):
                    yield from (str(key.value) for key in given.value.keys if isinstance(key, ast.Constant))


def checked(outcome: Any, claims: Sequence[Claim], name: str, seed: int) -> Outcome:
    """What a study has measured as plain numbers, an effect for each claim.

    Args:
        outcome: of its `run`; numbers of numpy and torch are taken as well.
        claims: of the study.
        name: of the study.
        seed: of the run.

    Raises:
        ValueError: a claim without an effect, an effect without a claim, or what is no finite number; names study, claim and seed.
    """
    told, ids = f"study = {name}; seed {seed}", [claim.id for claim in claims]
    if not isinstance(outcome, Outcome):
        raise ValueError(f"{told}: run returned {type(outcome).__name__}; an Outcome")
    problems = []
    if missing := [one for one in ids if one not in outcome.effects]:
        problems.append(f"no effect of {', '.join(missing)}")
    for kind, values in (("effects", outcome.effects), ("rooms", outcome.rooms)):
        if unknown := [str(one) for one in values if one not in ids]:
            problems.append(f"{kind} of {', '.join(unknown)}, which no claim is called")
    if problems:
        raise ValueError(f"{told} measured {' and '.join(problems)}; an effect for each of {', '.join(ids)}")
    return Outcome(
        {table: _plain(rows, f"{told}: table {table}") for table, rows in outcome.tables.items()},
        {one: _number(value, f"{told}: effect of {one}") for one, value in outcome.effects.items()},
        {one: _number(value, f"{told}: room of {one}") for one, value in outcome.rooms.items()},
    )


def _number(value: Any, told: str) -> float:
    """A finite number; JSON has no other."""
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several numbers
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{told} = {' '.join(repr(value).split())[:60]}; cannot be judged; a finite number")
    return number


def _plain(value: Any, told: str) -> Any:
    """What JSON can hold, of numbers in whatever library's classes."""
    if isinstance(value, dict):
        # A key of numpy's is none for JSON.
        pairs = [(key if isinstance(key, str) else _plain(key, told), inner) for key, inner in value.items()]
        return {key: _plain(inner, f"{told}, {key}") for key, inner in pairs}
    if isinstance(value, list | tuple):
        return [_plain(inner, f"{told}, {i}") for i, inner in enumerate(value)]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{told} = {value}; results hold no such number; a finite one, or None")
        return float(value)
    if value is None or isinstance(value, str | int):
        return value
    if hasattr(value, "tolist"):
        return _plain(value.tolist(), told)
    raise ValueError(f"{told} is {type(value).__name__}; results hold numbers, texts, lists and dicts; one of them")
