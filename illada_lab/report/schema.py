"""Schema 1 of the results of the main job: plain data that JSON can hold.

`?` stands behind what may be missing or null. A part that is missing is a sentence in the report; keys beyond these are
kept and not shown. NaN and infinity become null: JSON has no word for them, and a curve shows a gap.

- `schema`: 1.
- `manifest`: command?, commit?, scale?, seed?, seconds?, date?, precision?, is_compiled?, machine? {name: value},
  versions? {package: version}.
- `sections`?: which of results, loss, player, samples, health the page has; missing: all, and what was not measured is said.
- `side_by_side`?: of a page of several runs: names: list of text; settings and outcome: lists of name and values (text, one
  of each run); notes: list of text.
- `config`?: {stage: resolved configuration, plain data}.
- `parameters`?: total, non_embedding?.
- `stages`?: list of
    - name, seconds?, tokens?, tokens_per_second?, tokens_per_step?;
    - train_curve?: list of step, loss? (nats/token), lr?;
    - validation_curve?: list of step, kind, nelbo_per_token? (nats/token), stderr?;
    - entropy_per_token?: {kind: nats/token}, the exact entropy of the world;
    - over_entropy?: {kind: bound / entropy - 1}; worked out from the last validation where it is missing;
    - t_bins?: list of t_low, t_high, loss? (nats/token), ci_low?, ci_high?, n?, kind?.
- `tables`?: list of title, model, and rows: list of task, metric, value? (a share in [0, 1], or any number with
  a `unit`), ci_low?, ci_high?, n?, chance?, target? (reached from there upwards), note?, unit? (missing: a share).
- `samples`?: list of model, kind, text, prompt?, answer?, is_correct?.
- `health`?: list of name, value? (text or number), note?, is_warning?.
- `traces`?: list of
    - title, model, prompt_tokens: list of text, tokens: list of text (the response at the end), mask? ("▢"),
      block_length?, sampler? (a phrase about how it was drawn);
    - is_growing?: blocks are appended one at a time (variable length): masks of later blocks are not there yet;
    - given?: list of position, token: what stands in the response before the first step (a text with holes);
    - records: list of step, position (in the response, from 0), token? (null: goes back to a mask), confidence?,
      runner_up?, runner_up_confidence?, nfe? (passes so far).
- `claims`?: list of sentence, verdict ("replicated", "not replicated" or "inconclusive"), id?, source?, metric?,
  effect?, ci_low?, ci_high?.
"""

import math
from collections.abc import Iterator
from typing import Any

SCHEMA = 1
TEXT, NUMBER, COUNT, FLAG, ANY = "text", "a number", "a whole number from 0", "true or false", "anything"
SECTIONS = ("results", "loss", "player", "samples", "health")
VERDICTS = ("replicated", "not replicated", "inconclusive")


def _object(*, text: str = "", number: str = "", count: str = "", flag: str = "", **parts: Any) -> dict[str, Any]:
    """The layout of an object: names of its leaves by kind, and its parts."""
    leaves = ((TEXT, text), (NUMBER, number), (COUNT, count), (FLAG, flag))
    return {name: kind for kind, names in leaves for name in names.split()} | parts


ANY_KEYS = {"*": ANY}
NUMBERS = {"*": NUMBER}
INTERVAL = "ci_low? ci_high?"

_T_BIN = _object(number=f"t_low t_high loss? {INTERVAL}", count="n?", text="kind?")
_STAGE = _object(
    text="name",
    number="seconds? tokens? tokens_per_second? tokens_per_step?",
    **{
        "train_curve?": [_object(number="step loss? lr?")],
        "validation_curve?": [
            _object(number="step nelbo_per_token? stderr? usual_low? usual_high?", count="n_recorded?", text="kind")
        ],
        "landmarks?": NUMBERS,
        "entropy_per_token?": NUMBERS,
        "over_entropy?": NUMBERS,
        "t_bins?": [_T_BIN],
    },
)
_ROW = _object(text="task metric note? unit?", number=f"value? {INTERVAL} chance? target?", count="n?")
_RECORD = _object(count="step position nfe?", text="token? runner_up?", number="confidence? runner_up_confidence?")
_BESIDE = _object(text="name", values=[TEXT])
_TRACE = _object(
    text="title model mask? sampler?",
    count="block_length?",
    flag="is_growing?",
    prompt_tokens=[TEXT],
    tokens=[TEXT],
    records=[_RECORD],
) | {"given?": [_object(count="position", text="token")]}

# A list holds the layout of its entries; {"*": x} has any keys.
LAYOUT: dict[str, Any] = {
    "manifest": _object(
        text="command? commit? scale? date? precision?",
        count="seed?",
        number="seconds?",
        flag="is_compiled?",
        **{"machine?": ANY_KEYS, "versions?": ANY_KEYS},
    ),
    "sections?": [TEXT],
    "side_by_side?": _object(names=[TEXT], settings=[_BESIDE], outcome=[_BESIDE], notes=[TEXT]),
    "config?": ANY_KEYS,
    "parameters?": _object(count="total non_embedding?"),
    "stages?": [_STAGE],
    "tables?": [_object(text="title model", rows=[_ROW])],
    "samples?": [_object(text="model kind text prompt? answer?", flag="is_correct?")],
    "health?": [_object(text="name note?", flag="is_warning?", **{"value?": ANY})],
    "traces?": [_TRACE],
    "claims?": [_object(text="sentence verdict id? source? metric?", number=f"effect? {INTERVAL}")],
}


def checked(results: Any) -> dict[str, Any]:
    """Results as plain data, after `check_results`."""
    results = _plain(results)
    check_results(results)
    return results


def check_results(results: Any) -> None:
    """Compare results with the schema.

    Raises:
        ValueError: what is wrong first, in one line.
    """
    if not isinstance(results, dict) or results.get("schema") != SCHEMA:
        found = _short(results.get("schema")) if isinstance(results, dict) else type(results).__name__
        raise ValueError(f"results.schema = {found}; not a schema this version reads; {SCHEMA}")
    _check(results, LAYOUT, "results")
    for path, value, wrong, legal in _misfits(results):
        raise ValueError(f"results.{path} = {_short(value)}; {wrong}; {legal}")


def _misfits(results: dict[str, Any]) -> Iterator[tuple[str, Any, str, str]]:
    """What is of the right kind and cannot be: path, value, what is wrong, what is legal."""
    for i, section in enumerate(results.get("sections") or ()):
        if section not in SECTIONS:
            yield f"sections[{i}]", section, "not a section", ", ".join(SECTIONS)
    beside = results.get("side_by_side") or {"names": []}
    for part in ("settings", "outcome"):
        for i, row in enumerate(beside.get(part) or ()):
            if len(row["values"]) != len(beside["names"]):
                yield (
                    f"side_by_side.{part}[{i}].values",
                    row["values"],
                    "not one of each run",
                    f"{len(beside['names'])} values",
                )
    for i, table in enumerate(results.get("tables") or ()):
        for j, row in enumerate(table["rows"]):
            if row.get("unit") is None and not 0 <= (row.get("value") or 0) <= 1:
                yield f"tables[{i}].rows[{j}].value", row["value"], "not a share", "0 to 1, or any number with a unit"
    for i, trace in enumerate(results.get("traces") or ()):
        n = len(trace["tokens"])
        for j, record in enumerate(trace["records"]):
            if record["position"] >= n:
                path = f"traces[{i}].records[{j}].position"
                yield path, record["position"], "behind the response", f"0 to {n - 1}" if n else "a trace with tokens"
    for i, claim in enumerate(results.get("claims") or ()):
        if claim["verdict"] not in VERDICTS:
            yield f"claims[{i}].verdict", claim["verdict"], "not a verdict", ", ".join(VERDICTS)


def _plain(value: Any) -> Any:
    """Dictionaries, lists, text, numbers, booleans and null; numbers that are not finite as null."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if not isinstance(value, str | bool | int | float | None) and hasattr(value, "item"):
        value = value.item()  # a scalar of numpy or torch
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, bool | int | None):
        return value
    # Half of a surrogate pair (a tokenizer's broken bytes) cannot be written as UTF-8.
    return str(value).encode("utf-8", "replace").decode("utf-8")


def _check(value: Any, layout: Any, path: str) -> None:
    """Walk value and layout together."""
    if isinstance(layout, list):
        if not isinstance(value, list):
            raise ValueError(f"{path} = {_short(value)}; {_kind(value)}; a list")
        for i, entry in enumerate(value):
            _check(entry, layout[0], f"{path}[{i}]")
    elif isinstance(layout, dict):
        if not isinstance(value, dict):
            raise ValueError(f"{path} = {_short(value)}; {_kind(value)}; an object")
        # Keys of our own choice may be null, as what ends in "?" may.
        keys = {f"{name}?": layout["*"] for name in value} if "*" in layout else layout
        for key, inner in keys.items():
            name, is_optional = key.removesuffix("?"), key.endswith("?")
            if value.get(name) is not None:
                _check(value[name], inner, f"{path}.{name}")
            elif not is_optional:
                found, legal = "null" if name in value else "missing", _legal(inner)
                raise ValueError(f"{path}.{name} = {found}; must be there; {legal}")
    elif not _fits(value, layout):
        raise ValueError(f"{path} = {_short(value)}; {_kind(value)}; {layout}")


def _fits(value: Any, layout: str) -> bool:
    """Whether a leaf is what the layout says."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return {
        TEXT: isinstance(value, str),
        NUMBER: is_number,
        COUNT: is_number and value >= 0 and value == int(value),
        FLAG: isinstance(value, bool),
        ANY: True,
    }[layout]


def _legal(layout: Any) -> str:
    return layout if isinstance(layout, str) else "a list" if isinstance(layout, list) else "an object"


def _kind(value: Any) -> str:
    """The type of a value in JSON's words."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null" if value is None else type(value).__name__)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
