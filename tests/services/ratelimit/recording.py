"""Usage as processes hand it in: rows of ``record_usage``, under the gateway's role."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from shared.ids import new_id

RECORD = "SELECT ratelimit.record_usage($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14)"
LIST = "GET /v1/contacts"


@dataclass(frozen=True)
class Row:
    """What one actor called in one minute, by default a key without anything special."""

    minute: datetime
    actor_id: str = "key-a"
    route: str = LIST
    calls: int = 1
    refused: int = 0
    cost: int | None = None
    refused_cost: int | None = None
    route_class: str = "read"
    actor_type: str = "api_key"
    user_id: str | None = None
    shadow_refused: int = 0

    @property
    def numbers(self) -> tuple[int, int, int, int, int]:
        cost = self.calls - self.refused if self.cost is None else self.cost
        refused_cost = self.refused if self.refused_cost is None else self.refused_cost
        return self.calls, self.refused, cost, refused_cost, self.shadow_refused


def arguments(organization_id: UUID, rows: list[Row]) -> list[Any]:
    """The arrays of a batch."""
    columns = [
        (
            organization_id,
            row.minute,
            row.actor_type,
            row.actor_id,
            row.user_id,
            row.route,
            row.route_class,
            *row.numbers,
        )
        for row in rows
    ]
    return [list(column) for column in zip(*columns, strict=True)] if rows else [[] for _ in range(12)]


class Process:
    """One process that hands usage in; each batch has the next number."""

    def __init__(self, connection: Any, organization_id: UUID) -> None:
        self.connection = connection
        self.organization_id = organization_id
        self.replica = new_id()
        self.batch = 0

    async def record(self, *rows: Row, batch: int | None = None) -> datetime:
        """Hand rows in; what the database says is the time."""
        self.batch += 1
        number = self.batch if batch is None else batch
        told: datetime = await self.connection.fetchval(
            RECORD, self.replica, number, *arguments(self.organization_id, list(rows))
        )
        return told


def minutes_ago(count: int) -> datetime:
    """A whole minute some minutes ago."""
    return datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=count)


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
    """Wait for ``condition``; raises ``TimeoutError``."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 (what is waited for happens in the database)
            await asyncio.sleep(0.01)


async def blocked(admin: Any) -> bool:
    """Whether a statement waits for a lock in the database of ``admin``."""
    waiting: bool = await admin.fetchval(
        "SELECT exists(SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT l.granted"
        " AND a.usename LIKE 'svc%' AND a.datname = current_database())"
    )
    return waiting


async def make_day(admin: Any, day: date) -> None:
    """Make the partitions of a day, as their owner."""
    await admin.execute("SET ROLE guardian_owner")
    await admin.execute("SELECT ratelimit.make_usage_day($1)", day)
    await admin.execute("RESET ROLE")


async def store(dsn: str, organization_id: UUID, rows: list[Row]) -> None:
    """Put usage of any time into the database, past ``record_usage``."""
    connection = await asyncpg.connect(dsn)
    try:
        for day in {row.minute.date() for row in rows}:
            await make_day(connection, day)
        await connection.executemany(
            "INSERT INTO ratelimit.usage_minutes (organization_id, minute, actor_type, actor_id, user_id, route, class,"
            " calls, refused, cost, refused_cost, shadow_refused) VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12)",
            zip(*arguments(organization_id, rows), strict=True),
        )
    finally:
        await connection.close()
