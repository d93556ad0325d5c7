"""What `sample`, `infill` and `chat` share: a model that writes while one looks on, and can be stopped."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from illada_lab.data.tokenizer import Tokenizer
from illada_lab.evaluation.generation import Generated, rows_of
from illada_lab.files import check_writable
from illada_lab.samplers import Canvas
from illada_lab.samplers.result import Sampled

INTERRUPTED = "interrupted"
HOLE = "▢"


@dataclass
class Written:
    """What a model wrote, to its end or as far as it came.

    Attributes:
        texts: the responses.
        stop_reasons: of each; "interrupted" after Ctrl-C.
        seconds: it took.
        sampled: the sampler's result; None after Ctrl-C.
        begun: after Ctrl-C, of each what stands before its first hole.
    """

    texts: list[str]
    stop_reasons: list[str]
    seconds: float
    sampled: Sampled | None
    begun: list[str] | None = None

    @property
    def rows(self) -> list[Generated]:
        """What was written, each with its trace and costs; nothing of what was interrupted."""
        return [] if self.sampled is None else rows_of(self.sampled, self.texts)

    @property
    def passes(self) -> int | None:
        """Predictor passes of all rows; None after Ctrl-C."""
        return None if self.sampled is None else int(self.sampled.nfe.sum())

    @property
    def kept(self) -> list[str]:
        """What a conversation can go on from: the responses without holes."""
        return self.texts if self.begun is None else self.begun


def load(config: DictConfig, *, stays: bool = False):
    """The model a command is asked to use.

    Args:
        config: `checkpoint`, `dtype` of its weights, and `trainer.accelerator` for where it runs: a CUDA device if there is one.
        stays: in the host's memory.

    Raises:
        ValueError, FileNotFoundError: no checkpoint, or none that can be read; an unknown precision.
    """
    import torch

    from illada_lab.training.checkpoint import load_run
    from illada_lab.training.settings import find_device

    if config.checkpoint is None:
        raise ValueError("checkpoint = null; which model?; checkpoint=runs/<name> of a run that has been trained")
    if config.trace is not None:  # what has been written would be lost
        check_writable("trace", config.trace)
    dtypes = {"float32": torch.float32, "bf16": torch.bfloat16}
    if config.dtype is not None and config.dtype not in dtypes:
        raise ValueError(f"dtype = {config.dtype}; not a precision of weights here; {', '.join(dtypes)}, or null")
    loaded = load_run(config.checkpoint)
    if config.dtype is not None:
        loaded.predictor.to(dtypes[config.dtype])
    if not stays and find_device(config.trainer.accelerator).type == "cuda":
        loaded.predictor.to("cuda")
    return loaded


def is_chat(config: dict) -> bool:
    """Whether a run was trained on conversations: as its checkpoint says; one that does not, of an earlier version, by where its data are
    from.
    """
    if (told := config.get("has_conversations")) is not None:
        return told
    source = config["data"]["source"]
    return source.get("stage") == "sft" or bool(source.get("messages_field"))


def asks_in_chat(config: DictConfig, loaded: Any) -> bool:
    """Whether prompts are put into the chat format: as `is_chat` says; null: where the model was trained on conversations."""
    return is_chat(loaded.config) if config.is_chat is None else config.is_chat


def build_sampler(config: DictConfig, loaded: Any) -> Any:
    """The sampler of a configuration; one that stops at strings is given the tokenizer."""
    from illada_lab.config import build

    needs_text = bool(config.sampler.get("stop_strings"))
    return build(config.sampler, **({"tokenizer": loaded.tokenizer} if needs_text else {}))


def write(
    loaded: Any, sampler: Any, ids: Sequence[int], n: int, seed: int | torch.Generator, *, is_quiet: bool = False
) -> Written:
    """Let a model write behind a prompt (or into a text with masks), `n` times; Ctrl-C keeps what is there.

    The canvas is shown as it fills where the output is a terminal.

    Args:
        loaded: model and tokenizer.
        sampler: how.
        ids: the prompt or the text.
        n: how often.
        seed: of the draws, or a generator that goes on.
        is_quiet: show nothing.
    """
    generator = torch.Generator().manual_seed(seed) if isinstance(seed, int) else seed
    x = torch.tensor([list(ids)] * n, device=loaded.predictor.head_weight.device)
    begin = time.perf_counter()
    with Display(loaded.tokenizer, is_quiet=is_quiet) as display:
        try:
            out = sampler.sample(loaded.predictor, x, generator=generator, on_step=display.update)
        except KeyboardInterrupt:
            rows = [[]] * n if display.canvas is None else _so_far(display.canvas, loaded.tokenizer)
            texts = [shown(loaded.tokenizer, row) for row in rows]
            mask = loaded.tokenizer.tokens.mask
            whole = [row[: row.index(mask)] if mask in row else row for row in rows]
            begun = [loaded.tokenizer.decode(row, skip_special=False) for row in whole]
            return Written(texts, [INTERRUPTED] * n, time.perf_counter() - begin, None, begun)
    texts = [loaded.tokenizer.decode(row, skip_special=False) for row in out.responses]
    return Written(texts, out.stop_reasons, time.perf_counter() - begin, out)


def _so_far(canvas: Canvas, tokenizer: Tokenizer) -> list[list[int]]:
    """Responses; of a text with holes all of it, but for the BOS and EOS around it, which are ours."""
    if canvas.n_prompt:
        return canvas.responses(tokenizer.tokens)
    around = {tokenizer.tokens.bos, tokenizer.tokens.eos}
    return [[token for token in row if token not in around] for row in canvas.x.tolist()]


def shown(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Text of ids with masks in it."""
    parts: list[str] = []
    run: list[int] = []
    for i in [*ids, None]:
        if i is not None and i != tokenizer.tokens.mask:
            run.append(i)
            continue
        if run:
            parts.append(tokenizer.decode(run, skip_special=False))
            run = []
        if i is not None:
            parts.append(HOLE)
    return (" " if tokenizer.is_word_level else "").join(parts)


class Display:
    """The canvas in the terminal while it fills: what is new stands out. Does nothing where there is no terminal.

    Attributes:
        canvas: the last one seen, or None.
    """

    def __init__(self, tokenizer: Tokenizer, *, is_quiet: bool) -> None:
        from rich.console import Console
        from rich.live import Live

        self.tokenizer, self.canvas = tokenizer, None
        console = Console(highlight=False)
        self._live = None
        if console.is_terminal and not is_quiet:
            # Transient: the finished text is printed behind it, once.
            self._live = Live(console=console, transient=True, auto_refresh=False)
        self._before: Tensor | None = None

    def __enter__(self) -> "Display":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, canvas: Canvas) -> None:
        """Called by the sampler after each step."""
        self.canvas = canvas
        if self._live is None:
            return
        from rich.text import Text

        now, before = canvas.x.cpu(), self._before
        lines = Text()
        for n, ids in enumerate(now[:, canvas.n_prompt :].tolist()):
            for i, token in enumerate(ids):
                place = canvas.n_prompt + i
                is_new = before is None or place >= before.shape[1] or token != int(before[n, place])
                is_hole = token == self.tokenizer.tokens.mask
                text = HOLE if is_hole else self.tokenizer.token_text(token)
                lines.append(text, "dim" if is_hole else "bold green" if is_new else "")
                lines.append(" " if self.tokenizer.is_word_level else "")
            lines.append("\n")
        self._before = now.clone()
        self._live.update(lines, refresh=True)


def as_json(config: DictConfig, written: Written, health: list[dict[str, Any]], **more: Any) -> str:
    """One JSON object for scripts: what was written, every setting that made it, and the health panel (none after Ctrl-C)."""
    from illada_lab.config import to_plain

    samples = [
        {"text": text, "stop_reason": reason, **_costs(written, n)}
        for n, (text, reason) in enumerate(zip(written.texts, written.stop_reasons, strict=True))
    ]
    about = {"checkpoint": config.checkpoint, "seed": config.seed, "sampler": to_plain(config.sampler), **more}
    return json.dumps({**about, "seconds": written.seconds, "samples": samples, "health": health}, ensure_ascii=False)


def _costs(written: Written, n: int) -> dict[str, int]:
    out = written.sampled
    if out is None:
        return {}
    return {"n_tokens": len(out.responses[n]), "nfe": int(out.nfe[n]), "token_forwards": int(out.token_forwards[n])}


def save_trace(config: DictConfig, loaded: Any, ids: Sequence[int], written: Written) -> None:
    """Write the trace file that `trace=` asks for; says so on the error stream, which scripts do not read."""
    import sys

    from illada_lab.config import to_plain
    from illada_lab.manifest import manifest
    from illada_lab.samplers.trace import trace_of, write_trace

    if config.trace is None:
        return
    if written.sampled is None:
        print(f"trace = {config.trace}; not written: the run was interrupted", file=sys.stderr)
        return
    x = torch.tensor([list(ids)] * len(written.texts))
    about = manifest(seed=config.seed, scale=loaded.config["scale"]["name"])
    trace = trace_of(
        written.sampled, loaded.predictor, x, text=loaded.tokenizer.token_text,
        **about, seconds=written.seconds, checkpoint=str(config.checkpoint), sampler=to_plain(config.sampler),
    )  # fmt: skip
    print(f"trace: {write_trace(config.trace, trace)}", file=sys.stderr)
