"""How a configuration says what is wrong with it."""

from collections.abc import Sequence

from omegaconf import DictConfig


class ConfigError(ValueError):
    """A configuration cannot be used; the message lists every problem, one line each.

    Args:
        problems: lines of the form "key = value; why it is wrong; nearest legal values".
        usable: what could be composed in spite of them, so that `check` can look for more; None: nothing.
    """

    def __init__(self, problems: Sequence[str], usable: DictConfig | None = None) -> None:
        self.problems, self.usable = list(problems), usable
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type["ConfigError"], tuple[list[str], DictConfig | None]]:
        """From its problems, not from its message: it comes out of other processes too."""
        return type(self), (self.problems, self.usable)


def first_line(error: BaseException) -> str:
    """First line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
