"""Processes that a supervisor keeps running: each is started again when it ends, and dies when the supervisor does."""

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from deploy.postgres import Account

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 10.0
SETTLED_SECONDS = 30.0
STOP_SECONDS = 12.0
"""Longer than a process of ours takes to drain; then it is killed."""
_LOOK_SECONDS = 0.05
_ENDED_BY_SIGNAL = 128
"""The least status of a program that says that a signal ended it."""
_log = structlog.get_logger(__name__)


async def spawn(
    arguments: Sequence[str], environment: Mapping[str, str], *, sockets: Sequence[socket.socket] = ()
) -> asyncio.subprocess.Process:
    """Run ``python -m …`` in a session of its own, so that Ctrl-C in our terminal reaches it through us alone.

    It is killed when we end, however we end: nobody would look after it.
    """
    command = [sys.executable, "-m", *arguments]
    return await asyncio.create_subprocess_exec(
        *Account().command(command, cwd=Path.cwd(), die_with_parent=signal.SIGKILL),
        env=dict(environment),
        stdin=asyncio.subprocess.DEVNULL,
        pass_fds=[each.fileno() for each in sockets],
        start_new_session=True,
    )


async def stop(process: asyncio.subprocess.Process, insisted: asyncio.Event) -> None:
    """SIGTERM, and SIGKILL when it takes too long or somebody insists."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    ended, hurry = asyncio.ensure_future(process.wait()), asyncio.ensure_future(insisted.wait())
    await asyncio.wait({ended, hurry}, timeout=STOP_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    if not ended.done():
        if not insisted.is_set():
            _log.warning("process_killed", pid=process.pid, message="It did not end when asked to.")
        process.kill()
    await ended


async def until_answers(url: str) -> None:
    """Wait until ``/readyz`` of a process answers 200."""
    while not await _answers(url):  # noqa: ASYNC110 (another process: there is nothing to wait on)
        await asyncio.sleep(_LOOK_SECONDS)


async def _answers(url: str) -> bool:
    address = urlsplit(url)
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
            try:
                writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                return (await reader.readline()).startswith(b"HTTP/1.1 200")
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False


class Kept:
    """One process, kept running from ``keep`` until ``stop``."""

    def __init__(
        self, name: str, arguments: Sequence[str], environment: Mapping[str, str], listener: socket.socket, url: str
    ) -> None:
        self.name = name
        self._arguments = arguments
        self._environment = environment
        self._listener = listener
        self._url = url
        self._process: asyncio.subprocess.Process | None = None
        self._unwanted = asyncio.Event()

    async def keep(self) -> bool:
        """Run it, and run it again whenever it ends, until ``stop``.

        False at once when it gives up before it has ever been ready: it would give up again, for the same reason.
        """
        pause = FIRST_PAUSE_SECONDS
        loop = asyncio.get_running_loop()
        ready = asyncio.create_task(until_answers(self._url))
        back: asyncio.Task[None] | None = None
        try:
            while not self._unwanted.is_set():
                started = loop.time()
                self._process = await spawn(self._arguments, self._environment, sockets=[self._listener])
                if self._unwanted.is_set():
                    self._process.terminate()
                status = await self._process.wait()
                if self._unwanted.is_set():
                    break
                if 0 < status < _ENDED_BY_SIGNAL and not ready.done():
                    return False
                _log.warning(
                    "process_died", process=self.name, pid=self._process.pid, message=_ended(self.name, status)
                )
                if loop.time() - started > SETTLED_SECONDS:
                    pause = FIRST_PAUSE_SECONDS
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._unwanted.wait(), pause)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
                if back is None or back.done():
                    back = asyncio.create_task(self._tell_when_back())
            return True
        finally:
            ready.cancel()
            if back is not None:
                back.cancel()

    async def stop(self, insisted: asyncio.Event) -> None:
        """Let it drain and end; it is not started again."""
        self._unwanted.set()
        if self._process is not None:
            await stop(self._process, insisted)

    async def _tell_when_back(self) -> None:
        await until_answers(self._url)
        _log.warning("process_back", process=self.name, message=f"{self.name} runs again.")


def _ended(name: str, status: int) -> str:
    how = f"with status {status}" if status >= 0 else f"by {signal.Signals(-status).name}"
    return f"{name} ended unexpectedly ({how}); it is being started again."
