"""Remembers when keys were last used and writes it down in batches, at most once a minute per key."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from datetime import UTC, datetime

from shared.db import Database
from shared.db.database import AWAY
from shared.errors import ServiceUnavailable

logger = logging.getLogger(__name__)

GRANULARITY_SECONDS = 60.0
_CAPACITY = 20_000
TOUCH_SQL = "SELECT identity.touch_api_keys($1::text[], $2::timestamptz[])"


class LastUsed:
    """Write-behind of last-used times; what is lost in a crash is less than a flush interval."""

    def __init__(self, database: Database, flush_seconds: float = 10.0) -> None:
        self._database = database
        self._flush_seconds = flush_seconds
        self._noted: dict[str, float] = {}
        self._unwritten: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    def touch(self, public_id: str, now: float) -> None:
        """Note that a key was used at unix time ``now``."""
        if now - self._noted.get(public_id, 0.0) >= GRANULARITY_SECONDS and len(self._noted) < _CAPACITY:
            self._noted[public_id] = self._unwritten[public_id] = now

    def start(self) -> None:
        """Begin to write in a task of its own."""
        self._task = asyncio.create_task(self._run(), name="gateway-last-used")

    async def stop(self) -> None:
        """Write what is left and stop."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self.flush()

    async def flush(self) -> None:
        """Write what was noted; keeps it for the next time when the database is away."""
        batch, self._unwritten = self._unwritten, {}
        if not batch:
            return
        oldest = max(batch.values()) - GRANULARITY_SECONDS
        self._noted = {key: at for key, at in self._noted.items() if at > oldest}
        times = [datetime.fromtimestamp(at, UTC) for at in batch.values()]
        try:
            async with self._database.pool.acquire(timeout=2) as connection:
                await connection.execute(TOUCH_SQL, list(batch), times, timeout=5)
        except (ServiceUnavailable, *AWAY) as error:
            logger.warning("last-used times of %d keys are kept for later: %s", len(batch), error)
            self._unwritten = batch | self._unwritten

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._flush_seconds)
            await self.flush()
