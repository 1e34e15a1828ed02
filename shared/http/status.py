"""How a service is doing, measured by itself: its database, its schema's version, its background half.

Answered at ``/internal/status`` to the health service alone, because no service reads another's schema.
"""

import asyncio
import time
from dataclasses import dataclass

import asyncpg

from shared.db import Database
from shared.db.database import AWAY
from shared.db.versions import head
from shared.errors import ServiceUnavailable
from shared.events import Worker, WorkerStatus

ANSWER_SECONDS = 1.2
"""A database that has not answered by then counts as away; whoever asks wants to know now."""

_CONNECTIONS = """
SELECT (SELECT sum(numbackends) FROM pg_stat_database)::int AS used, current_setting('max_connections')::int AS most
"""
_VERSION = "SELECT version_num FROM alembic_version"


@dataclass(frozen=True, slots=True)
class DatabaseStatus:
    """The database as one service finds it. ``schema_version`` should be ``code_version``."""

    reachable: bool
    latency_ms: float | None = None
    connections_used: int | None = None
    connections_max: int | None = None
    schema_version: str | None = None
    code_version: str | None = None


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """``database`` is None for a service without one, ``worker`` where none runs in this process."""

    service: str
    database: DatabaseStatus | None = None
    worker: WorkerStatus | None = None


class StatusProbe:
    """Measures one service; those who ask at the same time share one measurement."""

    def __init__(self, service: str, database: Database | None) -> None:
        self._service = service
        self._database = database
        self._measuring: asyncio.Task[ServiceStatus] | None = None

    async def status(self) -> ServiceStatus:
        """The present status, within ``ANSWER_SECONDS`` whatever the database does."""
        if self._database is None:
            return ServiceStatus(self._service)
        if self._measuring is None or self._measuring.done():
            self._measuring = asyncio.create_task(self._measure(self._database), name=f"status:{self._service}")
        # Not cancelled when it takes too long: cancelling a statement waits for the database as well.
        await asyncio.wait({self._measuring}, timeout=ANSWER_SECONDS)
        if self._measuring.done():
            return self._measuring.result()
        return ServiceStatus(self._service, DatabaseStatus(reachable=False))

    async def stop(self) -> None:
        """Give a measurement up that is still going on."""
        if self._measuring is not None:
            self._measuring.cancel()
            await asyncio.wait({self._measuring}, timeout=1.0)

    async def _measure(self, database: Database) -> ServiceStatus:
        worker = Worker.running.get(database.dsn)
        try:
            measured = await self._measure_database(database)
            return ServiceStatus(self._service, measured, await worker.status() if worker else None)
        except (ServiceUnavailable, *AWAY):
            return ServiceStatus(self._service, DatabaseStatus(reachable=False))

    async def _measure_database(self, database: Database) -> DatabaseStatus:
        async with database.pool.acquire(timeout=ANSWER_SECONDS) as connection:
            started = time.perf_counter()
            row = await connection.fetchrow(_CONNECTIONS)
            latency = (time.perf_counter() - started) * 1000
            try:
                version = await connection.fetchval(_VERSION)
            except (asyncpg.UndefinedTableError, asyncpg.InsufficientPrivilegeError):
                version = None
        assert row is not None, "a SELECT without FROM has one row"
        return DatabaseStatus(
            reachable=True,
            latency_ms=round(latency, 2),
            connections_used=row["used"],
            connections_max=row["most"],
            schema_version=version,
            code_version=await asyncio.to_thread(head, self._service),
        )
