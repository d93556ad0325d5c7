"""`illada-lab prepare`: documents to shards of tokens on the disk."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from illada_lab.commands.effect import refuse_without_effect

USED = ("data", "tokenizer", "scale", "seed", "init_from", "out", "n_processes", "tokens_per_shard")
# Of `data` what shards are made from; how rows are cut out of them is said where they are trained on.
OF_DATA = ("source", "path", "adds_bos", "adds_eos", "max_extra_eos", "chat_template", "seed")


def translate(overrides: Sequence[str]) -> list[str]:
    """The words as they are; settings that have no effect on shards are refused."""
    words = refuse_without_effect("prepare", overrides, USED)
    problems = []
    for word in words:
        key, _, value = word.lstrip("+~").partition("=")
        head, _, rest = key.partition(".")
        if head == "data" and rest and rest.partition(".")[0] not in OF_DATA:
            problems.append(f"{key} = {value}; has no effect on prepare; for train data=shards {key}={value}")
    if problems:
        raise ValueError("\n".join(problems))
    return words


def run(config: DictConfig) -> int:
    """Prepare the data and say how much it was and how fast it went."""
    from illada_lab.config import build, to_plain
    from illada_lab.data.chat import templated
    from illada_lab.data.find import is_url
    from illada_lab.data.shards.prepare import prepare
    from illada_lab.data.shards.source import ShardSource
    from illada_lab.manifest import manifest

    if config.out is None:
        raise ValueError("out = null; where to?; out=<a new folder>")
    if is_url(config.out):
        raise ValueError(f"out = {config.out}; shards are mapped into memory, which needs a disk; a local folder")
    source = build(config.data.source)
    if isinstance(source, ShardSource):
        raise ValueError("data = shards; is prepared already; data=text, jsonl, parquet or hub")
    given, n_processes = _of_model(config.init_from), 1 if config.n_processes is None else config.n_processes
    tokenizer: Any = build(config.tokenizer) if given is None else given
    template = config.data.get("chat_template")
    if template is not None:
        tokenizer = templated(given, template) if given is not None else partial(_templated, tokenizer, template)
    done = prepare(
        source=source,
        tokenizer=tokenizer,
        folder=Path(config.out).expanduser(),
        settings={
            "data.source": to_plain(config.data.source),
            "files": _files(source),
            "tokenizer": to_plain(config.tokenizer) if given is None else {"init_from": config.init_from},
            **({} if template is None else {"chat_template": str(template)}),
        },
        adds_bos=config.data.get("adds_bos", False),
        adds_eos=config.data.get("adds_eos", True),
        max_extra_eos=config.data.get("max_extra_eos", 0),
        seed=config.data.get("seed", config.seed),
        n_processes=n_processes,
        tokens_per_shard=config.tokens_per_shard,
        about=manifest(seed=config.seed, scale=config.scale.name),
        say=lambda line: print(line, file=sys.stderr),
    )
    for split, shards in done.manifest.splits.items():
        counts = [done.manifest.total(split, of) for of in ("n_documents", "n_tokens", "n_text_bytes")]
        print(
            f"{split:10} {counts[0]:,} documents, {counts[1]:,} tokens, {counts[2]:,} bytes of text, {len(shards)} shards"
        )
    speed = done.speed
    print(
        f"speed: {speed['tokens_per_second']:,} tokens/s, {speed['mb_per_second']} MB/s of text, {done.seconds:.1f} s with "
        f"{n_processes} processes; the tokenizer took {done.tokenizer_seconds:.1f} s"
    )
    print(f"prepared: {config.out}")
    return 0


def _templated(build: Callable[[Any], Any], template: str, source: Any) -> Any:
    """The tokenizer for a source, with a chat template in place of its own."""
    from illada_lab.data.chat import templated

    return templated(build(source), template)


def _of_model(path: str | None) -> Any:
    """The tokenizer of a trained model, ours or published, for data it shall be trained further on; None without a path."""
    if path is None:
        return None
    from illada_lab.training.checkpoint import told_as
    from illada_lab.training.start import start_tokenizer

    with told_as("init_from"):
        return start_tokenizer(path)


def _files(source: Any) -> list[list[Any]]:
    """Name, size and version of every file behind a source; none for what is no file."""
    from illada_lab.data.find import find_files, stamp

    if not hasattr(source, "path"):
        return []
    found = find_files(source.path, source.format)
    return [] if found is None else [list(entry) for entry in stamp(found[0])]
