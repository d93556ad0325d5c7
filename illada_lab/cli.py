"""`illada-lab`: the commands. Everything they do can be called from a notebook too."""

import difflib
import errno
import importlib
import itertools
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType

from illada_lab.usage import COMMANDS, FLAGS, TAKE_FILES, usage

# What a command uses where nothing is chosen: answers end where they end, holes are filled where they are.
USUAL = {"infill": "sampler=infill", "chat": "sampler=variable_length"}
FREE_TEXT = ("prompt", "text")
PRINT_JSON = ("doctor", "plan", "sample", "infill", "chat", "report")
# What the loader says of a library in torch's cache that is not whole.
BROKEN_CODE = re.compile(r"(\S+\.so): file too short")
SHORT = {"-m": "--multirun", "-h": "--help"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: words of the command line behind the program's name; None: this process's.

    Returns:
        Exit status: 0; 2 for input that cannot be used; 1 for a run that failed; 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    flags = {SHORT.get(a, a) for a in arguments if a.startswith("-")}
    words = [a for a in arguments if not a.startswith("-")]
    try:
        if os.getcwd() not in sys.path:  # last: what lies there by chance must not stand before a library
            sys.path.append(os.getcwd())
        status = _main(words, flags)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # The reader has gone (illada-lab config | head): nothing to say, and nobody to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        if "--traceback" in flags:
            raise
        return _fail(_say(error), status=2 if isinstance(error, ValueError | FileNotFoundError | ImportError) else 1)


def _main(words: list[str], flags: set[str]) -> int:
    if words[:1] == ["help"] and len(words) > 1 and words[1] not in COMMANDS:
        return _fail(f"help {words[1]}; there is no such command; {_near(words[1], COMMANDS)}")
    if not words or words[0] == "help":
        print(usage(words[1] if len(words) > 1 else None))
        return (
            0
            if words or not flags - {"--help"}
            else _fail(f"{min(flags)}; a flag without a command; {_names(COMMANDS)}")
        )
    command, *overrides = words
    if command not in COMMANDS:
        return _fail(f"command = {command}; there is no such command; {_near(command, COMMANDS)}")
    if unknown := sorted(flags - {*FLAGS, "--help"}):
        return _fail(f"{unknown[0]}; there is no such flag; {_near(unknown[0], FLAGS)}")
    if "--help" in flags:
        print(usage(command))
        return 0
    if "--json" in flags and command not in PRINT_JSON:
        return _fail(f"--json; {command} prints no JSON; {', '.join(PRINT_JSON)}")
    if "--multirun" in flags and command in (
        "doctor",
        "plan",
        "chat",
        "config",
        "trace",
        "report",
        "export",
        "prepare",
    ):
        return _fail(f"--multirun; not with {command}; train, reproduce, evaluate or sample")
    if "--multirun" not in flags:  # there a comma is one between values
        overrides = [_free_text(word) for word in overrides]
    module = importlib.import_module(f"illada_lab.commands.{command}")
    if command == "config" and (status := module.show_files(words[1:])) is not None:
        return status
    if hasattr(module, "translate"):
        overrides = module.translate(overrides)
    if command in USUAL and not any(word.startswith("sampler=") for word in overrides):
        overrides = [USUAL[command], *overrides]
    if "--multirun" in flags:
        return _run_all(module, overrides, is_json="--json" in flags)
    if command in TAKE_FILES and len(words) == 1:
        print(usage(command), file=sys.stderr)
        return 2
    if command in TAKE_FILES:
        return module.run(words[1:], is_json=True) if "--json" in flags else module.run(words[1:])
    from illada_lab.config import compose_and_check

    config = compose_and_check(overrides)
    return module.run(config, is_json=True) if "--json" in flags else module.run(config)


def _free_text(word: str) -> str:
    """An override whose value is text for a model, in Hydra's quotes."""
    from illada_lab.config import quoted

    key, _, value = word.partition("=")
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    if key not in FREE_TEXT or value in ("", "null") or is_quoted:
        return word
    return f"{key}={quoted(value)}"


def _run_all(module: ModuleType, overrides: Sequence[str], *, is_json: bool = False) -> int:
    """Every combination, each in a folder and with a trace file of its own; all are checked before the first starts.

    What they measured is printed once more at the end, side by side. With `is_json` each prints one line, and that is all. Of several
    processes that train together the one that writes speaks.
    """
    from illada_lab.config import ConfigError, compose_and_check

    problems: list[str] = []
    configs = []
    for job, suffix in _combinations(overrides):
        try:
            config = compose_and_check(job)
        except ConfigError as error:
            problems += [line for line in error.problems if line not in problems]
            continue
        if suffix:
            home = module.home(config) if hasattr(module, "home") else config.run_dir
            config.run_dir, config.name = f"{home}/{suffix}", f"{config.name}/{suffix}"
        configs.append((suffix, config))
    if problems:
        raise ConfigError(problems)
    from lightning.pytorch.utilities import rank_zero_only

    traces = [config.trace for _, config in configs]
    for suffix, config in configs:
        if config.trace is not None and traces.count(config.trace) > 1:
            file = Path(config.trace)
            config.trace = str(file.with_stem(f"{file.stem}_{suffix}"))
    found: list[tuple[str, list[dict[str, Any]]]] = []
    try:
        for number, (suffix, config) in enumerate(configs, 1):
            if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
                print(f"[{number}/{len(configs)}] {suffix}", file=sys.stderr)
            if hasattr(module, "measured"):
                found.append((suffix, module.measured(config)))
            elif status := module.run(config, is_json=True) if is_json else module.run(config):
                return status
    finally:  # of those that have ended, where one fails
        if len(found) > 1 and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            from illada_lab.report.tables import print_sweep

            print(f"\n{len(found)} of {len(configs)} jobs")
            print_sweep(found)
    return 0


def _combinations(overrides: Sequence[str]) -> Iterable[tuple[list[str], str]]:
    """The overrides of every job of a sweep, as Hydra's basic sweeper makes them, and a folder name for it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    from illada_lab.config import ConfigError

    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        axes = [
            [f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()]
            if o.is_sweep_override()
            else [o.input_line or ""]
            for o in parsed
        ]
    except HydraException as error:
        raise ConfigError([f"{str(error).splitlines()[0]}; a sweep cannot read it; key=value1,value2"]) from error
    is_swept, taken = [o.is_sweep_override() for o in parsed], set[str]()
    for job in itertools.product(*axes):
        swept = [part for part, is_axis in zip(job, is_swept, strict=True) if is_axis]
        # Without = and commas: the folder's path can be given to the next command without quotes. Other values may come to the same name.
        name = suffix = re.sub(r"[^\w.+-]+", "-", "_".join(swept))
        while suffix and suffix in taken:
            suffix = f"{name}-{len(taken)}"
        taken.add(suffix)
        yield list(job), suffix


def _say(error: BaseException) -> str:
    """What a user needs to know of an error: a missing package becomes what to install."""
    from illada_lab.extras import how_to_install

    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"{error.name} is not installed; this needs it; {how_to_install(error.name)}"
    if found := BROKEN_CODE.search(str(error)):
        return (
            f"{found[1]}; compiled code that was cut off when a run was killed; delete it, or trainer.is_compiled=false"
        )
    if type(error) is FileNotFoundError and error.filename is not None:
        return f"{error.filename}; there is no such file or folder; a path that exists"
    if isinstance(error, ValueError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        hint = "make room, or another place" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "another path"
        return f"{error.filename}; {(error.strerror or type(error).__name__).lower()}; {hint}"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _near(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, known, n=2)
    return f"did you mean {' or '.join(near)}?" if near else _names(known)


def _names(known: Iterable[str]) -> str:
    return f"one of {', '.join(known)}"


def _fail(message: str, status: int = 2) -> int:
    for line in (message or "failed").splitlines():
        print(f"illada-lab: {line}", file=sys.stderr)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
