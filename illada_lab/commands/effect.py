"""Which settings a command reads: one that it does not read is refused, and not passed over."""

import re
from collections.abc import Mapping, Sequence


def refuse_without_effect(
    command: str, overrides: Sequence[str], used: Sequence[str], instead: Mapping[str, str] | None = None
) -> list[str]:
    """The overrides, all of which the command reads; what is no setting at all is left to `compose`, which knows what is near.

    Args:
        command: its name.
        overrides: as on the command line.
        used: settings it reads: first parts of keys, or whole ones.
        instead: of some keys what to write in their place, with {value}; of the others that is `used`.

    Raises:
        ValueError: some have no effect; all of them, one line each.
    """
    from illada_lab.config import root_keys

    problems, known = [], root_keys()
    for word in overrides:
        key, _, value = word.lstrip("+~").partition("=")
        top = re.split(r"[.@\[]", key, maxsplit=1)[0]
        # A new key (+) is composed whatever it is.
        if not {key, top} & set(used) and (top in known or word.startswith("+")):
            hint = (instead or {}).get(key)
            hint = f"{command} reads {', '.join(used)}" if hint is None else hint.format(value=value)
            problems.append(f"{key} = {value}; has no effect on {command}; {hint}")
    if problems:
        raise ValueError("\n".join(problems))
    return list(overrides)
