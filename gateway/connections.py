"""What connections may cost: limits, and one sweeper per server that enforces their deadlines.

A timer per request would cost more than the check it arms, so connections note when their current
phase began and a single periodic sweep closes those that are overdue. It runs only while there are
connections.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Protocol

from gateway.addresses import within


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Sizes in bytes, times in seconds, rates in bytes per second."""

    header_bytes: int = 16_384
    header_fields: int = 100
    header_seconds: float = 10.0
    body_seconds: float = 20.0
    body_rate: int = 4_096
    idle_seconds: float = 5.0
    write_seconds: float = 20.0
    linger_seconds: float = 2.0
    half_closed_seconds: float = 5.0
    """How long an answer may take once the client stopped sending: it may have left altogether."""
    per_address: int = 256
    uncounted: tuple[IPv4Network | IPv6Network, ...] = field(default=())
    """Proxies, which bring the connections of many."""


class Connection(Protocol):
    """What the sweeper needs of a connection."""

    def sweep(self, now: float, elapsed: float) -> None: ...


class ConnectionGuard:
    """Counts connections by address and sweeps them. One per server."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        shortest = min(limits.header_seconds, limits.body_seconds, limits.idle_seconds, limits.linger_seconds)
        shortest = min(shortest, limits.half_closed_seconds)
        self._interval = max(0.02, min(0.5, shortest / 4))
        self._by_address: dict[str, int] = {}
        self._open: dict[Connection, str | None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._swept = 0.0

    def admit(self, connection: Connection, address: str, loop: asyncio.AbstractEventLoop) -> bool:
        """Register a connection; False when its address holds too many already (it is swept all the same)."""
        count = self._by_address.get(address, 0) + 1
        admitted = count <= self.limits.per_address or within(address, self.limits.uncounted)
        self._open[connection] = address if admitted else None
        if admitted:
            self._by_address[address] = count
        if self._timer is None:
            self._swept = loop.time()
            self._timer = loop.call_later(self._interval, self._sweep, loop)
        return admitted

    def release(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        address = self._open.pop(connection, None)
        if address is None:
            return
        count = self._by_address[address] - 1
        if count:
            self._by_address[address] = count
        else:
            del self._by_address[address]

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        elapsed, self._swept = now - self._swept, now
        for connection in list(self._open):
            connection.sweep(now, elapsed)
        self._timer = loop.call_later(self._interval, self._sweep, loop) if self._open else None
