"""The calls to the database: what a process asks for and settles goes out in one statement, on one connection."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from shared.db.database import AWAY, Database
from shared.limits.cells import NEVER, Cell, Lease, Settlement
from shared.limits.slots import SLOT_SECONDS, Slots

CALL_SECONDS = 2.0
"""A call without an answer by then is given up, with its connection."""
CONTENDED_SECONDS = 1.0
"""After a refusal while others hold units, which may come back any moment, calls are refused for so long at most
without waiting; meanwhile it is asked again and again on their behalf."""


class Unreachable(Exception):
    """The database was not asked, or did not answer."""


class Counters:
    """``check_rate_limit`` and ``hold_slots`` of ``schema``, for one replica."""

    def __init__(self, database: Database, schema: str, replica: UUID) -> None:
        self._database = database
        self._replica = replica
        self._check = f"SELECT * FROM {schema}.check_rate_limit($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13)"  # noqa: S608
        self._hold = f"SELECT * FROM {schema}.hold_slots($1,$2,$3,$4,$5,$6,$7,$8,$9,$10)"  # noqa: S608
        self._connection: Any = None
        self._statements = 0
        self.calls = 0

    async def connect(self) -> None:
        """Make sure that there is a connection; raises ``Unreachable``. Nothing has been asked yet then."""
        if self._connection is not None and not self._connection.is_closed():
            return
        try:
            async with asyncio.timeout(CALL_SECONDS):
                self._connection = await self._database.connect()
        except AWAY as error:
            raise Unreachable(str(error) or type(error).__name__) from error

    async def check(
        self, cells: Sequence[Cell], wanted: Sequence[tuple[int, int]], settlements: Sequence[Settlement], now: float
    ) -> list[Lease]:
        """Settle, and ask for ``wanted`` (need, want) units of each cell; raises ``Unreachable``.

        After an error nobody knows what was done. Nothing of it may be said again: units that were given back
        twice would be granted twice.
        """
        count, owed = len(settlements), list[tuple[Cell, int, int]]()
        items: list[tuple[Any, ...]] = [
            (each.key, "hour", "UTC", 0, 0, 0, each.window, each.spent, each.unused) for each in settlements
        ]
        for cell, (need, want) in zip(cells, wanted, strict=True):
            policy, spent, unused = cell.policy, cell.spent, -cell.credit
            if now >= cell.expires:
                unused, cell.left = unused + max(cell.left, 0), 0
            if cell.credit:
                owed.append((cell, cell.window, cell.credit))
            cell.spent = cell.credit = 0
            settles = cell.window or (-1 if spent or unused else 0)
            items.append((cell.key, policy.window, policy.timezone, cell.quota, need, want, settles, spent, unused))
        keys, *columns = zip(*items, strict=True)
        organizations, policies, epochs, subjects = zip(*keys, strict=True)
        try:
            rows = await self._call(self._check, self._replica, organizations, policies, epochs, subjects, *columns)
        except Unreachable:
            for cell, window, credit in owed:  # debited twice at worst, which only wastes
                cell.credit += credit if cell.window == window else 0
            raise
        leases: list[Any] = [None] * len(cells)
        for item, granted, *rest in rows:
            place = item - count - 1
            leases[place] = _lease(granted, wanted[place][0], now, *rest)
        return leases

    async def hold(self, cells: Sequence[Slots], wanted: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
        """State how many slots are to be held of each: (held, remaining, replicas); raises ``Unreachable``."""
        organizations, policies, epochs, subjects = zip(*(cell.key for cell in cells), strict=True)
        needs, wants = zip(*wanted, strict=True)
        quotas = [cell.quota for cell in cells]
        self._statements += 1
        stated = (organizations, policies, epochs, subjects, quotas, needs, wants)
        rows = await self._call(self._hold, self._replica, *stated, SLOT_SECONDS, self._statements)
        found = {row["item"]: (row["held"], row["remaining"], row["replicas"]) for row in rows}
        return [found[place] for place in range(1, len(cells) + 1)]

    async def _call(self, sql: str, *arguments: Any) -> Any:
        self.calls += 1
        try:
            async with asyncio.timeout(CALL_SECONDS):
                return await self._connection.fetch(sql, *arguments)
        except AWAY as error:
            self.close()
            raise Unreachable(str(error) or type(error).__name__) from error
        except BaseException:
            self.close()  # cancelled in the middle: whatever it answers is for nobody
            raise

    def close(self) -> None:
        """End the connection without waiting for anything."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


def _lease(
    granted: int,
    need: int,
    now: float,
    remaining: int,
    window: int,
    resets_in: float,
    seconds: float,
    outstanding: bool,
    replicas: int,
) -> Lease:
    resets_at = now + resets_in
    retry_at, contended = NEVER, outstanding and granted < need
    if granted < need:
        retry_at = min(now + CONTENDED_SECONDS, resets_at) if contended else resets_at
    expires = min(now + seconds, resets_at)
    return Lease(now, granted, remaining, window, resets_at, expires, retry_at, contended, replicas)
