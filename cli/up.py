"""``guardian up``: PostgreSQL, migrations, the demo organisations and the whole platform in one process."""

import asyncio
import os
import socket

import structlog
import uvicorn
import uvloop

from cli import home
from cli.greet import greet
from cli.hosting import GatewayProcess, load_apps, load_gateway, load_workers, working
from cli.postgres import EmbeddedPostgres
from cli.prepare import prepare_database, refuse_production_without_database, with_database
from cli.serving import serve
from cli.start import Stopping, listen, unwind_on_sigterm
from cli.watch import watching
from shared import logs
from shared.settings import Settings

_log = structlog.get_logger(__name__)


def up(settings: Settings) -> None:
    """Run until Ctrl-C or SIGTERM, then drain and stop everything that was started.

    Raises ``CannotStart`` with a sentence for people.
    """
    unwind_on_sigterm()
    refuse_production_without_database(settings)
    listener = listen(settings)
    postgres = EmbeddedPostgres(settings.home)
    try:
        ours = postgres if settings.database_url is None else None
        settings = with_database(settings, postgres)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(settings, listener, ours))
        print("Stopped. The data is kept; the next start goes on from here.", flush=True)
    finally:
        listener.close()
        postgres.stop()


async def _run(settings: Settings, listener: socket.socket, postgres: EmbeddedPostgres | None) -> None:
    logs.configure(settings)
    await prepare_database(settings)
    server = GatewayProcess(load_gateway(settings, load_apps(settings)), settings)
    stopping = Stopping(postgres.retire if postgres else None)
    with home.running(settings):
        async with watching(postgres), working(load_workers(settings)):
            greeting = asyncio.create_task(_greet(settings, server))
            greeting.add_done_callback(_tell_failure)
            await serve(server, listener, stopping)
            greeting.cancel()
            await asyncio.wait([greeting])


async def _greet(settings: Settings, server: uvicorn.Server) -> None:
    while not server.started:  # noqa: ASYNC110 (uvicorn has a flag, no event)
        await asyncio.sleep(0.01)
    await greet(settings, os.getpid())


def _tell_failure(greeting: asyncio.Task[None]) -> None:
    if not greeting.cancelled() and greeting.exception() is not None:
        _log.error("demo_not_loaded", exc_info=greeting.exception())
