"""The files that readers of published models look for beside the weights: tokenizer, its settings, its special tokens."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from illada_lab.data.pretrained_tokenizer import FILES, ROLES, SPECIAL_TEXT, WORD_LEVEL
from illada_lab.data.tokenizer import Tokenizer
from illada_lab.interop.published import TRAINED_ON_CHAT, TRAINED_WITH_BOS, TRAINED_WITH_EOS
from illada_lab.tokens import ASSISTANT, USER, SpecialTokens

# Our own chat format as a template. A system message is refused, as by iLLaDA's: who renders it merges it into the first question.
_CHAT = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ user + message['content'] + assistant }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% endfor %}"
)


def write_tokenizer(
    tokenizer: Tokenizer,
    tokens: SpecialTokens,
    folder: Path,
    *,
    max_length: int,
    is_chat: bool,
    adds_bos: bool,
    adds_eos: bool,
) -> None:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json; ids with a role become special tokens there.

    Args:
        tokenizer: of the model.
        tokens: special tokens of the model and its tokenizer.
        folder: of the exported model.
        max_length: the model's context, tokens.
        is_chat: the model answers questions, which is written down; our own chat format becomes a template.
        adds_bos: the model was trained on documents with BOS.
        adds_eos: and with EOS.
    """
    backend = Backend.from_str(tokenizer.backend.to_str())
    own_chat = is_chat and tokenizer.chat_template is None
    ids = {role: token for role, token in tokens.to_dict().items() if role in ROLES and token is not None}
    shown = {f"{role}_token": word for role, token in ids.items() if (word := backend.id_to_token(token))}
    marks = [backend.id_to_token(token) or "" for token in (USER, ASSISTANT)] if own_chat else []
    backend.add_special_tokens(list(dict.fromkeys([*shown.values(), *marks])))
    backend.save(str(folder / FILES[0]))
    about: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        "add_bos_token": adds_bos,
        TRAINED_WITH_BOS: adds_bos,
        "add_eos_token": False,
        TRAINED_WITH_EOS: adds_eos,
        TRAINED_ON_CHAT: is_chat,
        WORD_LEVEL: tokenizer.is_word_level,
        SPECIAL_TEXT: {str(i): text for i, text in tokenizer.special_text.items()},
        "added_tokens_decoder": {
            str(i): {name: getattr(token, name) for name in ("content", "lstrip", "normalized", "rstrip", "single_word", "special")}
            for i, token in sorted(backend.get_added_tokens_decoder().items())
        },
        **shown,
    }  # fmt: skip
    if template := _chat_template(*marks) if own_chat else tokenizer.chat_template:
        about["chat_template"] = template
    for name, value in ((FILES[1], about), (FILES[2], shown)):
        (folder / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _chat_template(user: str, assistant: str) -> str:
    """Our chat format, with the texts of the two marks written into it."""
    named = (
        f"{{% set {name} = {json.dumps(mark, ensure_ascii=False)} %}}"
        for name, mark in (("user", user), ("assistant", assistant))
    )
    return "".join(named) + _CHAT
