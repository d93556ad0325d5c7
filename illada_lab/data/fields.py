"""Fields of a row that make a document: a text, a conversation, or a prompt and its response."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# Who speaks in ShareGPT's form, in our words.
SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
SETTINGS = "data.source.text_field, messages_field, or prompt_field and response_field"
PAIR = "data.source.prompt_field and data.source.response_field"


@dataclass(frozen=True)
class Fields:
    """Which fields of a row are read.

    Args:
        text: of the text, where the others are None.
        messages: of a conversation: a list of {role, content}, or in ShareGPT's form of {from, value}, spoken by human or user, gpt or
            assistant, and system.
        prompt, response: of the two turns of a conversation.
        input: of what the prompt is about (Alpaca's form): a further paragraph of it where it is neither empty nor null.

    Raises:
        ValueError: a prompt without a response or the other way round, an input without them, or a conversation told in both ways.
    """

    text: str = "text"
    messages: str | None = None
    prompt: str | None = None
    response: str | None = None
    input: str | None = None

    def __post_init__(self) -> None:
        pair = {"prompt_field": self.prompt, "response_field": self.response}
        for key, value in pair.items():
            if not value and any(pair.values()):
                raise ValueError(f"data.source.{key} = null; two turns need both; {PAIR}, or neither")
        if self.input and not self.prompt:
            raise ValueError(
                f"data.source.input_field = {self.input}; a part of the prompt, of which nothing is told; null, or {PAIR} too"
            )
        if self.messages and self.prompt:
            raise ValueError(
                f"data.source.messages_field = {self.messages}; the turns are those of prompt_field = {self.prompt}; "
                "null for one of them"
            )

    @property
    def named(self) -> dict[str, str]:
        """The fields by the settings that name them."""
        if self.prompt and self.response:
            further = {"input_field": self.input} if self.input else {}
            return {"prompt_field": self.prompt, **further, "response_field": self.response}
        return {"messages_field": self.messages} if self.messages else {"text_field": self.text}

    @property
    def column(self) -> str:
        """What their documents are called: text or messages."""
        return "text" if "text_field" in self.named else "messages"

    def check(self, found: Iterable[str], where: str, *, may_lack_input: bool = False) -> None:
        """Refuse rows that lack a field.

        Args:
            found: names of the fields that are there.
            where: file and place, for the message.
            may_lack_input: the input, which may be empty, may be missing as well.

        Raises:
            ValueError: names the fields that are there, and the settings.
        """
        found = list(found)
        for key, field in self.named.items():
            if field not in found and not (may_lack_input and key == "input_field"):
                near = difflib.get_close_matches(field, found)
                told = ", ".join(near) or (f"{', '.join(found)}, for {SETTINGS}" if found else "it has none")
                raise ValueError(f"data.source.{key} = {field}; not a field of {where}; {told}")

    def document(self, row: Mapping[str, Any], where: str) -> dict[str, Any]:
        """The text or the conversation of a row, as {text: ...} or {messages: [{role, content}, ...]}.

        Args:
            row: with the fields.
            where: file and place, for messages.

        Raises:
            ValueError: a field holds something else.
        """
        if self.prompt and self.response:
            asked, answer = (_text(row[field], field, where) for field in (self.prompt, self.response))
            if self.input and (about := row.get(self.input)) not in (None, ""):
                asked = f"{asked}\n\n{_text(about, self.input, where)}"
            return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}
        if self.messages:
            return {"messages": _conversation(row[self.messages], f"{where}, {self.messages}")}
        return {"text": _text(row[self.text], self.text, where)}


def kind(value: Any) -> str:
    """What a value of a file is, for messages."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def _text(value: Any, field: str, where: str) -> str:
    if not isinstance(value, str):
        right = f"a string, or data.source.messages_field={field}" if isinstance(value, list) else "a string"
        raise ValueError(f"data.path = {where}; {field} holds {kind(value)}, not text; {right}")
    return _encodable(value, f"{where}, {field}")


def _conversation(value: Any, where: str) -> list[dict[str, str]]:
    if not isinstance(value, list):
        raise ValueError(
            f"data.path = {where} holds {kind(value)}, not a conversation; a list of role and content, or {PAIR}"
        )
    return [_turn(turn, where) for turn in value]


def _turn(turn: Any, where: str) -> dict[str, str]:
    role = content = None
    if isinstance(turn, dict):
        role, content = turn.get("role"), turn.get("content")
        # A table has a field that one row lacks as null.
        if role is None and isinstance(speaker := turn.get("from"), str):
            if speaker not in SPEAKERS:
                raise ValueError(
                    f"data.path = {where} has a turn from {speaker!r}; not a speaker; {', '.join(SPEAKERS)}"
                )
            role, content = SPEAKERS[speaker], turn.get("value")
    if not isinstance(role, str) or not isinstance(content, str):
        found = ", ".join(map(str, turn)) if isinstance(turn, dict) and turn else kind(turn)
        raise ValueError(
            f"data.path = {where} has a turn without role and content, or from and value, but with {found}; "
            f"both as strings, or {PAIR}"
        )
    return {"role": role, "content": _encodable(content, where)}


def _encodable(text: str, where: str) -> str:
    """The text, if UTF-8 can hold it: JSON can spell half of a character, as texts that were cut somewhere do."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"data.path = {where} holds half of a character ({text[error.start]!a}, at {error.start}); no UTF-8 text; "
            "leave it out, or the whole character"
        ) from error
    return text
