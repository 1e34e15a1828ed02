"""Keeps partitions ready for the months to come, and says so when entries have missed theirs."""

import structlog
from prometheus_client import Gauge

from services.audit import domain, repository
from shared import clock
from shared.db import Database
from shared.events import Job

EVERY_SECONDS = 6 * 3600.0
UNPARTITIONED = Gauge("guardian_audit_unpartitioned_entries", "Entries in the DEFAULT partition; there should be none")
_log = structlog.get_logger(__name__)


def partitions(database: Database) -> Job:
    """Makes this month's partition and the next ones; watches the DEFAULT partition."""

    async def run() -> None:
        month = domain.month_of(clock.now())
        async with database.transaction() as session:
            await repository.ensure_partitions(session, month, domain.month_after(month, domain.MONTHS_AHEAD))
            count = await repository.unpartitioned(session)
        UNPARTITIONED.set(count)
        if count:
            _log.warning("audit_entries_without_partition", count=count)

    return Job("partitions", EVERY_SECONDS, run)
