"""Composition root of limits and quotas."""

from fastapi import FastAPI

from services.ratelimit import jobs
from services.ratelimit.limits.api import router as limits
from services.ratelimit.overrides.api import router as overrides
from services.ratelimit.plans.api import router as plans
from services.ratelimit.policies.api import router as policies
from services.ratelimit.selfaudit import jobs as selfaudit
from services.ratelimit.selfaudit.api import router as audit
from services.ratelimit.simulation.api import router as simulation
from services.ratelimit.simulation.running import Simulations
from services.ratelimit.usage import jobs as usage_jobs
from services.ratelimit.usage.api import router as usage
from services.ratelimit.web import writing_operations
from shared.db import Database
from shared.events import Job, Relay, Worker
from shared.events.connect import connect_bus
from shared.http import create_service, idempotency
from shared.settings import Settings

_HOUR = 3600.0


def create_app(settings: Settings) -> FastAPI:
    """The HTTP application of limits and quotas."""
    app = create_service(
        name="ratelimit",
        title="Limits",
        description="Plans and policies, what is left of them, usage, and what another limit would do.",
        settings=settings,
        routers=[limits, policies, overrides, plans, simulation, audit, usage],
        limits_schema="ratelimit",
    )
    app.state.editing = writing_operations(policies, overrides)
    app.state.simulations = Simulations()
    return app


def worker(settings: Settings) -> Worker:
    """The background half: the relay, events of usage, the audit, and the purges of what is over."""
    database = Database.for_service(settings, "ratelimit")
    bus = connect_bus(settings, database)

    async def purge_idempotency() -> None:
        await idempotency.purge(database)

    return Worker(
        database,
        bus=bus,
        relay=Relay(database, bus),
        jobs=[
            jobs.purge_counters(database),
            Job("idempotency", _HOUR, purge_idempotency),
            usage_jobs.events(database),
            usage_jobs.days(database),
            selfaudit.audit(database),
        ],
    )
