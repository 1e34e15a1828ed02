"""``guardian up --split``: one process per service and one for the gateway, kept running by this one.

This process holds the listening sockets and hands them on, so that callers wait, and are not refused, while
the process behind a socket is started again. It imports no service and not the gateway: it stays small.
"""

import asyncio
import json
import os
import socket
from contextlib import ExitStack

import structlog

from cli import home
from cli.postgres import EmbeddedPostgres
from cli.prepare import is_prepared, refuse_production_without_database, with_database
from cli.processes import Kept, spawn, stop
from cli.start import BACKLOG, CannotStart, Stopping, bind, collect_seldom, listen, local_url, unwind_on_sigterm
from cli.system import SERVICES
from cli.watch import watching
from shared import logs
from shared.settings import Settings

GATEWAY = "gateway"
_log = structlog.get_logger(__name__)


def up_split(settings: Settings) -> None:
    """Run until Ctrl-C or SIGTERM: then the gateway drains first, the services after it, PostgreSQL stops last.

    Raises ``CannotStart`` with a sentence for people.
    """
    unwind_on_sigterm()
    collect_seldom()
    refuse_production_without_database(settings)
    with ExitStack() as stack:
        listeners = {GATEWAY: stack.enter_context(listen(settings))}
        for service in SERVICES:
            listeners[service.name] = stack.enter_context(bind("127.0.0.1", 0))
        postgres = EmbeddedPostgres(settings.home)
        stack.callback(postgres.stop)
        ours = postgres if settings.database_url is None else None
        settings = with_database(settings, postgres)
        urls = {name: f"http://127.0.0.1:{each.getsockname()[1]}" for name, each in listeners.items()}
        upstreams = {service.name: urls[service.name] for service in SERVICES}
        asyncio.run(_run(home.changed(settings, upstreams=upstreams), listeners, ours))
    print("Stopped. The data is kept; the next start goes on from here.", flush=True)


def environment(settings: Settings) -> dict[str, str]:
    """What a process of ours inherits: our environment, with what we have found out ourselves."""
    assert settings.database_url is not None  # with_database came before
    return {
        **os.environ,
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "GUARDIAN_SECRET_KEY": settings.secret_key.get_secret_value(),
        "GUARDIAN_UPSTREAMS": json.dumps(settings.upstreams),
    }


async def _run(settings: Settings, listeners: dict[str, socket.socket], postgres: EmbeddedPostgres | None) -> None:
    logs.configure(settings)
    stopping = Stopping(postgres.retire if postgres else None)
    inherited = environment(settings)
    if not await is_prepared(settings) and not await _prepare(inherited, stopping):
        return
    kept = {name: _kept(settings, name, listener, inherited) for name, listener in listeners.items()}
    with home.running(settings):
        async with watching(postgres):
            keeping = [asyncio.create_task(each.keep(), name=each.name) for each in kept.values()]
            greeting = await spawn(["cli.greet", str(os.getpid())], inherited)
            telling = asyncio.create_task(_tell_failure(greeting))
            asked = asyncio.create_task(stopping.asked.wait())
            await asyncio.wait({asked, *keeping}, return_when=asyncio.FIRST_COMPLETED)
            asked.cancel()
            telling.cancel()
            await stop(greeting, stopping.insisted)
            await kept.pop(GATEWAY).stop(stopping.insisted)
            await asyncio.gather(*(each.stop(stopping.insisted) for each in kept.values()))
            gave_up = [each.get_name() for each in keeping if not await each]
    if gave_up:
        raise CannotStart(f"{', '.join(gave_up)} ended before it was ready, and has said why above.")


async def _prepare(inherited: dict[str, str], stopping: Stopping) -> bool:
    """Migrate in a process of its own, which brings what only it needs; False when asked to stop meanwhile."""
    preparing = await spawn(["cli.prepare"], inherited)
    ended, asked = asyncio.ensure_future(preparing.wait()), asyncio.ensure_future(stopping.asked.wait())
    await asyncio.wait({ended, asked}, return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    if not ended.done():
        await stop(preparing, stopping.insisted)
        return False
    if await ended:
        raise SystemExit(1)  # it has said why
    return True


def _kept(settings: Settings, name: str, listener: socket.socket, inherited: dict[str, str]) -> Kept:
    listener.listen(BACKLOG)
    arguments = ["cli.main", "run", name, "--fd", str(listener.fileno())]
    url = settings.upstreams.get(name) or local_url(settings)
    return Kept(name, arguments, inherited, listener, url)


async def _tell_failure(greeting: asyncio.subprocess.Process) -> None:
    if await greeting.wait() != 0:
        _log.error("demo_not_loaded", message=f"Loading the demonstration ended with {greeting.returncode}.")
