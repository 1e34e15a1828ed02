"""Hints that there is something to do: an event within the process, one coalesced NOTIFY between them.

A hint may be lost; every waiter also looks by itself (each second), so a lost hint costs latency and
nothing else. NOTIFY is never sent inside a business transaction, where it would serialise all commits
of the server, but afterwards on the one connection this module keeps for a process and database.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any
from weakref import WeakSet

import structlog

from shared.db import Database
from shared.events.failures import Backoff, is_outage

CHANNEL = "guardian_events"
POLL_SECONDS = 1.0
_COALESCE_SECONDS = 0.004
_HEADS = "SELECT topic, sum(position)::bigint AS position FROM bus.head GROUP BY topic"
_log = structlog.get_logger(__name__)


class Signal:
    """Set by a hint for its name, cleared by whoever waits for it."""

    def __init__(self) -> None:
        self.exclusive = False
        """While true, a hint concerns nobody but this signal, and other processes need not hear it."""
        self._event = asyncio.Event()

    def set(self) -> None:
        self._event.set()

    def clear(self) -> None:
        """Call before looking for work, so that a hint during the look is not missed."""
        self._event.clear()

    async def wait(self, timeout: float) -> None:
        """Until a hint comes, or ``timeout`` seconds."""
        # Not wait_for: on Python 3.11 it loses a cancellation that meets a hint.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._event.wait()


_signals: dict[str, WeakSet[Signal]] = {}


def subscribe(*names: str, signal: Signal | None = None) -> Signal:
    """A signal that hints for any of ``names`` set; it lives as long as the caller keeps it."""
    signal = signal or Signal()
    for name in names:
        _signals.setdefault(name, WeakSet()).add(signal)
    return signal


def wake(name: str, *, remote: bool = True) -> None:
    """Hint that ``name`` (``outbox:<service>`` or a topic) has work, here and in other processes."""
    local = list(_signals.get(name, ()))
    for signal in local:
        signal.set()
    if remote and not any(signal.exclusive for signal in local):
        for post in Post.opened.values():
            post.send(name)


class Post:
    """The connection of this process that sends and receives hints, and polls the heads of the log."""

    opened: dict[str, Post] = {}  # noqa: RUF012 (the registry of this process)

    def __init__(self, database: Database, address: str) -> None:
        self.connected = False
        self._database = database
        self._address = address
        self._users = 0
        self._pending: set[str] = set()
        self._wanted = asyncio.Event()
        self._heads: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def open(cls, database: Database) -> Post:
        """The post of this process for the server and database of ``database``; pair it with ``close``."""
        address = database.dsn.rpartition("@")[2]
        return cls.opened.setdefault(address, cls(database, address)).used()

    def used(self) -> Post:
        """Count one more user; the first one starts it."""
        self._users += 1
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"events-post:{self._address}")
        return self

    async def close(self) -> None:
        """Give it up; the last user closes the connection."""
        self._users -= 1
        if self._users == 0 and self._task is not None:
            self.opened.pop(self._address, None)
            task, self._task = self._task, None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def send(self, name: str) -> None:
        """Tell other processes soon; repeated names within a few milliseconds become one."""
        self._pending.add(name)
        self._wanted.set()

    async def _run(self) -> None:
        backoff = Backoff(0.1, 5.0)
        while True:
            try:
                await self._serve(backoff)
            except Exception as error:
                if self.connected or not is_outage(error):
                    _log.warning("events_wakeups_lost", error=repr(error), outage=is_outage(error))
                self.connected = False
                await asyncio.sleep(backoff.next())

    async def _serve(self, backoff: Backoff) -> None:
        connection = await self._database.connect()
        try:
            await connection.add_listener(CHANNEL, self._heard)
            self.connected = True
            backoff.reset()
            due = sent = 0.0
            while True:
                if self._pending:
                    names, self._pending = self._pending, set()
                    sent = time.monotonic()
                    await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, ",".join(sorted(names)))
                if time.monotonic() >= due:
                    due = time.monotonic() + POLL_SECONDS
                    await self._poll(connection)
                self._wanted.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wanted.wait(), max(due - time.monotonic(), 0.01))
                    # The first hint after a pause goes at once; those that follow soon go together.
                    await asyncio.sleep(max(sent + _COALESCE_SECONDS - time.monotonic(), 0))
        finally:
            connection.terminate()

    async def _poll(self, connection: Any) -> None:
        for topic, position in await connection.fetch(_HEADS):
            if self._heads.get(topic) != position:
                self._heads[topic] = position
                wake(topic, remote=False)

    def _heard(self, connection: Any, pid: int, _channel: str, payload: Any) -> None:
        if pid != connection.get_server_pid():
            for name in str(payload).split(","):
                wake(name, remote=False)
