"""Progress lines: plain in a log, a spinner on a terminal, and an end either way."""

import asyncio
import io
import os
import pty

import pytest

from cli import progress
from cli.progress import step


def test_a_log_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(progress, "_LINE_EVERY_SECONDS", 0.0)
    with step("Loading the demo history", stream=stream) as current:
        current.update(1000, 2000, note="contacts")
        current.update(note="deals")
        current.update(12)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "Loading the demo history …"
    assert lines[1] == "Loading the demo history … 1,000 of 2,000 · contacts"
    assert lines[2] == "Loading the demo history … deals"
    assert lines[3] == "Loading the demo history … 12"
    assert lines[4].startswith("✓ Loading the demo history (")


def test_a_log_is_not_flooded() -> None:
    stream = io.StringIO()
    with step("Loading", stream=stream) as current:
        for done in range(1000):
            current.update(done, 1000)
    assert len(stream.getvalue().splitlines()) == 2


@pytest.mark.parametrize(
    "error, word",
    [(ValueError("no"), "failed"), (KeyboardInterrupt(), "stopped"), (asyncio.CancelledError(), "stopped")],
)
def test_a_step_that_does_not_end_well_says_so(error: BaseException, word: str) -> None:
    stream = io.StringIO()
    with pytest.raises(type(error)), step("Loading", stream=stream):
        raise error
    assert stream.getvalue().splitlines()[-1].startswith(f"✗ Loading: {word} after")


def test_a_terminal_gets_a_spinner_and_one_line_at_the_end() -> None:
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as terminal:
        with step("Loading", stream=terminal) as current:
            current.update(1, 2)
        terminal.flush()
        shown = b""
        while "✓ Loading (".encode() not in shown:  # a terminal hands its text over in pieces
            shown += os.read(leader, 65536)
    os.close(leader)
