"""Chat: conversations to token ids, with a flag for what the user said."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from illada_lab.data.jinja_chat import JinjaChat
from illada_lab.data.tokenizer import Tokenizer
from illada_lab.tokens import ASSISTANT, USER

TEMPLATES = Path(__file__).with_name("templates")
Message = dict[str, str]
# Of messages; what comes from a file may be anything, and is checked with an error that names the turn.
Messages = Sequence[Any]
ROLES = ("system", "user", "assistant")


def templated(tokenizer: Tokenizer, name: str) -> Tokenizer:
    """The same tokenizer with a chat template in place of its own.

    Args:
        tokenizer: a pretrained one; ours have a format of their own, whose marks no template can write.
        name: "plain" ("User: ...", "Assistant: ...", for tokenizers without tokens of their own for that), or a Jinja file.

    Raises:
        FileNotFoundError: neither.
        ValueError: a tokenizer of ours, or a template that cannot be read.
    """
    shipped = {file.stem: file for file in sorted(TEMPLATES.glob("*.jinja"))}
    file = shipped.get(name) or Path(name).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"data.chat_template = {name}; no such file; {', '.join(shipped)}, or a Jinja file")
    if tokenizer.special_text:
        raise ValueError(
            f"data.chat_template = {name}; this tokenizer has a chat format of its own; null, or tokenizer=pretrained"
        )
    added = tokenizer.backend.get_added_tokens_decoder()
    for role, token in (("eos", tokenizer.tokens.eos), ("bos", tokenizer.tokens.bos)):
        if token is not None and token not in added:  # a template writes it in its letters, which no other is found in
            raise ValueError(
                f"data.chat_template = {name}; tokenizer.{role} = {token} is no special token of its tokenizer.json; one of {sorted(added)}"
            )
    try:
        found = tokenizer.with_chat_template(file.read_text("utf-8"))
        JinjaChat(found)
    except ValueError as error:  # also bytes that are no UTF-8
        reason = str(error).removeprefix("tokenizer.chat_template; ")
        raise ValueError(f"data.chat_template = {name}; {reason}") from error
    return found


class ChatTemplate:
    """Renders conversations for one tokenizer.

    Our own format is `<bos> <user> question <assistant> answer <eos>`, repeated for further turns without the `<bos>`; a pretrained
    tokenizer brings its own Jinja template. A system message is merged into the first user turn where the template has no
    system role (so does the published evaluation).

    Args:
        tokenizer: the tokenizer.

    Raises:
        ValueError: a pretrained tokenizer without a chat template.

    Source: our choice; every answer ends in EOS as in iLLaDA's fine-tuning (prompt + response + EOS).
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        if tokenizer.chat_template is None and not tokenizer.special_text:
            raise ValueError(
                "tokenizer.chat_template = null; this tokenizer has none; a model learns one from conversations: data.chat_template=plain, "
                "or a Jinja file"
            )
        self.tokenizer = tokenizer
        self.jinja = None if tokenizer.chat_template is None else JinjaChat(tokenizer)

    def render(self, messages: Messages) -> tuple[list[int], list[bool]]:
        """Ids of a whole conversation and, for each, whether it belongs to the prompt.

        The response is what the assistant says, its end token included; everything else is prompt.

        Raises:
            ValueError: an unknown role, no text, turns out of order, or no answer at the end.
        """
        turns = self._turns(messages)
        if turns[-1]["role"] != "assistant":
            raise ValueError("messages[-1].role = 'user'; there is no answer to learn from; end with the assistant")
        parts = list(self._parts(turns))
        ids = [i for part, _ in parts for i in part]
        return ids, [is_prompt for part, is_prompt in parts for _ in part]

    def prompt(self, messages: Messages) -> list[int]:
        """Ids up to where the assistant speaks next.

        Raises:
            ValueError: as `render`; the last turn must be the user's and no turn may spell the mask token.
        """
        turns = self._turns(messages)
        if turns[-1]["role"] != "user":
            raise ValueError("messages[-1].role = 'assistant'; nothing was asked; end with the user")
        for turn in turns:
            self.tokenizer.encode_prompt(turn["content"])
        return [i for part, _ in self._parts(turns) for i in part]

    def _turns(self, messages: Messages) -> list[Message]:
        """The messages as checked turns, the system message merged where it must be."""
        if not isinstance(messages, Sequence) or isinstance(messages, str):
            raise ValueError(f"messages = {messages!r}; not a conversation; a list of role and content")
        for i, message in enumerate(messages):
            if not isinstance(message, Mapping) or message.get("role") not in ROLES:
                role: Any = message.get("role") if isinstance(message, Mapping) else message
                raise ValueError(f"messages[{i}].role = {role!r}; not a role; {', '.join(ROLES)}")
            if not isinstance(message.get("content"), str) or not message["content"].strip():
                raise ValueError(
                    f"messages[{i}].content = {message.get('content')!r}; a turn needs text; a non-empty string"
                )
        turns = [dict(message) for message in messages]
        spoken = turns[1:] if turns and turns[0]["role"] == "system" else turns
        expected = ["user", "assistant"] * len(spoken)
        if not spoken or any(turn["role"] != role for turn, role in zip(spoken, expected, strict=False)):
            roles = [turn["role"] for turn in turns]
            raise ValueError(
                f"messages.role = {roles}; turns alternate and the user begins; user, assistant, user, ..."
            )
        if spoken is not turns and not (self.jinja and self.jinja.has_system_role):
            spoken[0]["content"] = f"{turns[0]['content']}\n\n{spoken[0]['content']}"
            return spoken
        return turns

    def _parts(self, turns: Sequence[Message]) -> Iterator[tuple[list[int], bool]]:
        """Pieces of a conversation: ids, and whether they are prompt."""
        if self.jinja is not None:
            yield from self.jinja.parts(turns)
            return
        tokens = self.tokenizer.tokens
        if tokens.bos is not None:
            yield [tokens.bos], True
        for turn in turns:
            ids = self.tokenizer.encode_known(turn["content"])
            yield ([USER, *ids, ASSISTANT], True) if turn["role"] == "user" else ([*ids, tokens.eos], False)
