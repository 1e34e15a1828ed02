"""Publishes usage minute by minute, and keeps its days: makes those to come, drops those that are over."""

from uuid import UUID

import structlog

from services.ratelimit.usage import repository, service
from shared.db import Database
from shared.events import Job

_EVENTS_SECONDS = 5.0
_DAYS_SECONDS = 600.0
_log = structlog.get_logger(__name__)


def events(database: Database) -> Job:
    """One event for each actor and closed minute; a batch of one organisation to a transaction."""

    async def run() -> None:
        while True:
            async with database.transaction() as session:
                organizations = await repository.due(session, service.GRACE)
            published = sum([await _publish(database, each) for each in organizations])
            if published == 0 or len(organizations) < repository.ORGANIZATIONS_AT_ONCE:
                return

    return Job("usage-events", _EVENTS_SECONDS, run)


async def _publish(database: Database, organization_id: UUID) -> int:
    published = 0
    while True:
        async with database.transaction(organization_id) as session:
            count = await service.publish_due(session, organization_id)
        published += count
        if count < repository.AT_ONCE:
            return published


def days(database: Database) -> Job:
    """Today's partition of usage and the next ones; days older than 35 are dropped."""

    async def run() -> None:
        async with database.transaction() as session:
            if not await repository.roll(session):
                _log.info("usage_days_wait", message="Somebody reads usage for long; the next run tries again.")

    return Job("usage-days", _DAYS_SECONDS, run)
