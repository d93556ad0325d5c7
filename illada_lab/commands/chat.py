"""`illada-lab chat`: talk to a fine-tuned model."""

import json
import sys

from omegaconf import DictConfig


def run(config: DictConfig, is_json: bool = False) -> int:
    """Read questions line by line until an empty one or the end of the input; the last `n_turns` turns stay in the conversation.

    Ctrl-C stops an answer and keeps what is written of it; at the prompt it ends the conversation.
    """
    import torch

    from illada_lab.commands.writing import build_sampler, is_chat, load, write
    from illada_lab.data.chat import ChatTemplate

    loaded = load(config)
    if not is_chat(loaded.config):
        raise ValueError(
            f"checkpoint = {config.checkpoint}; a base model, which does not answer; one of experiment=sft"
        )
    chat, sampler = ChatTemplate(loaded.tokenizer), build_sampler(config, loaded)
    generator = torch.Generator().manual_seed(config.seed)
    turns: list[dict[str, str]] = []
    if not is_json:
        print("an empty line ends the conversation; /new forgets it; Ctrl-C stops an answer")
    while True:
        try:
            said = (sys.stdin.readline() if is_json else input("> ") + "\n").strip()
        except (EOFError, KeyboardInterrupt):
            break
        if not said:
            break
        if said == "/new":
            turns = []
            continue
        try:
            prompt = chat.prompt([*turns, {"role": "user", "content": said}])
            written = write(loaded, sampler, prompt, 1, generator, is_quiet=is_json)
        except ValueError as error:
            print(json.dumps({"question": said, "error": str(error)}) if is_json else f"({error})", flush=True)
            continue
        answer, reason = written.texts[0], written.stop_reasons[0]
        if is_json:
            line = {"question": said, "answer": answer, "stop_reason": reason, "nfe": written.passes}
            print(json.dumps(line, ensure_ascii=False), flush=True)
        else:
            print(answer if reason in ("eos", "stop") else f"{answer} ({reason})")
        if answer:
            turns += [{"role": "user", "content": said}, {"role": "assistant", "content": answer}]
            turns = turns[max(0, len(turns) - 2 * config.n_turns) :]
    return 0
