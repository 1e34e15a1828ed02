"""The kept connections to one service: a bounded number, used last in first out, waited for in turn.

A request holds a slot from ``take`` to ``give_back``, ``drop`` or ``let_run``, whatever becomes of its connection in
between; a resting connection holds one too. A slot that gets free goes to whoever has waited longest.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from urllib.parse import urlsplit

from gateway.problems import UpstreamUnavailable
from gateway.upstream_connection import Connection

CONNECT_SECONDS = 1.0
_TRUSTED_SECONDS = 0.02
"""A connection that rested longer is asked whether it is still there; a busy one is not, for its cost."""


class Address:
    """Where a service listens: ``http://host:port`` or ``unix:/path``."""

    def __init__(self, url: str) -> None:
        self.url = url
        parts = urlsplit(url)
        self.path = parts.path if parts.scheme == "unix" else ""
        self.host, self.port = parts.hostname or "", parts.port or 80
        is_http = parts.scheme == "http" and parts.hostname and parts.path in ("", "/") and "@" not in parts.netloc
        if (not is_http and not self.path) or parts.query or parts.fragment:
            raise ValueError(f"a service's address looks like http://host:port or unix:/path, not {url!r}")

    async def connect(self, loop: asyncio.AbstractEventLoop, connection: Connection) -> None:
        """Open ``connection``; raises ``OSError``, at the latest after ``CONNECT_SECONDS``."""
        async with asyncio.timeout(CONNECT_SECONDS):
            if self.path:
                await loop.create_unix_connection(lambda: connection, self.path)
            else:
                await loop.create_connection(lambda: connection, self.host, self.port)


class Pool:
    """At most ``most`` connections that rest or wait for an answer; one that rests for ``idle_seconds`` is closed."""

    def __init__(self, address: Address, *, most: int, idle_seconds: float) -> None:
        self._address = address
        self._most = most
        self._idle_seconds = idle_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._used = 0
        self._running = 0
        self._idle: list[Connection] = []
        self._waiters: deque[asyncio.Future[Connection | None]] = deque()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def open(self) -> int:
        """Connections that are open or being opened."""
        return self._used + self._running

    @property
    def idle(self) -> int:
        """Connections that rest."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """Requests that wait for a connection."""
        return len(self._waiters)

    async def take(self) -> Connection:
        """A connection for one request. Raises ``UpstreamUnavailable`` when a new one is refused."""
        connection = self._rested()
        if connection is None and self._used < self._most:
            self._used += 1
        elif connection is None:
            connection = await self._turn()
        if connection is None or not connection.is_open:
            connection = await self._connect()
        connection.has_slot = True
        return connection

    def let_run(self, connection: Connection) -> None:
        """Its answer has begun: how long the rest of it takes is its reader's affair, and keeps nobody from the service."""
        if connection.has_slot:
            connection.has_slot = False
            self._running += 1
            self._free()

    def give_back(self, connection: Connection) -> None:
        """End the request on ``connection``, everything having been taken from it."""
        if not connection.has_slot and self._used < self._most:
            connection.has_slot = True
            self._running -= 1
            self._used += 1
        if not connection.rest() or self._closed or not connection.has_slot:
            self.drop(connection)
        elif not self._hand_on(connection):
            self._idle.append(connection)
            if self._sweeper is None:
                self._sweep_in(self._idle_seconds)

    def drop(self, connection: Connection) -> None:
        """End the request and the connection."""
        connection.abort()
        if connection.has_slot:
            self._free()
        else:
            self._running -= 1

    def close(self) -> None:
        """Close what rests; what is under way is closed when it is given back."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        while self._idle:
            self.drop(self._idle.pop())

    def reopen(self) -> None:
        """Keep connections, in the loop that runs now."""
        self._closed = False
        self._loop = asyncio.get_running_loop()

    # ------------------------------------------------------------------------------------------------
    def _rested(self) -> Connection | None:
        idle, loop = self._idle, self._loop
        while idle and loop is not None:
            connection = idle.pop()
            rested = loop.time() - connection.rests_since
            is_young = connection.is_open and rested < self._idle_seconds
            if is_young and (rested < _TRUSTED_SECONDS or connection.is_quiet()):
                return connection
            self.drop(connection)
        return None

    async def _turn(self) -> Connection | None:
        """Wait for a slot: with a connection in it, or empty."""
        turn: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiters.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with contextlib.suppress(ValueError):  # passed over already
                    self._waiters.remove(turn)
            elif (connection := turn.result()) is not None:
                self.give_back(connection)
            else:
                self._free()
            raise

    async def _connect(self) -> Connection:
        """Open a connection in a slot that is held already."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        connection = Connection(loop, self._lost)
        try:
            await self._address.connect(loop, connection)
        except BaseException as error:
            if connection.is_open:
                connection.abort()  # given up between being made and being handed over
            self._free()
            if isinstance(error, OSError):
                raise UpstreamUnavailable from error
            raise
        return connection

    def _lost(self, connection: Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)
            self._free()

    def _free(self) -> None:
        if not self._hand_on(None):
            self._used -= 1

    def _hand_on(self, connection: Connection | None) -> bool:
        waiters = self._waiters
        while waiters:
            turn = waiters.popleft()
            if not turn.done():
                turn.set_result(connection)
                return True
        return False

    def _sweep_in(self, seconds: float) -> None:
        if self._loop is not None:
            self._sweeper = self._loop.call_later(seconds, self._sweep)

    def _sweep(self) -> None:
        """Close what has rested too long: the oldest are at the front."""
        self._sweeper = None
        now = asyncio.get_running_loop().time()
        idle, keep = self._idle, self._idle_seconds
        while idle and now - idle[0].rests_since >= keep:
            self.drop(idle.pop(0))
        if idle:
            self._sweep_in(keep - (now - idle[0].rests_since))
