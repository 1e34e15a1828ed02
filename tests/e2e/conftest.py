"""One running platform for all end-to-end tests of a worker, with its demo organisations and no history."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.platform import RunningPlatform


@contextmanager
def _home() -> Iterator[Path]:
    # Not below pytest's folders: those are private, and PostgreSQL runs as another account when we are root.
    with tempfile.TemporaryDirectory(prefix="guardian-e2e-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "home"


@pytest.fixture(scope="session")
def platform() -> Iterator[RunningPlatform]:
    """A platform that has started and answers."""
    with _home() as home:
        # The fuzzer guesses passwords; the tests after it must still be able to sign in.
        relaxed = {f"GUARDIAN_IDENTITY_WRONG_PASSWORDS_PER_{each}": "100000" for each in ("ACCOUNT", "ADDRESS")}
        running = RunningPlatform(home, GUARDIAN_DEMO_HISTORY="false", **relaxed)
        running.start()
        yield running
        running.stop()


@pytest.fixture
def own_platform() -> Iterator[RunningPlatform]:
    """A platform of this test alone, not started yet."""
    with _home() as home:
        running = RunningPlatform(home, GUARDIAN_DEMO_HISTORY="false")
        yield running
        if running.process is not None:
            running.stop()
