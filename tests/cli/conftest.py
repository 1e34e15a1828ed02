"""Fixtures of the tests of the command line."""

from tests.cli.embedded import hold, home

__all__ = ["hold", "home"]
