"""`illada-lab chat`: talk to a fine-tuned model."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

USED = ("checkpoint", "n_turns", "sampler", "seed", "trainer.accelerator")


def translate(overrides: Sequence[str]) -> list[str]:
    """The overrides; raises ValueError for those without effect."""
    from illada_lab.commands.writing import refuse_without_effect

    return refuse_without_effect("chat", overrides, USED)


def run(config: DictConfig, is_json: bool = False) -> int:
    """Read questions line by line until an empty one or the end of the input; the last `n_turns` turns stay in the conversation.

    `n_turns=null`: as many as fit into the model's context with an answer, of a model that was trained on conversations or comes in a
    published layout; none of one that was trained on single questions, as the world's are.

    Ctrl-C stops an answer; the conversation keeps of it what stands before the first hole, and nothing of the turn where that is
    nothing. At the prompt it ends the conversation. At its end stands the health panel of all its answers.
    """
    import torch

    from illada_lab.commands.writing import INTERRUPTED, build_sampler, is_chat, load, write
    from illada_lab.data.chat import ChatTemplate
    from illada_lab.evaluation.health import health, panel
    from illada_lab.samplers import Infill

    loaded = load(config)
    if not is_chat(loaded.config):
        raise ValueError(
            f"checkpoint = {config.checkpoint}; a base model, which does not answer; one of experiment=sft"
        )
    chat, sampler = ChatTemplate(loaded.tokenizer), build_sampler(config, loaded)
    if isinstance(sampler, Infill):
        raise ValueError("sampler = infill; fills a given text, writes no answers; sampler=variable_length")
    n_turns = _all_that_fit(loaded) if config.n_turns is None else config.n_turns
    generator = torch.Generator().manual_seed(config.seed)
    turns: list[dict[str, str]] = []
    rows, seconds = [], 0.0
    if not is_json:
        print("an empty line ends the conversation; /new forgets it; Ctrl-C stops an answer")
    while True:
        try:
            said = (sys.stdin.readline() if is_json else input("> ") + "\n").strip()
        except (EOFError, KeyboardInterrupt):
            break
        except UnicodeDecodeError as error:
            raise ValueError(f"question = {error.object[:40]!r}; is not text in {error.encoding}; UTF-8") from error
        if not said:
            break
        if said == "/new":
            turns = []
            continue
        try:
            prompt, turns = _fitting(chat, turns, said, _room(loaded, sampler))
            written = write(loaded, sampler, prompt, 1, generator, is_quiet=is_json)
        except ValueError as error:
            print(json.dumps({"question": said, "error": str(error)}) if is_json else f"({error})", flush=True)
            continue
        if written.sampled is not None:
            rows, seconds = rows + written.rows, seconds + written.seconds
        answer, reason, kept = written.texts[0], written.stop_reasons[0], written.kept[0]
        is_cut = reason == INTERRUPTED
        if is_json:
            line = {"question": said, "answer": answer, "stop_reason": reason, "nfe": written.passes}
            # Holes are shown, and not remembered.
            line |= {"remembered": kept if n_turns else ""} if is_cut else {}
            print(json.dumps(line, ensure_ascii=False), flush=True)
        else:
            # An empty line would look as if nothing had been asked.
            print(answer if answer and reason in ("eos", "stop") else f"{answer} ({reason})".lstrip())
            if is_cut and n_turns and kept != answer:
                told = f"remembered: {kept}" if kept else "nothing before the first hole: the question is forgotten too"
                print(f"({told})")
        if kept:
            turns += [{"role": "user", "content": said}, {"role": "assistant", "content": kept}]
            turns = turns[max(0, len(turns) - 2 * n_turns) :]
    if rows:
        found = health(rows, seconds, loaded.predictor.tokens)
        print(json.dumps({"health": found}, ensure_ascii=False) if is_json else panel(found))
    return 0


def _all_that_fit(loaded: Any) -> int:
    """Turns that are kept where nothing is said: `_fitting` drops those for which there is no room."""
    from illada_lab.training.checkpoint import is_published

    is_of_conversations = bool(loaded.config["data"]["source"].get("messages_field"))
    return sys.maxsize if is_of_conversations or is_published(loaded.path) else 0


def _room(loaded: Any, sampler: Any) -> int:
    """Positions of the context that are left of an answer's."""
    longest = getattr(sampler, "max_length", None) or sampler.response_length
    return loaded.predictor.spec.max_length - longest


def _fitting(chat: Any, turns: list[dict[str, str]], said: str, room: int) -> tuple[list[int], list[dict[str, str]]]:
    """The question behind as many of the turns as leave room for its answer, and those turns.

    Raises:
        ValueError: what the question cannot be asked for: itself, or the turns before it (then with what helps).
    """
    question = {"role": "user", "content": said}
    alone = chat.prompt([question])
    while turns:
        try:
            prompt = chat.prompt([*turns, question])
        except ValueError as error:
            raise ValueError(f"{error}: /new forgets the turns before, n_turns=0 keeps none") from error
        if len(prompt) <= room:
            return prompt, turns
        turns = turns[2:]
    return alone, turns
