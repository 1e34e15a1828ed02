"""``guardian run``: one service in a process of its own, its API, its worker or both; or the gateway.

A process imports its own service and no other. It never migrates: it waits for whoever does.
"""

import asyncio
import socket
from typing import Any, Literal

import asyncpg
import structlog
import uvicorn
import uvloop

from cli.serving import ServiceServer, serve
from cli.start import CannotStart, Stopping, listen, unwind_on_sigterm
from cli.system import SERVICES, Service
from shared import logs
from shared.db.database import UNAVAILABLE, service_dsn
from shared.db.versions import head, knows
from shared.errors import ServiceUnavailable
from shared.events import Worker
from shared.events.schema import applied_bus_version, bus_version
from shared.http import create_service
from shared.settings import Settings

Role = Literal["api", "worker", "all"]
GATEWAY = "gateway"
NAMES = (GATEWAY, *(service.name for service in SERVICES))
SCHEMA_SECONDS = 60.0
"""How long a process waits for its tables before it gives up and says what to do."""
_LOOK_SECONDS = 0.25
_NOT_THERE = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidPasswordError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.UndefinedTableError,
)
_log = structlog.get_logger(__name__)


def run(settings: Settings, name: str, *, role: Role, descriptor: int | None) -> None:
    """Serve until Ctrl-C or SIGTERM, then drain. ``descriptor`` is a listening socket we have inherited.

    Raises ``CannotStart`` with a sentence for people.
    """
    unwind_on_sigterm()
    service = next((each for each in SERVICES if each.name == name), None)
    _refuse(settings, name, service, role)
    logs.configure(settings)
    listener = listen(settings) if descriptor is None else socket.socket(fileno=descriptor)
    with listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run_gateway(settings, listener) if service is None else _run(settings, service, role, listener))


def _refuse(settings: Settings, name: str, service: Service | None, role: Role) -> None:
    if name not in NAMES:
        raise CannotStart(f"there is no service {name!r}; there are {', '.join(NAMES)}.")
    has_worker = service is not None and service.schema
    if role == "worker" and not has_worker:
        raise CannotStart(f"{name} has no worker; run it without --role.")
    if (has_worker or service is None) and settings.database_url is None:
        raise CannotStart(
            f"{name} needs DATABASE_URL, the same as for 'guardian migrate'. 'guardian up' brings a PostgreSQL of its own."
        )


async def _run_gateway(settings: Settings, listener: socket.socket) -> None:
    from cli.hosting import GatewayProcess, load_gateway, load_proxies

    server = GatewayProcess(load_gateway(settings, load_proxies(settings)), settings)
    await serve(server, listener, Stopping())
    _tell_whether_it_started(server)


async def _run(settings: Settings, service: Service, role: Role, listener: socket.socket) -> None:
    stopping = Stopping()
    if service.schema and not await _wait_for_tables(settings, service.name, stopping):
        return
    worker: Worker | None = service.load("worker")(settings) if service.schema else None
    app = service.load("create_app")(settings) if role != "worker" else _background(settings, service, worker)
    server = ServiceServer(app, drain_seconds=settings.drain_seconds)
    if worker is not None:
        await (worker.observe() if role == "api" else worker.start())
    serving = asyncio.create_task(serve(server, listener, stopping))
    asked = asyncio.create_task(stopping.asked.wait())
    await asyncio.wait({serving, asked}, return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    app.state.draining = True
    # Requests and batches are finished side by side, so that the two waits do not add up.
    await asyncio.gather(serving, *([worker.stop()] if worker is not None else []))
    _tell_whether_it_started(server)


def _background(settings: Settings, service: Service, worker: Worker | None) -> Any:
    """What a process without its service's API serves: probes, metrics and status."""

    async def tasks_run() -> None:
        if worker is None or not worker.ready:
            raise ServiceUnavailable("A task of the worker does not run at the moment.")

    return create_service(
        name=service.name,
        title=f"{service.name}, worker",
        description="Probes and metrics of a background process.",
        settings=settings,
        routers=[],
        ready_checks=[tasks_run],
    )


def _tell_whether_it_started(server: uvicorn.Server) -> None:
    if not server.started:
        raise CannotStart("its application did not start; the log says why.")


async def _wait_for_tables(settings: Settings, name: str, stopping: Stopping) -> bool:
    """Wait until the tables are those of this code; False when asked to stop meanwhile."""
    loop = asyncio.get_running_loop()
    deadline, told = loop.time() + SCHEMA_SECONDS, False
    while (late := await _late(settings, name)) is not None:
        if not told:
            _log.warning("schema_behind", service=name, message=f"{late} Run: guardian migrate")
            told = True
        if loop.time() > deadline:
            raise CannotStart(f"{late} Run: guardian migrate")
        if await stopping.wait(_LOOK_SECONDS):
            return False
    return not stopping.asked.is_set()


async def _late(settings: Settings, name: str) -> str | None:
    """Why this process must not begin yet. A database that is away is no reason: the service copes with that."""
    newest = head(name)
    try:
        found = await _version(settings, name)
        bus = await applied_bus_version(service_dsn(settings, name))
    except _NOT_THERE as error:
        return (
            f"The database does not let {name} in or lacks its tables ({error}): it was not migrated, or with another "
            "GUARDIAN_SECRET_KEY."
        )
    except (*UNAVAILABLE, asyncpg.PostgresError):
        return None
    if found != newest and (found is None or knows(name, found)):
        return f"The tables of {name} are at {found or 'nothing'}, and this code needs {newest}."
    if found != newest:
        _log.warning("schema_newer", service=name, message=f"The tables are at {found}; this code knows {newest}.")
    elif bus != bus_version():
        return "The tables of the event bus are not those of this code."
    return None


async def _version(settings: Settings, name: str) -> str | None:
    connection = await asyncpg.connect(service_dsn(settings, name), timeout=3)
    try:
        version: str | None = await connection.fetchval(f"SELECT version_num FROM {name}.alembic_version")  # noqa: S608 (a name of our own)
        return version
    finally:
        await connection.close()
