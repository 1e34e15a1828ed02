"""One server process of ``make bench-api``: ``ours`` (gateway and services, no workers), ``workers`` or ``peer``."""

import asyncio
import signal
import sys

import uvicorn
import uvloop

from cli.hosting import load_apps, load_gateway, load_workers, working
from gateway.server import GatewayServer
from shared import logs
from shared.settings import Settings


async def _ours(settings: Settings) -> None:
    await GatewayServer(load_gateway(settings, load_apps(settings)), settings).serve()


async def _workers(settings: Settings) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with working(load_workers(settings)):
        await stopped.wait()


async def _peer(settings: Settings) -> None:
    from tests.bench.peer_api import app

    config = uvicorn.Config(app, port=settings.port, http="httptools", access_log=False, log_level="warning")
    await uvicorn.Server(config).serve()


def main() -> None:
    """Run one of the three on uvloop until it is terminated."""
    settings = Settings()
    logs.configure(settings)
    roles = {"ours": _ours, "workers": _workers, "peer": _peer}
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(roles[sys.argv[1]](settings))


if __name__ == "__main__":
    main()
