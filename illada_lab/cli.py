"""`illada-lab`: the commands. Everything they do can be called from a notebook too."""

import difflib
import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "reproduce": "the main job: pre-train, fine-tune, evaluate, sample, report",
    "train": "one stage of training",
    "evaluate": "score a trained model on the world's questions",
    "sample": "let a model write",
    "chat": "talk to a fine-tuned model",
    "config": "show the composed configuration and the model's size",
    "doctor": "what this machine has, and what would be used",
}
EXAMPLES = {
    "reproduce": ("illada-lab reproduce scale=toy", "illada-lab reproduce scale=smoke seed=1"),
    "train": ("illada-lab train scale=toy model.n_layers=2", "illada-lab train data=text data.path=notes.txt scale=toy"),
    "evaluate": ("illada-lab evaluate checkpoint=runs/sft-toy", "illada-lab evaluate checkpoint=runs/pretrain-toy scale=smoke"),
    "sample": (
        "illada-lab sample checkpoint=runs/pretrain-toy",
        "illada-lab sample checkpoint=runs/sft-toy sampler=variable_length prompt='where does ada live ?'",
    ),
    "chat": ("illada-lab chat checkpoint=runs/sft-toy", "illada-lab chat checkpoint=runs/sft-toy sampler.block_length=8"),
    "config": ("illada-lab config scale=8b", "illada-lab config experiment=sft scale=toy"),
    "doctor": ("illada-lab doctor", "illada-lab doctor --json"),
}
FLAGS = {
    "--traceback": "show the traceback of an error",
    "--multirun": "run every combination of comma-separated values (also -m)",
    "--json": "doctor: print JSON",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 2 for bad input, 1 for a run that failed, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    flags = {"--multirun" if a == "-m" else a for a in arguments if a.startswith("-")}
    words = [a for a in arguments if not a.startswith("-")]
    if not words or flags & {"--help", "-h"}:
        print(usage(words[0] if words else None))
        return 0
    command, *overrides = words
    if command not in COMMANDS:
        return _fail(f"command = {command}; not a command; {_near(command, COMMANDS)}")
    if unknown := sorted(flags - set(FLAGS)):
        return _fail(f"{unknown[0]}; not a flag; {_near(unknown[0], FLAGS)}")
    from illada_lab.config import ConfigError

    try:
        run = importlib.import_module(f"illada_lab.commands.{command}").run
        if command == "doctor":
            return run(is_json="--json" in flags)
        return _run_all(run, overrides) if "--multirun" in flags else _run_one(run, overrides)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except (ConfigError, ValueError, FileNotFoundError) as error:
        if "--traceback" in flags:
            raise
        return _fail(str(error))
    except ModuleNotFoundError as error:
        if "--traceback" in flags:
            raise
        return _fail(f"{error.name}; not installed; {_extra(str(error.name))}")
    except (RuntimeError, OSError) as error:
        if "--traceback" in flags:
            raise
        return _fail(str(error).splitlines()[0], status=1)


def _run_one(run, overrides: Sequence[str]) -> int:
    from illada_lab.config import check, compose

    config = compose(overrides)
    check(config)
    return run(config)


def _run_all(run, overrides: Sequence[str]) -> int:
    """Every combination, each in a folder of its own; all are checked before the first starts."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from illada_lab.config import check, compose

    parsed = OverridesParser.create().parse_overrides(list(overrides))
    jobs = [job for batch in BasicSweeper.split_arguments(parsed, max_batch_size=None) for job in batch]
    swept = {o.key_or_group for o in parsed if o.is_sweep_override()}
    configs = []
    for job in jobs:
        config = compose(job)
        suffix = ",".join(part for part in job if part.split("=")[0] in swept)
        config.run_dir = f"{config.run_dir}/{suffix}"
        check(config)
        configs.append((suffix, config))
    for number, (suffix, config) in enumerate(configs, 1):
        print(f"[{number}/{len(configs)}] {suffix}", file=sys.stderr)
        run(config)
    return 0


def usage(command: str | None) -> str:
    """Help text."""
    if command in COMMANDS:
        examples = "\n".join(f"  {line}" for line in EXAMPLES[command])
        return f"illada-lab {command}: {COMMANDS[command]}\n\nExamples:\n{examples}\n\nSettings: illada-lab config"
    listed = "\n".join(f"  {name:11}{text}" for name, text in COMMANDS.items())
    flags = "\n".join(f"  {name:13}{text}" for name, text in FLAGS.items())
    return f"illada-lab <command> [key=value ...] [flags]\n\n{listed}\n\n{flags}\n\nillada-lab <command> --help shows examples"


def _near(word: str, known) -> str:
    return ", ".join(difflib.get_close_matches(word, known, n=2) or list(known))


def _extra(module: str) -> str:
    """What to install for a missing module."""
    extras = {
        "wandb": "wandb", "tensorboard": "tensorboard", "lm_eval": "eval", "flash_attn": "gpu", "liger_kernel": "gpu",
        "jupytext": "notebooks", "transformers": "eval",
    }  # fmt: skip
    extra = extras.get(module.split(".")[0])
    return f"pip install 'illada_lab[{extra}]'" if extra else f"pip install {module}"


def _fail(message: str, status: int = 2) -> int:
    for line in message.splitlines():
        print(f"illada-lab: {line}", file=sys.stderr)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
