"""A consumer beside the audit log that keeps the order of its effects: ``python -m tests.chaos.witness``.

It is made of the platform's own parts (``Worker``, ``Consumer``, inbox, dead letters) in a schema of its own.
Each effect is counted for its key under the lock of the key's row, so that the numbers are the order in which
effects were committed; nothing else would stop an event from having its effect twice or too early.
"""

import asyncio
import signal
from collections.abc import Sequence

import asyncpg

from cli.home import connected_settings
from cli.system import SERVICES
from shared import logs
from shared.db import Database, Session
from shared.db.migrations import provision
from shared.db.versions import owner_dsn
from shared.events import CloudEvent, Consumer, Tuning, Worker
from shared.events.connect import connect_bus
from shared.events.schema import bus_grants, system_tables_ddl
from shared.settings import Settings

SCHEMA = "witness"
GROUP = "witness"
TOPICS = tuple(service.topic for service in SERVICES if service.publishes)
_TABLES = f"""
CREATE TABLE IF NOT EXISTS {SCHEMA}.tallies (key text PRIMARY KEY, effects bigint NOT NULL) WITH (fillfactor = 50);
CREATE TABLE IF NOT EXISTS {SCHEMA}.effects (
  key text NOT NULL, nth bigint NOT NULL, event_id uuid NOT NULL, organization_id uuid NOT NULL, sequence bigint NOT NULL
);
GRANT SELECT, INSERT, UPDATE ON {SCHEMA}.tallies, {SCHEMA}.effects TO svc_{SCHEMA}
"""
_RECORD = """
WITH run AS (
  SELECT * FROM unnest($1::text[], $2::uuid[], $3::bigint[]) WITH ORDINALITY AS e (key, event_id, sequence, nth)
), tallied AS (
  INSERT INTO tallies AS t (key, effects) SELECT key, count(*) FROM run GROUP BY key ORDER BY key
  ON CONFLICT (key) DO UPDATE SET effects = t.effects + excluded.effects
  RETURNING key, effects
)
INSERT INTO effects (key, nth, event_id, organization_id, sequence)
SELECT r.key, t.effects - count(*) OVER (PARTITION BY r.key) + row_number() OVER (PARTITION BY r.key ORDER BY r.nth),
       r.event_id, $4, r.sequence
FROM run r JOIN tallied t USING (key)
"""


async def prepare(settings: Settings) -> None:
    """Make the schema, its role and its tables. Repeatable."""
    await provision(settings, [SCHEMA])
    connection = await asyncpg.connect(owner_dsn(settings))
    try:
        for statement in (*system_tables_ddl(SCHEMA), *bus_grants(SCHEMA), _TABLES):
            await connection.execute(statement)
    finally:
        await connection.close()


async def record(session: Session, events: Sequence[CloudEvent]) -> None:
    """The handler: one row for each event, numbered within its key."""
    await session.connection.execute(
        _RECORD,
        [event.partitionkey for event in events],
        [event.id for event in events],
        [event.sequence for event in events],
        events[0].organization_id,
    )


def worker(settings: Settings) -> Worker:
    """The witness' background half; it has no other."""
    database = Database.for_service(settings, SCHEMA)
    bus = connect_bus(settings, database)
    consumer = Consumer(database, bus, GROUP, TOPICS, record, tuning=Tuning(run_size=200, batch_size=1000))
    return Worker(database, bus=bus, consumers=[consumer])


async def _run(settings: Settings) -> None:
    logs.configure(settings)
    enough = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, enough.set)
    running = worker(settings)
    await running.start()
    await enough.wait()
    await running.stop()


if __name__ == "__main__":
    asyncio.run(_run(connected_settings()))
