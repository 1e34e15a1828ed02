"""Calls at the same time: a process holds slots, renews them while it uses them, and loses them when it dies.

Unlike units of a window a slot comes back. A process states the whole number it wants to hold, so that a repeated or
lost statement changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.limits.cells import NEVER, Cell, Settlement

SLOT_SECONDS = 10.0
"""How long slots are held without being renewed."""
_RETRY_SECONDS = 0.05


@dataclass(slots=True, eq=False)
class Slots(Cell):
    """``left`` is what is held and not in use."""

    running: int = 0
    peak: int = 0
    touched: bool = False

    def take(self, cost: int) -> None:  # noqa: ARG002 (a cell's)
        """A call begins."""
        self.left -= 1
        self.running += 1
        self.peak = max(self.peak, self.running)
        self.touched = True

    def borrow(self, cost: int) -> None:
        """A call begins that the database does not know of."""
        self.take(cost)

    def release(self) -> None:
        """A call has ended."""
        self.left += 1
        self.running -= 1

    def give_back(self, cost: int, taken_at: float, now: float) -> Settlement | None:  # noqa: ARG002 (a cell's)
        """A slot comes back when the call ends, however it ends."""
        return None

    def roll(self, now: float) -> Settlement | None:  # noqa: ARG002 (a cell's)
        """There is no window that could end."""
        return None

    def settle(self, now: float) -> Settlement | None:  # noqa: ARG002 (a cell's)
        """Slots are not settled but restated."""
        self.expires = NEVER
        return None

    def may_borrow(self, cost: int, now: float) -> bool:
        """Whether a call may begin beyond what is held."""
        return self.policy.mode == "fast" and now >= self.refused_until and cost - min(self.left, 0) <= self.allowance

    def wants(self, now: float, waiting: int) -> tuple[int, int]:
        """The slots to hold: those in use, waited for and kept, and gladly a few more.

        What is not kept is given up here and now: calls that begin before the answer must be within what was stated.
        """
        spare = max(self.peak + 2 - self.running, 0) if self.touched and now < self.expires else 0
        self.left = min(self.left, spare)
        need = self.running + max(self.left, 0) + waiting
        want = max(need, self.peak + 2) if self.touched else need
        self.peak, self.touched = self.running, False
        return need, want

    def hold(self, held: int, remaining: int, replicas: int, need: int, asked_at: float) -> None:
        """What was granted, counted from when it was asked for."""
        self.left = held - self.running
        self.low = -1
        self.leased_at, self.expires = asked_at, asked_at + SLOT_SECONDS
        self.remaining, self.replicas, self.share = remaining, replicas, None
        self.resets_at = asked_at + 1.0  # a call that ends is what is waited for; nobody knows when
        self.refused_until = asked_at + _RETRY_SECONDS if held < need else NEVER

    def ages(self, now: float) -> bool:
        """Whether it is time to state again what is held."""
        return (self.running > 0 or self.expires != NEVER) and now >= (self.leased_at + self.expires) / 2

    def share_left(self, now: float) -> int:  # noqa: ARG002 (a cell's)
        """How many more calls may run here without asking."""
        return self.quota // self.replicas - self.running

    @property
    def idle(self) -> bool:
        """Whether nothing would be lost by forgetting it."""
        return not (self.running or self.asking or self.expires != NEVER)
