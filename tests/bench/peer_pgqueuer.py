"""The peer on PostgreSQL: pgqueuer with one job for each event, whose handler makes the same audit entry.

Written as pgqueuer's documentation and its own benchmark do it: asyncpg, uvloop, several dequeuers in a
process, durable tables (the default). The handler uses our unit of work, two statements and a commit, over
as many connections as help. Jobs run at least once and the entry's primary key absorbs repeats, so that the
peer needs no inbox. The settings are the fastest of those tried on two cores.
"""

import asyncio
from datetime import date

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.executors import DatabaseRetryEntrypointExecutor
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from services.audit import domain, jobs, service
from shared import clock
from shared.db import Database
from shared.events.envelope import CloudEvent
from shared.settings import Settings

ENTRYPOINT = "audit"
DEQUEUERS = 1
BATCH = 10
CONNECTIONS = 16
_CHUNK = 5000


async def prepare(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Make the peer's tables."""
    await Queries(AsyncpgDriver(connection)).install()


async def enqueue(connection: "asyncpg.Connection[asyncpg.Record]", envelopes: list[bytes]) -> None:
    """Empty the queue and put in one job for each event."""
    queries = Queries(AsyncpgDriver(connection))
    await connection.execute("TRUNCATE pgqueuer, pgqueuer_log")
    for first in range(0, len(envelopes), _CHUNK):
        part = envelopes[first : first + _CHUNK]
        await queries.enqueue([ENTRYPOINT] * len(part), list(part), [0] * len(part))


async def _dequeue(dsn: str, database: Database, room: asyncio.Semaphore, months: set[date]) -> None:
    queue = PgQueuer(AsyncpgDriver(await asyncpg.connect(dsn)))

    @queue.entrypoint(ENTRYPOINT, executor_factory=DatabaseRetryEntrypointExecutor)
    async def record(job: Job) -> None:
        event = CloudEvent.from_json(job.payload or b"")
        async with room, database.transaction(event.organization_id) as session:
            await service.record(session, [event], months)

    await queue.run(batch_size=BATCH)


async def _work() -> None:
    settings = Settings()
    assert settings.database_url is not None
    database = Database.for_service(settings.model_copy(update={"database_pool_size": CONNECTIONS}), "audit")
    await database.open()
    await jobs.partitions(database).run()
    month = domain.month_of(clock.now())
    months = {domain.month_after(month, step) for step in range(-1, domain.MONTHS_AHEAD)}
    room, dsn = asyncio.Semaphore(CONNECTIONS), settings.database_url.get_secret_value()
    async with asyncio.TaskGroup() as group:
        for _ in range(DEQUEUERS):
            group.create_task(_dequeue(dsn, database, room, months))


if __name__ == "__main__":
    uvloop.run(_work())
