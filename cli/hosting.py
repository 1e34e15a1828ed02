"""The gateway in its process, over services of the same process or of others; and their workers."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from cli.start import CannotStart, ObeysNoSignals
from cli.system import SERVICES, Service
from gateway.app import Gateway, create_gateway
from gateway.routing import Route
from gateway.server import GatewayServer
from gateway.upstream import HttpUpstream
from shared.events import Worker
from shared.http.hosting import Hosted
from shared.settings import Settings


def routes(services: Iterable[Service] = SERVICES) -> list[Route]:
    """The gateway's routing table."""
    return [
        Route(prefix, service.name, frozenset(each for each in service.public if _below(each[1], prefix)))
        for service in services
        for prefix in service.prefixes
    ]


def _below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(f"{prefix}/")


def load_apps(settings: Settings) -> dict[str, Hosted]:
    """Every service's application, in this process. Health is handed the others to look at."""
    apps = {
        service.name: Hosted(service.load("create_app")(settings)) for service in SERVICES if service.name != "health"
    }
    health = next(service for service in SERVICES if service.name == "health")
    return {**apps, "health": Hosted(health.load("create_app")(settings, upstreams=apps))}


def load_workers(settings: Settings) -> list[Worker]:
    """Every service's relay, consumers and jobs."""
    return [service.load("worker")(settings) for service in SERVICES if service.name != "health"]


def load_gateway(settings: Settings, apps: Mapping[str, Any]) -> Gateway:
    """The gateway over applications; it runs their lifespans with its own."""
    return create_gateway(settings, apps, routes(), sign_in=("POST", "/v1/sessions"))


def load_proxies(settings: Settings) -> dict[str, HttpUpstream]:
    """Every service behind its address; raises ``CannotStart`` when one has none."""
    names = [service.name for service in SERVICES]
    missing = [name for name in names if name not in settings.upstreams]
    if missing:
        raise CannotStart(
            f"GUARDIAN_UPSTREAMS does not say where to find: {', '.join(missing)}. "
            f'It looks like {{"{missing[0]}": "http://{missing[0]}:8000"}}.'
        )
    return {name: HttpUpstream(settings.upstreams[name]) for name in names}


class GatewayProcess(ObeysNoSignals, GatewayServer):  # type: ignore[misc]
    """The gateway's server, stopped by us."""

    def __init__(self, gateway: Gateway, settings: Settings) -> None:
        super().__init__(gateway, settings, drain_seconds=settings.drain_seconds)


@asynccontextmanager
async def working(workers: Iterable[Worker]) -> AsyncIterator[None]:
    """Run the workers for the length of the block."""
    started: list[Worker] = []
    try:
        for worker in workers:
            await worker.start()
            started.append(worker)
        yield
    finally:
        await asyncio.gather(*(worker.stop() for worker in started))
