"""Clients that are wrong on purpose (``--mutant``): a run that finds nothing wrong with one of them shows nothing."""

import math
from collections.abc import Callable, Mapping

from shared.limits.cells import Cell, Lease, Settlement
from shared.limits.slots import Slots


def debit_after_spending() -> None:
    """Spends first and tells later, as most limiters with a local cache do."""
    Cell.may_borrow = lambda self, cost, now: now >= self.refused_until  # type: ignore[method-assign]


def return_twice() -> None:
    """Says twice that units were not used."""
    right = Cell._settle

    def settle(self: Cell, unused: int) -> Settlement | None:
        found = right(self, unused)
        return found and Settlement(found.key, found.window, found.spent, found.unused + max(unused, 0))

    Cell._settle = settle  # type: ignore[method-assign]


def ignore_the_end() -> None:
    """Goes on spending what is left of a window after its end."""
    right = Cell.receive

    def receive(self: Cell, lease: Lease, took: float) -> None:
        right(self, lease, took)
        self.expires += 5.0

    def roll(self: Cell, now: float) -> Settlement | None:
        return None if now < self.expires and self.left > 0 else right_roll(self, now)

    right_roll = Cell.roll
    Cell.receive, Cell.roll = receive, roll  # type: ignore[method-assign]


def deny_for_ever() -> None:
    """Remembers a refusal and forgets when it ends."""
    right = Cell.receive

    def receive(self: Cell, lease: Lease, took: float) -> None:
        right(self, lease, took)
        if self.refused_until > -math.inf:
            self.refused_until += 5.0

    def roll(self: Cell, now: float) -> Settlement | None:
        denied = self.refused_until
        found = right_roll(self, now)
        self.refused_until = denied
        return found

    right_roll = Cell.roll
    Cell.receive, Cell.roll = receive, roll  # type: ignore[method-assign]


def understate() -> None:
    """States fewer slots than it has calls running."""
    right = Slots.wants

    def wants(self: Slots, now: float, waiting: int) -> tuple[int, int]:
        need, want = right(self, now, waiting)
        return max(need - 1, 0), max(want - 1, 0)

    def hold(self: Slots, held: int, remaining: int, replicas: int, need: int, asked_at: float) -> None:
        right_hold(self, held + 1, remaining, replicas, need, asked_at)

    right_hold = Slots.hold
    Slots.wants, Slots.hold = wants, hold  # type: ignore[method-assign]


MUTANTS: Mapping[str, Callable[[], None]] = {
    each.__name__.replace("_", "-"): each
    for each in (debit_after_spending, return_twice, ignore_the_end, deny_for_ever, understate)
}
