"""The small trained models of the commands' tests."""

from tests.commands.conftest import models  # noqa: F401
