"""Composition root of health. It has no worker: it measures when it is asked."""

from collections.abc import Mapping

from fastapi import FastAPI

from services.health.api import router
from services.health.service import Monitor
from shared.http import create_service
from shared.http.client import ServiceClient, Upstream
from shared.settings import Settings


def create_app(settings: Settings, upstreams: Mapping[str, Upstream] | None = None) -> FastAPI:
    """Health's HTTP application.

    ``upstreams`` are the services it looks at, by name: those of this process, or the addresses of the settings.
    """
    seen: Mapping[str, Upstream] = settings.upstreams if upstreams is None else upstreams
    clients = {
        name: ServiceClient(settings, caller="monitor", callee=name, upstream=upstream)
        for name, upstream in seen.items()
        if name != "health"
    }
    monitor = Monitor(clients)
    app = create_service(
        name="health",
        title="Health",
        description="How the platform is doing: services, database, event bus and consumers.",
        settings=settings,
        routers=[router],
        schema=False,
        on_stop=[monitor.stop],
    )
    app.state.monitor = monitor
    return app
