"""Composition root of the audit log."""

from fastapi import FastAPI

from services.audit import consumers, jobs
from services.audit.api import router
from shared.db import Database
from shared.events import Worker
from shared.events.connect import connect_bus
from shared.http import create_service
from shared.settings import Settings


def create_app(settings: Settings) -> FastAPI:
    """The audit log's HTTP application."""
    return create_service(
        name="audit",
        title="Audit log",
        description="Who did what to which record, when, and through which request.",
        settings=settings,
        routers=[router],
        limits_schema="ratelimit",
    )


def worker(settings: Settings) -> Worker:
    """Records every event as an entry, and keeps a partition ready for the months to come."""
    database = Database.for_service(settings, "audit")
    bus = connect_bus(settings, database)
    return Worker(
        database,
        bus=bus,
        consumers=[consumers.recorder(database, bus)],
        jobs=[jobs.partitions(database)],
    )
