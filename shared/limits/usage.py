"""Usage: every call is counted in this process's memory, and written down once a second.

A crash loses what was counted since the last writing, a second at most. While the database is away everything is
kept, and written when it is back; what nobody could hold in memory is merged, not dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import NamedTuple
from uuid import UUID

from prometheus_client import Counter, Gauge

from shared import clock
from shared.auth import ActorType
from shared.db import Database
from shared.db.database import AWAY
from shared.errors import ServiceUnavailable
from shared.ids import new_id
from shared.limits.policies import Caller, Operation

ROWS_A_CALL = 1_000
MOST_COUNTED = 10_000
"""Distinct callers and operations that are counted before they are put with what waits, and written early."""
MOST_WAITING = 50_000
"""Rows that wait. From then on an organisation has one row a minute, and from twice as many on one row."""
MERGED = "merged"
"""The type of actor, and the class, of a row that stands for several actors and routes of an organisation."""
ANY_ROUTE = "*"
_CALL_SECONDS = 5.0
_STOP_SECONDS = 3.0
_ROUGH_SECONDS = 0.5
_AT_ONCE = 500
_MINUTE = 60

_WRITTEN = Counter("guardian_usage_rows_written", "Rows of usage this process has written")
_COARSE = Counter("guardian_usage_rows_merged", "Rows of usage that were merged with others of their organisation")
_LOST = Counter("guardian_usage_calls_lost", "Calls whose usage could not be written before the process stopped")
_WAITING = Gauge("guardian_usage_rows_waiting", "Rows of usage that wait for the database")

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Count:
    """What one caller did with one operation. The operation is held so that its ``id()`` stays its own."""

    caller: Caller
    actor_type: str
    operation: Operation
    calls: int = 0
    refused: int = 0
    cost: int = 0
    refused_cost: int = 0
    shadow_refused: int = 0


class _Key(NamedTuple):
    """Whose usage a row is, of what and when; ``minute`` is in unix seconds."""

    organization_id: UUID
    minute: int
    actor_type: str
    actor_id: str
    route: str


@dataclass(slots=True)
class _Row:
    """The numbers of a key, in the order of ``record_usage``."""

    user_id: str | None
    route_class: str
    calls: int = 0
    refused: int = 0
    cost: int = 0
    refused_cost: int = 0
    shadow_refused: int = 0

    def add(self, other: _Count | _Row) -> None:
        self.calls += other.calls
        self.refused += other.refused
        self.cost += other.cost
        self.refused_cost += other.refused_cost
        self.shadow_refused += other.shadow_refused


class DatabaseClock:
    """The database's clock as this process knows it, in unix seconds; its own clock until the first answer."""

    def __init__(self) -> None:
        self._offset = clock.now().timestamp() - time.monotonic()
        self.known = False

    def at(self, moment: float) -> float:
        """The database's time at a moment of this process's monotonic clock."""
        return moment + self._offset

    def learn(self, told: datetime, asked: float, answered: float) -> float:
        """The database told its time between two moments; by how many seconds that moved the clock."""
        if self.known and answered - asked > _ROUGH_SECONDS:
            return 0.0
        before, self._offset = self._offset, told.timestamp() - (asked + answered) / 2
        self.known = True
        return self._offset - before


class Waiting:
    """Rows that are not written yet, by key; bounded, because the database may be away for long."""

    def __init__(self) -> None:
        self.rows: dict[_Key, _Row] = {}
        self._newest: dict[UUID, _Key] = {}

    def add(self, minute: int, count: _Count) -> None:
        """Put what was counted in a minute with what waits."""
        caller = count.caller
        actor = caller.key_id or caller.user_id or ""
        key = _Key(caller.organization_id, minute, count.actor_type, actor, count.operation.name)
        row = self.rows.get(key)
        if row is None and len(self.rows) >= MOST_WAITING:
            _COARSE.inc()
            key = self._coarse(caller.organization_id, minute)
            row = self.rows.get(key)
            if row is None:
                row = self.rows[key] = _Row(None, MERGED)
        elif row is None:
            row = self.rows[key] = _Row(caller.user_id, count.operation.route_class)
        row.add(count)

    def _coarse(self, organization_id: UUID, minute: int) -> _Key:
        newest = self._newest.get(organization_id)
        if newest is None or newest not in self.rows or len(self.rows) < 2 * MOST_WAITING:
            newest = self._newest[organization_id] = _Key(organization_id, minute, MERGED, "", ANY_ROUTE)
        return newest

    def move(self, seconds: float) -> None:
        """The minutes were told by a clock that was off by so much: move each to the nearest one."""
        rows, self.rows = self.rows, {}
        for key, row in rows.items():
            moved = key._replace(minute=round((key.minute + seconds) / _MINUTE) * _MINUTE)
            known = self.rows.setdefault(moved, row)
            if known is not row:
                known.add(row)

    def take(self) -> list[tuple[_Key, _Row]]:
        """The oldest rows, as many as go into one call; they wait no more."""
        taken = [(key, self.rows.pop(key)) for key in list(islice(self.rows, ROWS_A_CALL))]
        if not self.rows:
            self._newest.clear()
        return taken


class UsageRecorder:
    """Counts the calls of this process and writes them with ``record_usage`` of ``schema``.

    ``record`` never waits. ``start`` needs a running event loop; ``stop`` writes what is left.
    """

    def __init__(self, database: Database, *, schema: str, flush_seconds: float = 1.0) -> None:
        self._database = database
        self._sql = f"SELECT {schema}.record_usage($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14)"
        self._flush_seconds = flush_seconds
        self._replica = new_id()
        self._clock = DatabaseClock()
        self._counts: dict[tuple[str, str | None, int, int], _Count] = {}
        self._began = time.monotonic()
        self._turned: deque[tuple[float, list[_Count]]] = deque()
        self._waiting = Waiting()
        self._batch: list[tuple[_Key, _Row]] = []
        self._number = 1
        self._away = False
        self._early = asyncio.Event()
        self._writing = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    def record(
        self,
        caller: Caller,
        actor_type: ActorType,
        operation: Operation,
        *,
        allowed: bool,
        cost: int,
        shadow: bool,
        calls: int = 1,
    ) -> None:
        """Count one call; ``cost`` is what it took, or would have taken. ``shadow``: a watched policy was passed.

        With no ``calls`` the cost is that of more work of a call that is counted elsewhere.
        """
        key = (actor_type, caller.key_id or caller.user_id, caller.organization_id.int, id(operation))
        count = self._counts.get(key)
        if count is None:
            count = self._first(key, _Count(caller, actor_type, operation))
        count.calls += calls
        if allowed:
            count.cost += cost
        else:
            count.refused += calls
            count.refused_cost += cost
        if shadow:
            count.shadow_refused += calls

    def refuse_after_all(self, caller: Caller, actor_type: ActorType, operation: Operation) -> None:
        """A call that was counted as allowed a moment ago was refused by its service, and costs nothing.

        Where it is written already it stays as it is: what it cost may belong to a minute that is over.
        """
        count = self._counts.get(
            (actor_type, caller.key_id or caller.user_id, caller.organization_id.int, id(operation))
        )
        if count is not None and count.cost >= operation.cost and count.calls > count.refused:
            count.cost -= operation.cost
            count.refused += 1
            count.refused_cost += operation.cost

    def _first(self, key: tuple[str, str | None, int, int], count: _Count) -> _Count:
        if len(self._counts) >= MOST_COUNTED:
            self._turn()
            self._early.set()
        self._counts[key] = count
        return count

    def start(self) -> None:
        """Begin to write in tasks of its own."""
        self._began = time.monotonic()
        self._tasks = [
            asyncio.create_task(self._keep_turning(), name="usage-minutes"),
            asyncio.create_task(self._keep_writing(), name="usage-writer"),
        ]

    async def stop(self) -> None:
        """Write what is left, for a few seconds at most, and stop."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._tasks = []
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.flush(), _STOP_SECONDS)
        await self._gather()
        lost = sum(row.calls for row in [*self._waiting.rows.values(), *(row for _, row in self._batch)])
        if lost:
            _LOST.inc(lost)
            logger.error("the usage of %d calls is lost: the database did not take it before the stop", lost)

    async def flush(self) -> None:
        """Write what was counted; what the database does not take now stays for the next time."""
        self._turn()
        async with self._writing:
            try:
                await self._write()
            except (ServiceUnavailable, *AWAY) as error:
                if not self._away:
                    logger.warning("usage is kept until the database takes it: %s", error)
                self._away = True
                await self._gather()
            else:
                self._away = False
            _WAITING.set(len(self._waiting.rows) + len(self._batch))

    async def _keep_turning(self) -> None:
        """Counts of a minute end with it, even while a writing takes its time."""
        while True:
            gone = self._clock.at(time.monotonic()) % _MINUTE
            # A timer may be early by the loop's resolution; a moment late is harmless.
            await asyncio.sleep(min(_MINUTE - gone, self._flush_seconds) + 0.002)
            self._turn()

    async def _keep_writing(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._early.wait(), self._flush_seconds)
            self._early.clear()
            await self.flush()

    def _turn(self) -> None:
        """Begin new counts; those so far belong to the minute they were begun in."""
        began, self._began = self._began, time.monotonic()
        if self._counts:
            self._turned.append((began, list(self._counts.values())))
            self._counts = {}

    async def _gather(self) -> None:
        """Put what was counted with what waits, in steps that hold nobody up."""
        while self._turned:
            began, counts = self._turned[0]
            minute = int(self._clock.at(began) // _MINUTE) * _MINUTE
            for count in counts[-_AT_ONCE:]:
                self._waiting.add(minute, count)
            del counts[-_AT_ONCE:]
            if not counts:
                self._turned.popleft()
            await asyncio.sleep(0)

    async def _write(self) -> None:
        if not self._clock.known:
            await self._send([])  # tells the time, before anything is said of a minute
        await self._gather()
        while self._batch or self._waiting.rows:
            if not self._batch:
                self._batch = self._waiting.take()
            # After an error nobody knows whether it counted: the same rows go again under the same number.
            await self._send(self._batch)
            _WRITTEN.inc(len(self._batch))
            self._batch = []
            self._number += 1

    async def _send(self, batch: Sequence[tuple[_Key, _Row]]) -> None:
        keys, rows = [key for key, _ in batch], [row for _, row in batch]
        arguments = [
            [key.organization_id for key in keys],
            [datetime.fromtimestamp(key.minute, UTC) for key in keys],
            [key.actor_type for key in keys],
            [key.actor_id for key in keys],
            [row.user_id for row in rows],
            [key.route for key in keys],
            [row.route_class for row in rows],
            [row.calls for row in rows],
            [row.refused for row in rows],
            [row.cost for row in rows],
            [row.refused_cost for row in rows],
            [row.shadow_refused for row in rows],
        ]
        async with self._database.pool.acquire(timeout=2) as connection:
            asked = time.monotonic()
            told = await connection.fetchval(self._sql, self._replica, self._number, *arguments, timeout=_CALL_SECONDS)
            known = self._clock.known
            moved = self._clock.learn(told, asked, time.monotonic())
            if not known:
                self._waiting.move(moved)
