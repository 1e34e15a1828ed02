"""Composition root of the CRM."""

from fastapi import FastAPI

from services.crm.activities.api import router as activities
from services.crm.companies.api import router as companies
from services.crm.contacts.api import router as contacts
from services.crm.custom_fields.api import router as custom_fields
from services.crm.deals.api import router as deals
from services.crm.pipelines.api import router as pipelines
from shared.db import Database
from shared.events import Job, Relay, Worker
from shared.events.connect import connect_bus
from shared.http import create_service, idempotency
from shared.settings import Settings

_HOUR = 3600.0


def create_app(settings: Settings) -> FastAPI:
    """The CRM's HTTP application."""
    return create_service(
        name="crm",
        title="CRM",
        description="Contacts, companies, deals with pipelines and stages, activities and custom fields.",
        settings=settings,
        routers=[contacts, companies, deals, pipelines, activities, custom_fields],
        limits_schema="ratelimit",
    )


def worker(settings: Settings) -> Worker:
    """The CRM's background half: its relay, and the purge of answers kept for idempotency."""
    database = Database.for_service(settings, "crm")
    bus = connect_bus(settings, database)

    async def purge_idempotency() -> None:
        await idempotency.purge(database)

    return Worker(
        database,
        bus=bus,
        relay=Relay(database, bus),
        jobs=[Job("idempotency", _HOUR, purge_idempotency)],
    )
