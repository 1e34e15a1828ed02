"""Once the API answers: the demonstration's organisations, ``demo.json``, what to try first, the year of history.

``python -m cli.greet PID`` does it in a process of its own for a platform whose first process is ``PID``; that one
then need not know any service.
"""

import asyncio
import sys

from cli import home, welcome
from cli.demo import load as demo
from cli.processes import until_answers
from cli.start import local_url
from shared import logs
from shared.settings import Settings, from_environment

DEMO_FILE = "demo.json"


async def greet(settings: Settings, pid: int) -> None:
    """Tell people and programs that the platform answers; then load the history."""
    if not (settings.demo and settings.environment == "development"):
        await _until_all_answer(settings)
        print(welcome.started(settings), flush=True)
        return
    organizations = await demo.organizations(settings)
    await _until_all_answer(settings)
    path = settings.home / DEMO_FILE
    home.write_private(path, demo.describe(settings.base_url, pid, organizations))
    print(welcome.with_demo(settings, organizations, path), flush=True)
    if settings.demo_history:
        await demo.history(settings, organizations[0])


async def _until_all_answer(settings: Settings) -> None:
    if settings.upstreams:  # processes of their own; one process has started when it listens
        urls = [*settings.upstreams.values(), local_url(settings)]
        await asyncio.gather(*(until_answers(url) for url in urls))


if __name__ == "__main__":
    found = from_environment(Settings)
    logs.configure(found)
    try:
        asyncio.run(greet(found, int(sys.argv[1])))
    except KeyboardInterrupt:
        sys.exit(130)
