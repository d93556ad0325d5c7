"""`illada-lab infill`: fill the holes of a text."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig

from illada_lab.data.tokenizer import Tokenizer
from illada_lab.tokens import has_bos_of, has_eos_of

USED = ("checkpoint", "dtype", "text", "is_chat", "n_samples", "sampler", "seed", "trace", "trainer.accelerator")

# A hole of one token, or of as many as the number says.
HOLES = re.compile(r"___+(?:\*(\d+))?")
MAX_HOLE = 10_000


def translate(overrides: Sequence[str]) -> list[str]:
    """The overrides; raises ValueError for those without effect."""
    from illada_lab.commands.effect import refuse_without_effect

    return refuse_without_effect("infill", overrides, USED)


def run(config: DictConfig, is_json: bool = False) -> int:
    """Print the text with its holes filled."""
    from illada_lab.commands.sample import n_different, refuse_causal
    from illada_lab.commands.writing import INTERRUPTED, as_json, asks_in_chat, build_sampler, load, save_trace, write
    from illada_lab.evaluation.health import panel
    from illada_lab.samplers import Infill

    loaded = load(config)
    refuse_causal(config, loaded)
    if config.is_chat:
        raise ValueError("is_chat = True; a text with holes is no conversation; is_chat=false")
    if asks_in_chat(config, loaded):
        raise ValueError(
            f"checkpoint = {config.checkpoint}; a fine-tuned model, which answers questions; its pre-trained one, or is_chat=false"
        )
    sampler = build_sampler(config, loaded)
    if not isinstance(sampler, Infill):
        raise ValueError(f"sampler = {type(sampler).__name__}; writes behind a prompt, fills no holes; sampler=infill")
    ids = text_ids(config.text, loaded)
    written = write(loaded, sampler, ids, n_different(config, sampler), config.seed, is_quiet=is_json)
    if written.sampled is not None:
        # BOS and EOS around the text are ours.
        written.texts = [loaded.tokenizer.decode(row) for row in written.sampled.responses]
    found = health_of(written, loaded)
    if is_json:
        print(as_json(config, written, found, text=config.text))
    else:
        for text in written.texts:
            print(text)
        passes = INTERRUPTED if written.passes is None else f"{written.passes} passes"
        print(f"({passes}, {written.seconds:.1f} s)")
        if found:
            print(panel(found))
    save_trace(config, loaded, ids, written)
    return 130 if written.sampled is None else 0


def health_of(written: Any, loaded: Any) -> list[dict[str, Any]]:
    """The health panel of what stands in the holes; nothing of what was interrupted."""
    from illada_lab.evaluation.health import health

    rows = []
    for row in written.rows:
        filled = {record["position"]: record["token"] for record in row.trace if record["token"] is not None}
        text = loaded.tokenizer.decode([filled[place] for place in sorted(filled)], skip_special=False)
        rows.append(replace(row, text=text, n_tokens=len(filled)))
    found = health(rows, written.seconds, loaded.predictor.tokens) if rows else []
    return [row for row in found if row["name"] != "empty answers"]  # there is text around the holes


def text_ids(text: str | None, loaded: Any) -> list[int]:
    """Token ids of a text with `___` where a token is wanted (`___*4`: four), as a document the model was trained on.

    Raises:
        ValueError: no text, no hole, a hole of no token, an unknown word.
    """
    tokenizer, tokens = loaded.tokenizer, loaded.tokenizer.tokens
    if text is None:
        raise ValueError("text = null; what is to be filled?; text='ada lives in ___ .' (___*3: three tokens)")
    ids: list[int] = []
    end, is_space_brought = 0, brings_space(tokenizer)
    for hole in HOLES.finditer(text):
        n = int(hole[1] or 1)
        if not 1 <= n <= MAX_HOLE:
            raise ValueError(f"text = {hole[0]!r}; a hole of {n} tokens; 1 to {MAX_HOLE}")
        piece = text[end : hole.start()]
        # The token in the hole brings its own, as it does in what the model was trained on; a second space would be too many.
        piece = piece.removesuffix(" ") if is_space_brought else piece
        ids += [*_piece_ids(tokenizer, piece, is_behind=end > 0), *[tokens.mask] * n]
        end = hole.end()
    if end == 0:
        raise ValueError(f"text = {text!r}; has no hole; ___ where a token is wanted (___*3: three tokens)")
    ids = tokens.opened([*ids, *_piece_ids(tokenizer, text[end:], is_behind=True)], has_bos_of(loaded.config["data"]))
    return [*ids, tokens.eos] if has_eos_of(loaded.config["data"]) else ids


def _piece_ids(tokenizer: Tokenizer, text: str, *, is_behind: bool) -> list[int]:
    """Ids of the text before, between or behind holes; behind one without the space that some tokenizers put in front of a text."""
    ids, front = tokenizer.encode_prompt(text, "text"), tokenizer.encode("\n")
    whole = tokenizer.encode(f"\n{text}") if is_behind else []
    return whole[len(front) :] if is_behind and whole[: len(front)] == front else ids


def brings_space(tokenizer: Tokenizer) -> bool:
    """Whether a token can stand for a space and what follows it: of byte-level BPE and SentencePiece some do, of bytes and words none."""
    if tokenizer.is_word_level:
        return False
    # Asked behind a letter: some tokenizers put a space of their own in front of a text.
    head = tokenizer.encode("a")
    words = ((i, tokenizer.token_text(i).strip(" ")) for i in tokenizer.backend.get_vocab().values())
    return any(word and tokenizer.encode(f"a {word}") == [*head, i] for i, word in words)
