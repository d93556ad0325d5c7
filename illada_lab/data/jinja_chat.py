"""Chat templates that pretrained tokenizers bring: Jinja texts."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from os.path import commonprefix
from typing import Any, ClassVar

from illada_lab.data.tokenizer import Tokenizer

Message = dict[str, str]


class JinjaChat:
    """A pretrained tokenizer's chat template, rendered turn by turn, so that it is known which tokens are whose.

    Args:
        tokenizer: a tokenizer with a `chat_template`.

    Raises:
        ValueError: the template is broken.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        import jinja2
        import jinja2.ext
        import jinja2.sandbox

        class Generation(jinja2.ext.Extension):
            """`{% generation %}`, which marks what the assistant says for trainers that mask the rest; here it writes its content."""

            tags: ClassVar[set[str]] = {"generation"}

            def parse(self, parser: Any) -> Any:
                next(parser.stream)
                return parser.parse_statements(("name:endgeneration",), drop_needle=True)

        def refuse(message: str) -> None:
            raise jinja2.TemplateError(message)

        self.tokenizer = tokenizer
        # As in transformers, for which the templates were written.
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
        )
        environment.globals["raise_exception"] = refuse
        self._error, self._undefined = jinja2.TemplateError, jinja2.UndefinedError
        try:
            self.template = environment.from_string(str(tokenizer.chat_template))
        except jinja2.TemplateError as error:
            raise ValueError(
                f"tokenizer.chat_template; cannot be read ({error}); a Jinja template, as it was published"
            ) from error
        self.names: dict[str, Any] = {}
        for role in ("bos", "eos", "pad", "unk"):
            token = getattr(tokenizer.tokens, role)
            self.names[f"{role}_token"] = "" if token is None else tokenizer.backend.id_to_token(token) or ""

    @cached_property
    def has_system_role(self) -> bool:
        """Whether a system message shows in what the template writes."""
        try:
            return "SYSTEM-TEXT" in self._text([_said("system", "SYSTEM-TEXT"), _said("user", "text")], is_open=True)
        except ValueError:
            return False

    @cached_property
    def _unasked(self) -> str:
        """The assistant's header that the template writes behind an answer too, whatever it is told (LLaDA's does); "" elsewhere."""
        asked, answered, further = _said("user", "ASKED"), _said("assistant", "ANSWERED"), _said("user", "FURTHER")
        try:
            opened = self._text([asked], is_open=True)
            closed = self._text([asked, answered], is_open=False)
            whole = self._text([asked, answered, further], is_open=True)
        except ValueError:
            return ""
        if whole.startswith(closed):
            return ""
        behind, between = closed.rpartition("ANSWERED")[2], whole.rpartition("ANSWERED")[2].partition("FURTHER")[0]
        # An answer is closed by what stands before the next question but not before the first, its end token at least.
        n_closing = len(between) - len(commonprefix([between[::-1], opened.partition("ASKED")[0][::-1]]))
        names = [self.tokenizer.backend.id_to_token(token) for token in self.tokenizer.tokens.stop_ids]
        ends = [behind.index(name) + len(name) for name in names if name and name in behind]
        header = behind[max(n_closing, min(ends, default=0)) :]
        return header if opened.endswith(header) else ""

    def parts(self, turns: Sequence[Message]) -> Iterator[tuple[list[int], bool]]:
        """Pieces of a conversation: ids, and whether they are prompt.

        A response is the assistant's text up to and with its end token. EOS is added where the template writes none.

        Raises:
            ValueError: the template rewrites earlier turns, or a text spells a special token.
        """
        done = ""
        for i, turn in enumerate(turns):
            # The template's own special tokens become ids below, the speakers' must not.
            if special := self.tokenizer.special_in(turn["content"]):
                raise ValueError(
                    f"messages[{i}].content = {special!r}; spells a special token of this tokenizer; leave it out"
                )
            if turn["role"] == "system":
                continue
            whole = self._text(turns[: i + 1], is_open=turn["role"] == "user")
            if turn["role"] == "assistant":
                whole = whole.removesuffix(self._unasked)
            if not whole.startswith(done):
                raise ValueError(
                    f"messages[{i}]; the chat template rewrites earlier turns when this one follows; one turn at a time"
                )
            text, done = whole[len(done) :], whole
            if turn["role"] == "user":
                yield self._encode(text), True
                continue
            said = turn["content"].strip()
            before, found, end = text.partition(said)
            if not found or before.strip():
                raise ValueError(f"messages[{i}]; the chat template changes what the assistant says; another template")
            ending, stops = self._encode(end), self.tokenizer.tokens.stop_ids
            n = next((n for n, token in enumerate(ending, 1) if token in stops), None)
            closing = [*ending, self.tokenizer.tokens.eos] if n is None else ending[:n]
            yield [*self.tokenizer.encode(before + said), *closing], False
            if n is not None and i + 1 < len(turns):
                yield ending[n:], True

    def _encode(self, text: str) -> list[int]:
        """Ids of text in which special tokens are written out."""
        backend = self.tokenizer.backend
        backend.encode_special_tokens = False
        try:
            return backend.encode(text, add_special_tokens=False).ids
        finally:
            backend.encode_special_tokens = True

    def _text(self, turns: Sequence[Message], *, is_open: bool) -> str:
        try:
            return self.template.render(messages=list(turns), add_generation_prompt=is_open, **self.names)
        except self._undefined as error:  # strftime_now of some: a date in it would make other data of each day
            raise ValueError(
                f"tokenizer.chat_template; uses what nobody gives it here ({error}); data.chat_template=<a Jinja file without it>, or plain"
            ) from error
        except self._error as error:
            raise ValueError(f"messages; the chat template refuses them ({error}); other turns") from error


def _said(role: str, content: str) -> Message:
    return {"role": role, "content": content}
