"""Chat: conversations to token ids, with a flag for what the user said."""

from collections.abc import Sequence
from typing import Any

from illada_lab.data.tokenizer import Tokenizer
from illada_lab.tokens import ASSISTANT, USER

Message = dict[str, str]
ROLES = ("system", "user", "assistant")


class ChatTemplate:
    """Renders conversations for one tokenizer.

    Our own format is `<bos> <user> question <assistant> answer <eos>`, repeated for further turns; a pretrained tokenizer brings
    its own Jinja template. A system message is merged into the first user turn where there is no system role (so does the
    published evaluation).

    Args:
        tokenizer: the tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def render(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """Ids of a whole conversation and, for each, whether it belongs to the prompt.

        The response is what the assistant says, its end token included; everything else is prompt.

        Raises:
            ValueError: an unknown role, no text, turns out of order, or no answer at the end.
        """
        turns = self._turns(messages)
        if turns[-1]["role"] != "assistant":
            raise ValueError("messages[-1].role = 'user'; there is no answer to learn from; end with the assistant")
        ids, is_prompt = self._prompt_head(), [True] * len(self._prompt_head())
        for i, turn in enumerate(turns):
            if turn["role"] == "user":
                part = self._user(turns[: i + 1])
                ids, is_prompt = ids + part, is_prompt + [True] * len(part)
            else:
                part = [*self.tokenizer.encode_known(turn["content"]), self.tokenizer.tokens.stop_ids[-1]]
                ids, is_prompt = ids + part, is_prompt + [False] * len(part)
        return ids, is_prompt

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids up to where the assistant speaks next.

        Raises:
            ValueError: as `render`; the last turn must be the user's.
        """
        turns = self._turns(messages)
        if turns[-1]["role"] != "user":
            raise ValueError("messages[-1].role = 'assistant'; nothing was asked; end with the user")
        if len(turns) == 1:
            return self._prompt_head() + self._user(turns)
        ids, _ = self.render(turns[:-1])
        return ids + self._user(turns)

    def _turns(self, messages: Sequence[Message]) -> list[Message]:
        for i, message in enumerate(messages):
            if message.get("role") not in ROLES:
                raise ValueError(f"messages[{i}].role = {message.get('role')!r}; not a role; {', '.join(ROLES)}")
            if not isinstance(message.get("content"), str) or not message["content"].strip():
                raise ValueError(f"messages[{i}].content = {message.get('content')!r}; a turn needs text; a non-empty string")
        turns = [dict(message) for message in messages]
        if turns and turns[0]["role"] == "system":
            system = turns.pop(0)["content"]
            if turns:
                turns[0]["content"] = f"{system} {turns[0]['content']}"
        expected = ["user", "assistant"] * len(turns)
        if not turns or any(turn["role"] != role for turn, role in zip(turns, expected, strict=False)):
            roles = [turn["role"] for turn in turns]
            raise ValueError(f"messages.role = {roles}; turns alternate and the user begins; user, assistant, user, ...")
        return turns

    def _prompt_head(self) -> list[int]:
        if self.tokenizer.chat_template is not None or self.tokenizer.tokens.bos is None:
            return []
        return [self.tokenizer.tokens.bos]

    def _user(self, turns: Sequence[Message]) -> list[int]:
        """Ids of the last user turn and the assistant's header behind it."""
        if self.tokenizer.chat_template is None:
            if not self.tokenizer.special_text:
                raise ValueError("tokenizer.chat_template = null; this tokenizer has none; one that brings a chat template")
            return [USER, *self.tokenizer.encode_known(turns[-1]["content"]), ASSISTANT]
        before = self._jinja(turns[:-1], is_open=False) if len(turns) > 1 else ""
        whole = self._jinja(turns, is_open=True)
        text = whole.removeprefix(before)
        # A pretrained template writes its special tokens as text, which only here may become special ids.
        self.tokenizer.backend.encode_special_tokens = False
        try:
            return self.tokenizer.backend.encode(text, add_special_tokens=False).ids
        finally:
            self.tokenizer.backend.encode_special_tokens = True

    def _jinja(self, turns: Sequence[Message], *, is_open: bool) -> str:
        import jinja2.sandbox

        def refuse(message: str) -> None:
            raise ValueError(f"chat template: {message}")

        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = refuse
        names: dict[str, Any] = {}
        for role in ("bos", "eos", "pad"):
            token = getattr(self.tokenizer.tokens, role)
            names[f"{role}_token"] = self.tokenizer.backend.id_to_token(token) if token is not None else ""
        template = environment.from_string(str(self.tokenizer.chat_template))
        return template.render(messages=list(turns), add_generation_prompt=is_open, **names)
