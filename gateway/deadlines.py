"""When requests must have been answered. One look every few hundredths of a second at all that are under way costs less
than a timer for each.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

LOOK_SECONDS = 0.025


class Due(Protocol):
    """Something with a time limit."""

    def overdue(self) -> float | None:
        """Called when its time is up: seconds it may take longer, or None."""
        ...


class Deadlines:
    """Watches over what was added and not removed; times are those of ``time.perf_counter``."""

    def __init__(self) -> None:
        self._due: dict[Due, float] = {}
        self._looking = False

    def add(self, due: Due, at: float) -> None:
        """Call ``due.overdue()`` at a time."""
        self._due[due] = at
        if not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def remove(self, due: Due) -> None:
        """Forget about it."""
        self._due.pop(due, None)

    def _look(self) -> None:
        now = time.perf_counter()
        for due in [each for each, at in self._due.items() if at <= now]:
            longer = due.overdue()
            if longer is None:
                self._due.pop(due, None)
            else:
                self._due[due] = now + longer
        self._looking = bool(self._due)
        if self._looking:
            asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)
