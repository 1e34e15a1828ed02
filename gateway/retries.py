"""How often what failed is tried again: one time in ten requests, so that retries cannot be what keeps a service down."""

from __future__ import annotations

SHARE = 0.1
MOST = 20.0
PAUSE_SECONDS = 0.05
"""The longest pause before a retry; how much of it is drawn at random, so that those who failed together part."""


class RetryBudget:
    """A token bucket: each request adds ``SHARE`` of a retry, up to ``MOST``."""

    def __init__(self) -> None:
        self._tokens = MOST
        self.spent = 0

    def earn(self) -> None:
        """A request was passed on."""
        if self._tokens < MOST:
            self._tokens += SHARE

    def spend(self) -> bool:
        """Whether one may be tried again; it counts."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        self.spent += 1
        return True
