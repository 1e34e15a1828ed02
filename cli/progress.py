"""Progress of long first-run steps: a spinner on a terminal, plain lines in a log."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_LINE_EVERY_SECONDS = 5.0


class Step:
    """One step under way. ``update`` tells how far it is; it may be called from any thread."""

    def __init__(self, title: str, show: "_Display") -> None:
        self.title = title
        self._show = show

    def update(self, done: int | None = None, total: int | None = None, *, note: str = "") -> None:
        """Say how far it is: ``done`` of ``total``, and what is being worked on."""
        amount = f"{done:,} of {total:,}" if done is not None and total else f"{done:,}" if done is not None else ""
        self._show.detail(" · ".join(part for part in (amount, note) if part))


class _Display:
    """Plain lines: when the step begins, at most every few seconds while it lasts, and when it ends."""

    def __init__(self, title: str, stream: TextIO) -> None:
        self.title = title
        self._stream = stream
        self._last = time.monotonic()
        self._lock = threading.Lock()

    def begin(self) -> None:
        self._print(f"{self.title} …")

    def detail(self, text: str) -> None:
        with self._lock:
            due = time.monotonic() - self._last >= _LINE_EVERY_SECONDS
            if due:
                self._last = time.monotonic()
        if due:
            self._print(f"{self.title} … {text}")

    def end(self, text: str) -> None:
        self._print(text)

    def _print(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class _Terminal(_Display):
    """A spinner that is replaced by one line when the step ends."""

    def begin(self) -> None:
        # rich takes 60 ms to import; only a person at a terminal waits for it.
        from rich.console import Console

        self._console = Console(file=self._stream)
        self._status = self._console.status(f"{self.title} …")
        self._status.start()

    def detail(self, text: str) -> None:
        self._status.update(f"{self.title} … [dim]{text}[/dim]")

    def end(self, text: str) -> None:
        self._status.stop()
        self._console.print(text, highlight=False)


@contextmanager
def step(title: str, *, stream: TextIO | None = None) -> Iterator[Step]:
    """Show that ``title`` is under way for as long as the block runs, then how long it took or that it failed."""
    target = stream or sys.stderr
    display = _Terminal(title, target) if target.isatty() else _Display(title, target)
    started = time.monotonic()
    display.begin()
    try:
        yield Step(title, display)
    except BaseException as error:
        word = "failed" if isinstance(error, Exception) else "stopped"
        display.end(f"✗ {title}: {word} after {time.monotonic() - started:.1f} s")
        raise
    display.end(f"✓ {title} ({time.monotonic() - started:.1f} s)")
