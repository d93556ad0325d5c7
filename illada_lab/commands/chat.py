"""`illada-lab chat`: talk to a fine-tuned model."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

USED = ("checkpoint", "dtype", "is_chat", "n_turns", "sampler", "seed", "trainer.accelerator")


def translate(overrides: Sequence[str]) -> list[str]:
    """The overrides; raises ValueError for those without effect."""
    from illada_lab.commands.effect import refuse_without_effect

    return refuse_without_effect("chat", overrides, USED)


def run(config: DictConfig, is_json: bool = False) -> int:
    """Read questions line by line until an empty one or the end of the input; the last `n_turns` turns stay in the conversation.

    `n_turns=null`: as many as fit into the model's context with an answer, of a model that was trained on conversations or comes in a
    published layout; none of one that was trained on single questions, as the world's are. When the first turns are dropped for room,
    that is said once, on the error stream.

    `is_chat=true` asks a model too that was not trained on conversations, as far as is known.

    An answer that the chat format refuses as a turn (white space, a special token spelt out) is remembered without its special tokens,
    or where that helps nothing forgotten with its question; this too is said.

    Ctrl-C stops an answer; the conversation keeps of it what stands before the first hole, and nothing of the turn where that is
    nothing. At the prompt it ends the conversation. At its end stands the health panel of all its answers.
    """
    import torch

    from illada_lab.commands.sample import refuse_causal
    from illada_lab.commands.writing import INTERRUPTED, asks_in_chat, build_sampler, load, write
    from illada_lab.data.chat import ChatTemplate
    from illada_lab.evaluation.generation import texts_of
    from illada_lab.evaluation.health import health, panel
    from illada_lab.samplers import Infill

    loaded = load(config)
    refuse_causal(config, loaded)
    if config.is_chat is False:
        raise ValueError("is_chat = false; a conversation stands in the chat format; null or true")
    if not asks_in_chat(config, loaded):
        raise ValueError(
            f"checkpoint = {config.checkpoint}; a base model, which does not answer; one of experiment=sft, or is_chat=true"
        )
    chat, sampler = ChatTemplate(loaded.tokenizer), build_sampler(config, loaded)
    if isinstance(sampler, Infill):
        raise ValueError("sampler = infill; fills a given text, writes no answers; sampler=variable_length")
    n_turns = _all_that_fit(loaded) if config.n_turns is None else config.n_turns
    generator = torch.Generator().manual_seed(config.seed)
    turns: list[dict[str, str]] = []
    rows, seconds, is_told = [], 0.0, False
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
            n_before, room = len(turns) // 2, _room(loaded, sampler)
            prompt, turns = _fitting(chat, turns, said, room)
            if len(turns) // 2 < n_before and not is_told:
                print(_dropped(n_before, len(turns) // 2, room), file=sys.stderr)
                is_told = True
            written = write(loaded, sampler, prompt, 1, generator, is_quiet=is_json)
        except ValueError as error:
            print(json.dumps({"question": said, "error": str(error)}) if is_json else f"({error})", flush=True)
            continue
        if written.sampled is not None:
            written.texts = texts_of(written.sampled, sampler, loaded.tokenizer)
            rows, seconds = rows + written.rows, seconds + written.seconds
        answer, reason, kept = written.texts[0], written.stop_reasons[0], written.kept[0]
        is_cut = reason == INTERRUPTED
        # Holes are shown, and not remembered.
        remembered = _remembered(chat, said, kept) if n_turns else ""
        if is_json:
            line = {"question": said, "answer": answer, "stop_reason": reason, "nfe": written.passes}
            line |= {"remembered": remembered} if is_cut or n_turns and remembered != kept else {}
            print(json.dumps(line, ensure_ascii=False), flush=True)
        else:
            # An empty line would look as if nothing had been asked.
            print(answer if answer and reason in ("eos", "stop") else f"{answer} ({reason})".lstrip())
            if n_turns and remembered != answer:
                nothing = "nothing before the first hole" if is_cut and not kept else "nothing that can be a turn"
                print(f"(remembered: {remembered})" if remembered else f"({nothing}: the question is forgotten too)")
        if remembered:
            turns += _turn(said, remembered)
            turns = turns[max(0, len(turns) - 2 * n_turns) :]
    if rows:
        found = health(rows, seconds, loaded.predictor.tokens)
        print(json.dumps({"health": found}, ensure_ascii=False) if is_json else panel(found))
    return 0


def _all_that_fit(loaded: Any) -> int:
    """Turns that are kept where nothing is said: `_fitting` drops those for which there is no room."""
    from illada_lab.commands.writing import is_chat
    from illada_lab.interop import is_published

    source = loaded.config["data"]["source"]
    # The stage is the world's, whose questions stand alone.
    is_of_conversations = bool(source.get("messages_field")) or (is_chat(loaded.config) and "stage" not in source)
    return sys.maxsize if is_of_conversations or is_published(loaded.path) else 0


def _room(loaded: Any, sampler: Any) -> int:
    """Tokens that a prompt may have: what the answer leaves; half of the context at least where the sampler cuts its budget."""
    limit = loaded.predictor.spec.max_length
    budget = getattr(sampler, "max_length", None)
    # As `Answerer._prompt_room`: a budget as long as the context would leave no room for any turn.
    return limit - (sampler.response_length if budget is None else min(budget, limit // 2))


def _dropped(n_before: int, n_kept: int, room: int) -> str:
    """What is said when turns leave the conversation for room."""
    return f"turns = {n_kept} of {n_before}; the first ones are dropped: an answer leaves {room} tokens of the context for the prompt"


def _turn(said: str, answered: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": said}, {"role": "assistant", "content": answered}]


def _remembered(chat: Any, said: str, answered: str) -> str:
    """What of an answer the conversation can go on from: all of it, or it without its special tokens; "" where neither can be a turn."""
    bare = answered
    for name in chat.tokenizer.special_text.values():
        bare = bare.replace(name, "")
    while name := chat.tokenizer.special_in(bare):
        bare = bare.replace(name, "")
    for text in dict.fromkeys((answered, bare)):
        try:
            chat.prompt([*_turn(said, text), {"role": "user", "content": said}])
        except ValueError:
            continue
        return text
    return ""


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
