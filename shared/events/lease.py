"""A named lease in a service's schema: one holder at a time, with an epoch that fences the one before.

An advisory lock would survive in a process that is paused; a lease expires. Its holder passes
``owner`` and ``epoch`` to the statement it protects, so that a holder who slept through the expiry
changes nothing.
"""

import time
from datetime import timedelta

from shared.db import Database
from shared.ids import new_id

_HOLD = """
INSERT INTO leases AS l (name, owner, epoch, lease_until) VALUES ($1, $2, 1, clock_timestamp() + $3::interval)
ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, lease_until = excluded.lease_until,
  epoch = l.epoch + (l.owner IS DISTINCT FROM excluded.owner)::int
WHERE l.owner = excluded.owner OR l.lease_until < clock_timestamp()
RETURNING l.epoch
"""
_RELEASE = "UPDATE leases SET owner = NULL, lease_until = '-infinity' WHERE name = $1 AND owner = $2"


class Lease:
    """``hold`` it before each piece of work; renewals happen at a third of its length."""

    def __init__(self, database: Database, name: str, seconds: float = 6.0) -> None:
        self.name = name
        self.owner = new_id()
        self.epoch: int | None = None
        self._database = database
        self._seconds = seconds
        self._renewed = 0.0
        self._renewed_at = 0.0

    @property
    def held(self) -> bool:
        """Whether it was ours when last looked at."""
        return self.epoch is not None

    @property
    def lasts(self) -> bool:
        """Whether it cannot have run out yet; both clocks count, as one of them may stop while the machine sleeps."""
        passed = max(time.monotonic() - self._renewed, time.time() - self._renewed_at)
        return self.held and passed < self._seconds

    async def hold(self) -> bool:
        """Take or renew the lease; False while somebody else has it."""
        now, now_at = time.monotonic(), time.time()
        if self.epoch is not None and now - self._renewed < self._seconds / 3:
            return True
        self.epoch = await self._database.pool.fetchval(_HOLD, self.name, self.owner, timedelta(seconds=self._seconds))
        self._renewed, self._renewed_at = now, now_at
        return self.epoch is not None

    def lost(self) -> None:
        """A protected statement found another holder."""
        self.epoch = None

    async def release(self) -> None:
        """Let the next one have it at once."""
        if self.epoch is not None:
            self.epoch = None
            await self._database.pool.execute(_RELEASE, self.name, self.owner)
