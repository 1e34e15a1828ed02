"""What one process holds of one limit: units it may spend at once, because the database has debited them already.

A cell is never wrong in the dangerous direction: units it holds are in the row's ``used``, units it forgets stay
there until the window ends. Times are seconds on this process's own monotonic clock, counted from before a call was
sent, so that a lease ends here before it ends there, whatever the clocks of the two machines say.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from uuid import UUID

from shared.limits.decision import Source, Verdict
from shared.limits.policies import Policy

NEVER = -math.inf
LOW = 0.3
"""The share of a lease that is left when the next one is asked for."""
SMALLEST = 8
AHEAD_SECONDS = 0.25
"""A lease is what this process spends in so many seconds, but at least ``SMALLEST`` units or a thousandth of the quota."""
REOPENED_SECONDS = 1.0
_SMOOTHING = 0.5
_EARLY = (0.1, 0.4)
_random = random.Random()  # noqa: S311 (spreads renewals)

Key = tuple[UUID, UUID, int, str]
"""Organisation, policy, epoch, subject."""


@dataclass(slots=True, frozen=True)
class Settlement:
    """What became of units of a window: ``spent`` of those held, ``unused`` given back (negative: spent on credit)."""

    key: Key
    window: int
    spent: int
    unused: int


@dataclass(slots=True)
class Lease:
    """The database's answer for one cell, its times counted from before it was asked."""

    asked_at: float
    granted: int
    remaining: int
    window: int
    resets_at: float
    expires: float
    retry_at: float
    contended: bool
    replicas: int


@dataclass(slots=True, eq=False)
class Cell:
    """One subject of one policy, as far as this process is concerned.

    Until ``refused_until`` nothing more is to be had: for the rest of the window, or, where it is ``contended``, until
    other processes give back what they hold and do not spend. Then ``missed`` says that it is worth asking again.
    """

    key: Key
    policy: Policy
    quota: int
    subject: str = field(init=False)
    left: int = 0
    expires: float = NEVER
    low: int = 0
    spent: int = 0
    credit: int = 0
    lent: int = 0
    window: int = 0
    began: float = NEVER
    resets_at: float = NEVER
    remaining: int = 0
    replicas: int = 1
    refused_until: float = NEVER
    contended: bool = False
    missed: bool = False
    asking: bool = False
    asked_at: float = NEVER
    rate: float = 0.0
    leased_at: float = NEVER
    renews_at: float = NEVER
    revoked_at: float = NEVER
    freed_at: float = NEVER
    used_at: float = NEVER
    share: int | None = None
    dropped: bool = False
    due: float = math.inf

    def __post_init__(self) -> None:
        self.subject = self.key[3]

    def take(self, cost: int) -> None:
        """Spend units that are held."""
        self.left -= cost
        self.spent += cost

    def give_back(self, cost: int, taken_at: float, now: float) -> Settlement | None:
        """What was taken did not count after all; what is to be said about it when it was reported already."""
        if taken_at < self.began or now >= self.resets_at:
            return None  # of a window that is over, or of none that is known
        if self.spent >= cost and now < self.expires:
            self.spent -= cost
            self.left += cost
            return None
        if not self.window:
            return None
        self.refused_until = NEVER  # there is something to be had again
        return Settlement(self.key, self.window, -cost, cost)

    def roll(self, now: float) -> Settlement | None:
        """Begin the next window if this one has ended; what is to be said about the last one."""
        if now < self.resets_at or self.resets_at == NEVER:
            return None
        last, self.began = self._settle(max(self.left, 0)), self.resets_at
        ended = max(self.policy.seconds, 1)
        # Windows of up to an hour follow each other like ticks; the start of later ones is for the database to say.
        passed = int((now - self.resets_at) // ended) + 1
        known = self.window > 0 and ended <= 3600
        self.window = self.window + passed * ended if known else 0
        self.resets_at += passed * ended
        self.left, self.expires, self.refused_until, self.share = 0, NEVER, NEVER, None
        self.remaining, self.lent = self.quota, 0
        return last

    def settle(self, now: float) -> Settlement | None:
        """Give back what is held and say what was spent; None when there is nothing to say."""
        rolled = self.roll(now)
        if rolled is not None:
            return rolled
        unused, self.left, self.expires = max(self.left, 0), 0, NEVER
        if unused:
            self.refused_until = NEVER  # of what is given back now, somebody may have some
        return self._settle(unused)

    def reopen(self, now: float) -> None:
        """Somebody has given back units of a limit that was used up: calls are refused until it is asked again, soon."""
        self.freed_at = now
        if now < self.refused_until:
            self.contended, self.missed = True, True
            self.refused_until = min(self.refused_until, now + REOPENED_SECONDS)

    def _settle(self, unused: int) -> Settlement | None:
        spent, credit, self.spent, self.credit = self.spent, self.credit, 0, 0
        if not (spent or credit or unused):
            return None
        return Settlement(self.key, self.window or -1, spent, unused - credit)

    def wants(self, now: float, waiting: int) -> tuple[int, int]:
        """The units to ask for: at least, because calls wait for so many, and gladly. What is held already counts."""
        self.missed = False
        need = max(waiting - max(self.left, 0), 1)
        if self.policy.mode == "strict":
            return need, need
        elapsed = now - self.asked_at
        if elapsed > 0.01:
            seen = self.spent / elapsed  # since it was last reported, which is when it was last asked
            self.rate = seen if self.rate == 0 else _SMOOTHING * seen + (1 - _SMOOTHING) * self.rate
            self.asked_at = now
        return need, max(need, SMALLEST, self.quota // 1000, int(self.rate * AHEAD_SECONDS))

    def receive(self, lease: Lease, took: float) -> None:
        """Hold what was granted, ``took`` seconds after it was asked for. Of an earlier window's units nothing is left."""
        if lease.window != self.window:
            self.left, self.began = 0, lease.asked_at
        elif self.expires == NEVER:
            self.left = 0
        self.left += lease.granted
        # The next is asked for before calls have to wait for it; with nothing left to have it would only be refused.
        self.low = int(max(self.left * LOW, self.rate * took * 2)) if lease.remaining else -1
        self.window, self.resets_at, self.expires = lease.window, lease.resets_at, lease.expires
        self.leased_at = lease.asked_at
        # A lease in use is renewed in good time, and not all of them at once.
        self.renews_at = self.expires - (self.expires - self.leased_at) * _random.uniform(*_EARLY)
        self.remaining, self.replicas, self.share = lease.remaining, lease.replicas, None
        self.refused_until, self.contended = lease.retry_at, lease.contended
        if self.freed_at >= lease.asked_at:
            self.reopen(self.freed_at)  # what came back meanwhile may not be in this answer
        # What was borrowed before it was asked is debited now; after a refusal there is no credit before a grant.
        self.lent = self.credit if lease.retry_at == NEVER else max(self.credit, self.allowance)

    def revoke(self, now: float) -> Settlement | None:
        """Whatever was said before may not hold any more, nor what is being answered now: give back what is held."""
        self.revoked_at, self.refused_until = now, NEVER
        return self.settle(now)

    def retry_in(self, now: float) -> float:
        """When to come back after a refusal, in seconds."""
        return self.refused_until - now if self.contended else self.resets_at - now

    @property
    def idle(self) -> bool:
        """Whether nothing would be lost by forgetting it."""
        return not (self.left or self.spent or self.credit or self.asking)

    @property
    def allowance(self) -> int:
        """The credit of a ``fast`` policy: a tenth of the quota, shared by everybody who counts."""
        return max(self.quota // (10 * self.replicas), 1) if self.quota else 0

    def may_borrow(self, cost: int, now: float) -> bool:
        """Whether a call may go on before the database was asked."""
        return self.policy.mode == "fast" and now >= self.refused_until and self.lent + cost <= self.allowance

    def borrow(self, cost: int) -> None:
        """Spend what the database has not debited yet; it will be told."""
        self.credit += cost
        self.lent += cost
        self.spent += cost

    def share_left(self, now: float) -> int:
        """What this process may spend of the window without asking: its part of what was last known to be left."""
        if self.resets_at == NEVER:
            self.resets_at = now + self.policy.seconds  # as good a window as any, until the database says
        if self.share is None:
            self.share = (self.remaining if self.window else self.quota) // self.replicas
        return self.share

    def verdict(self, now: float, *, allowed: bool, source: Source) -> Verdict:
        """This limit's word on a call; of a window that nobody has asked about yet, all there can be."""
        known = self.resets_at != NEVER
        remaining = max(max(self.left, 0) + (self.remaining if known else self.quota) - self.credit, 0)
        resets_in = max(self.resets_at - now, 0.0) if known else float(self.policy.seconds)
        if not allowed and self.left <= 0:
            remaining = 0
        return Verdict(self.policy, self.subject, self.quota, remaining, resets_in, allowed, source)
