"""Whether plain values from YAML can be what a constructor's annotations say."""

import collections.abc
import inspect
import re
import types
import typing
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

SEQUENCES = (
    list,
    tuple,
    set,
    frozenset,
    collections.abc.Sequence,
    collections.abc.Iterable,
    collections.abc.Collection,
)
MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
SCALARS = (bool, int, float, str)


def annotations(called: Callable[..., Any]) -> dict[str, Any]:
    """Types of the arguments; empty where they need names that only type checkers have."""
    try:
        return typing.get_type_hints(called.__init__ if inspect.isclass(called) else called)
    except Exception:
        return {}


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value (number, text, bool, None, list, dict) can be what an annotation says.

    Ints pass as floats; bools pass as bools only. A class of our own needs a node with a `_target_`, not a plain value.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or hint is object or isinstance(hint, str | typing.TypeVar):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in arguments)
    if origin is typing.Literal:
        return any(value == a and type(value) is type(a) for a in arguments)
    if origin in (typing.Annotated, typing.Final, typing.ClassVar):
        return fits(value, arguments[0])
    if hint is None or hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint in SCALARS:
        return type(value) is hint
    if origin in SEQUENCES or hint in SEQUENCES:
        return _fits_sequence(value, origin or hint, arguments)
    if origin in MAPPINGS or hint in MAPPINGS:
        return isinstance(value, dict) and (len(arguments) != 2 or all(fits(v, arguments[1]) for v in value.values()))
    if isinstance(hint, type) and issubclass(hint, PurePath):
        return isinstance(value, str)
    # A class, a protocol, a callable: what a plain value never is. A mapping may be a node that is built elsewhere.
    return isinstance(value, dict)


def _fits_sequence(value: Any, kind: Any, arguments: tuple[Any, ...]) -> bool:
    if not isinstance(value, list | tuple):
        return False
    if kind is tuple and arguments and Ellipsis not in arguments:
        return len(value) == len(arguments) and all(fits(v, a) for v, a in zip(value, arguments, strict=True))
    return not arguments or all(fits(v, arguments[0]) for v in value)


def choices(hint: Any) -> list[Any]:
    """The values that an annotation lists."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return [choice for part in arguments for choice in choices(part)]
    return list(arguments) if origin is typing.Literal else []


def unfit(value: Any, hint: Any, called: str) -> str:
    """Why a value cannot be what an annotation says.

    Args:
        value: does not fit.
        hint: the annotation.
        called: name of what has it.
    """
    if any(type(choice) is type(value) for choice in choices(hint)):
        return "not one of its choices"
    return f"{name_of(type(value))} is not what {called} takes"


def nearest_value(value: Any, hint: Any) -> str:
    """What could stand there instead: the type, and the value in it where it is clear (10000.0 -> 10000)."""
    if type(value) is float and value.is_integer() and fits(int(value), hint):
        return f"{int(value)}"
    parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    is_built = any(isinstance(part, type) and part.__module__.startswith("illada_lab") for part in parts)
    # A part of ours is named by its class, with its settings.
    return name_of(hint) + (
        ", as {_target_: its dotted path, setting: value}" if is_built and isinstance(value, str) else ""
    )


def name_of(hint: Any) -> str:
    """An annotation as users write values: null for None, alternatives in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(name_of(part) for part in arguments)
    if origin is typing.Literal:
        return " or ".join(str(a) for a in arguments)
    if hint is None or hint is type(None):
        return "null"
    if isinstance(hint, type) and not arguments:
        plain = {
            int: "a whole number",
            float: "a number",
            str: "text",
            bool: "true or false",
            list: "a list",
            dict: "a node",
        }
        return plain.get(hint, hint.__name__)
    return re.sub(r"typing\.|collections\.abc\.", "", str(hint)).replace("NoneType", "null")


def shown(value: Any) -> str:
    """A plain value as it stands in YAML."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return repr(value)
