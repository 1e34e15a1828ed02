"""Keeps the embedded PostgreSQL running for as long as the platform does.

A database server that dies (killed for its memory, say) takes the platform's answers with it: requests get
503 until it is back. So somebody looks once a second and starts it again; each further attempt waits longer.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from cli.postgres import EmbeddedPostgres

LOOK_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
SETTLED_SECONDS = 60.0

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def watching(postgres: EmbeddedPostgres | None) -> AsyncIterator[None]:
    """Keep ``postgres`` running for the length of the block, and no longer: it is retired when the block ends."""
    if postgres is None:
        yield
        return
    watch = asyncio.create_task(_watch(postgres), name="postgres-watch")
    try:
        yield
    finally:
        postgres.retire()
        watch.cancel()
        await asyncio.wait([watch])


async def _watch(postgres: EmbeddedPostgres) -> None:
    loop = asyncio.get_running_loop()
    pause, settled_at = LOOK_SECONDS, loop.time()
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        if postgres.alive or postgres.retired:
            continue
        _log.warning("database_died", message="PostgreSQL ended unexpectedly; it is being started again.")
        if loop.time() > settled_at:
            pause = LOOK_SECONDS
        else:
            # It ended soon after its last start: what ended it is likely to do so again.
            await asyncio.sleep(pause)
            pause = _longer(pause)
        pause = await _restart(postgres, pause)
        settled_at = loop.time() + SETTLED_SECONDS


async def _restart(postgres: EmbeddedPostgres, pause: float) -> float:
    """Try until it runs or is retired, and say once why it does not start. Returns the next pause."""
    told = False
    while not postgres.retired:
        try:
            if await asyncio.to_thread(postgres.ensure_running):
                _log.warning("database_back", message="PostgreSQL runs again.")
            break
        except Exception as error:  # whatever it is, a later attempt may succeed
            if not told:
                _log.error("database_not_started", message=f"PostgreSQL cannot be started; trying on. {error}")
                told = True
        await asyncio.sleep(pause)
        pause = _longer(pause)
    return pause


def _longer(pause: float) -> float:
    return min(pause * 2, LONGEST_PAUSE_SECONDS)
