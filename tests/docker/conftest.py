"""The command, as in the tests of commands."""

from tests.commands.conftest import metarl

__all__ = ["metarl"]
