"""One process that is the whole platform: the gateway, every service in it, and their workers."""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from cli.system import SERVICES, Service
from gateway.app import Gateway, create_gateway
from gateway.routing import Route
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
    """The gateway over in-process applications; it runs their lifespans with its own."""
    return create_gateway(settings, apps, routes(), sign_in=("POST", "/v1/sessions"))


@asynccontextmanager
async def working(workers: Iterable[Worker]) -> AsyncIterator[None]:
    """Run the workers for the length of the block."""
    async with AsyncExitStack() as stack:
        for worker in workers:
            await worker.start()
            stack.push_async_callback(worker.stop)
        yield
