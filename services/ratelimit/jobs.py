"""Forgets counters of windows that are long over."""

from services.ratelimit.policies import repository
from shared.db import Database
from shared.events import Job

EVERY_SECONDS = 300.0


def purge_counters(database: Database) -> Job:
    """Removes what was counted in windows that ended a day ago, a batch to a transaction."""

    async def run() -> None:
        gone = repository.PURGED_AT_ONCE
        while gone == repository.PURGED_AT_ONCE:
            async with database.transaction() as session:
                gone = await repository.purge_counters(session)

    return Job("counters", EVERY_SECONDS, run)
