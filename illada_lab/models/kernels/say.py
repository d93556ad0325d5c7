"""Messages that are worth saying once."""

import functools
import warnings


@functools.cache
def say_once(message: str) -> None:
    """Warn, the first time this message comes up in this process."""
    warnings.warn(message, stacklevel=3)
