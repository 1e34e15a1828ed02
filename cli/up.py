"""``guardian up``: PostgreSQL, migrations, the demo organisations and the whole platform in one process."""

import asyncio
import errno
import os
import signal
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import structlog
import uvicorn
import uvloop
from pydantic import SecretStr

from cli import home, welcome
from cli.demo import load as demo
from cli.hosting import load_apps, load_gateway, load_workers, working
from cli.migrate import UNREACHABLE, NewerSchema, behind, migrate
from cli.postgres import EmbeddedPostgres
from cli.progress import step
from cli.watch import watching
from deploy.postgres import PostgresError
from gateway.server import GatewayServer
from shared import logs
from shared.settings import Settings

_log = structlog.get_logger(__name__)


class CannotStart(Exception):
    """Why the platform cannot start, and what to do about it."""


def up(settings: Settings) -> None:
    """Run until Ctrl-C or SIGTERM, then drain and stop everything that was started.

    Raises ``CannotStart`` with a sentence for people.
    """
    # Until the event loop has handlers of its own, SIGTERM must unwind like Ctrl-C, or PostgreSQL would stay.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _refuse_what_is_not_there_yet(settings)
    listener = _listen(settings)
    postgres: EmbeddedPostgres | None = None
    try:
        if settings.database_url is None:
            postgres, settings = _start_postgres(settings)
        else:
            settings.home.mkdir(parents=True, exist_ok=True)
            settings = home.with_secret(settings)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(settings, listener, postgres))
        print("Stopped. The data is kept; the next start goes on from here.", flush=True)
    finally:
        listener.close()
        if postgres is not None:
            postgres.stop()


def _refuse_what_is_not_there_yet(settings: Settings) -> None:
    if settings.kafka_bootstrap_servers:
        raise CannotStart("KAFKA_BOOTSTRAP_SERVERS is set, but this release has no Kafka adapter yet. Unset it.")
    if settings.environment == "production" and settings.database_url is None:
        raise CannotStart("production needs DATABASE_URL: the PostgreSQL that 'make run' brings is for development.")


def _listen(settings: Settings) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise CannotStart(
                f"Port {settings.port} is in use. Stop what listens there, or choose another one: "
                f"GUARDIAN_PORT={settings.port + 1} GUARDIAN_HOME=.guardian-{settings.port + 1} make run"
            ) from error
        raise CannotStart(f"Cannot listen on {settings.host}:{settings.port}: {error.strerror}.") from error
    return listener


def _start_postgres(settings: Settings) -> tuple[EmbeddedPostgres, Settings]:
    postgres = EmbeddedPostgres(settings.home)
    try:
        postgres.start()
    except PostgresError as error:
        raise CannotStart(str(error)) from error
    settings = home.with_secret(settings)
    return postgres, home.changed(settings, database_url=SecretStr(postgres.dsn))


async def _run(settings: Settings, listener: socket.socket, postgres: EmbeddedPostgres | None) -> None:
    logs.configure(settings)
    await _prepare_database(settings)
    apps = load_apps(settings)
    gateway = load_gateway(settings, apps)
    server = _Server(gateway, settings)
    _stop_on_signals(server, postgres)
    async with watching(postgres), working(load_workers(settings)):
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        greeting = asyncio.create_task(_greet(settings, server))
        greeting.add_done_callback(_tell_failure)
        await serving
        greeting.cancel()
        await asyncio.wait([greeting])


def _tell_failure(greeting: asyncio.Task[None]) -> None:
    if not greeting.cancelled() and greeting.exception() is not None:
        _log.error("demo_not_loaded", exc_info=greeting.exception())


async def _prepare_database(settings: Settings) -> None:
    try:
        if await behind(settings):
            with step("Preparing the database") as progress:
                await migrate(settings, lambda service: progress.update(note=service))
    except NewerSchema as error:
        raise CannotStart(str(error)) from error
    except UNREACHABLE as error:
        raise CannotStart(
            f"The database of DATABASE_URL cannot be used: {error}. Check its address and that its user may create "
            "roles and schemas; without DATABASE_URL the platform brings a PostgreSQL of its own."
        ) from error


class _Server(GatewayServer):
    """Without uvicorn's signal handlers: they would raise the signal again before PostgreSQL is stopped."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


def _stop_on_signals(server: uvicorn.Server, postgres: EmbeddedPostgres | None) -> None:
    def stop() -> None:
        if postgres is not None:
            postgres.retire()
        if server.should_exit:
            server.force_exit = True
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)


async def _greet(settings: Settings, server: uvicorn.Server) -> None:
    while not server.started:  # noqa: ASYNC110 (uvicorn has a flag, no event)
        await asyncio.sleep(0.01)
    if settings.demo and settings.environment == "development":
        organizations = await demo.organizations(settings)
        _tell(settings, organizations, print)
        if settings.demo_history:
            await demo.history(settings, organizations[0])
    else:
        print(welcome.started(settings), flush=True)


def _tell(settings: Settings, organizations: list[demo.DemoOrganization], say: Callable[[str], None]) -> None:
    path = settings.home / "demo.json"
    home.write_private(path, demo.describe(settings.base_url, os.getpid(), organizations))
    say(welcome.with_demo(settings, organizations, Path(path)))
