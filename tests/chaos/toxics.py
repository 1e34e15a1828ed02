"""What can be wrong with a network, in Toxiproxy's terms. A toxic works on one direction of chosen connections.

``apply`` turns a piece of the stream into the pieces to send, and takes the time it takes; ``began`` runs beside
the connection for as long as both live, for what happens by itself.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

Stream = Literal["upstream", "downstream"]
"""``upstream`` is what the client sends, ``downstream`` what it gets."""
Data = bytes  # the type, where an attribute of Toxiproxy's is called bytes
_NOTHING: tuple[Data, ...] = ()


class Link(Protocol):
    """One direction of one connection, as a toxic sees it."""

    sent: int
    dice: random.Random

    def end(self, *, reset: bool = False) -> None:
        """End the whole connection, orderly or with a reset."""


@dataclass(slots=True)
class Toxic:
    """Does nothing; the base of those that do. ``toxicity`` is the share of connections it is in."""

    name: str
    stream: Stream = "downstream"
    toxicity: float = 1.0
    kind: ClassVar[str] = "noop"

    async def apply(self, data: bytes, age: float, link: Link) -> AsyncIterator[bytes]:
        """The pieces of ``data`` (read ``age`` seconds ago) to send, when they are due."""
        yield data

    async def began(self, link: Link) -> None:
        """Runs once for each connection, from now or from its beginning."""

    async def ending(self, link: Link) -> None:
        """Runs before an end of the stream is passed on."""

    def attributes(self) -> dict[str, Any]:
        """Its own settings, as the API shows them."""
        common = set(Toxic.__dataclass_fields__)
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in common}


@dataclass(slots=True)
class Latency(Toxic):
    """Everything comes ``latency`` ± ``jitter`` milliseconds late; throughput stays."""

    latency: float = 0
    jitter: float = 0
    kind: ClassVar[str] = "latency"

    async def apply(self, data: bytes, age: float, link: Link) -> AsyncIterator[bytes]:
        delay = (self.latency + link.dice.uniform(-self.jitter, self.jitter)) / 1000
        await asyncio.sleep(max(delay - age, 0))
        yield data


@dataclass(slots=True)
class Bandwidth(Toxic):
    """At most ``rate`` KB a second."""

    rate: float = 0
    kind: ClassVar[str] = "bandwidth"

    async def apply(self, data: bytes, age: float, link: Link) -> AsyncIterator[bytes]:
        step = max(int(self.rate * 100), 1)  # what passes in a tenth of a second
        for start in range(0, len(data), step):
            piece = data[start : start + step]
            await asyncio.sleep(len(piece) / (self.rate * 1000))
            yield piece


@dataclass(slots=True)
class SlowClose(Toxic):
    """The end of the stream comes ``delay`` milliseconds late."""

    delay: float = 0
    kind: ClassVar[str] = "slow_close"

    async def ending(self, link: Link) -> None:
        await asyncio.sleep(self.delay / 1000)


@dataclass(slots=True)
class Timeout(Toxic):
    """Half-open: nothing passes. The connection ends after ``timeout`` milliseconds, or with 0 never by itself."""

    timeout: float = 0
    kind: ClassVar[str] = "timeout"

    async def apply(self, data: bytes, age: float, link: Link) -> AsyncIterator[bytes]:
        for piece in _NOTHING:
            yield piece

    async def began(self, link: Link) -> None:
        if self.timeout:
            await asyncio.sleep(self.timeout / 1000)
            link.end()

    async def ending(self, link: Link) -> None:
        await asyncio.Event().wait()  # what nothing passes, no end passes either


@dataclass(slots=True)
class ResetPeer(Toxic):
    """The connection is reset after ``timeout`` milliseconds; nothing passes meanwhile."""

    timeout: float = 0
    kind: ClassVar[str] = "reset_peer"

    async def apply(self, data: bytes, age: float, link: Link) -> AsyncIterator[bytes]:
        for piece in _NOTHING:
            yield piece

    async def began(self, link: Link) -> None:
        await asyncio.sleep(self.timeout / 1000)
        link.end(reset=True)


@dataclass(slots=True)
class Slicer(Toxic):
    """Pieces of ``average_size`` ± ``size_variation`` bytes, ``delay`` microseconds apart."""

    average_size: int = 1
    size_variation: int = 0
    delay: float = 0
    kind: ClassVar[str] = "slicer"

    async def apply(self, data: bytes, age: float, link: Link) -> AsyncIterator[bytes]:
        start = 0
        while start < len(data):
            size = max(self.average_size + link.dice.randint(-self.size_variation, self.size_variation), 1)
            yield data[start : start + size]
            start += size
            if self.delay and start < len(data):
                await asyncio.sleep(self.delay / 1_000_000)


@dataclass(slots=True)
class LimitData(Toxic):
    """The connection ends when ``bytes`` have passed."""

    bytes: int = 0  # Toxiproxy's name for it
    kind: ClassVar[str] = "limit_data"

    async def apply(self, data: Data, age: float, link: Link) -> AsyncIterator[Data]:
        left = self.bytes - link.sent
        if left > 0:
            yield data[:left]
        if left <= len(data):
            link.end()


KINDS: Mapping[str, type[Toxic]] = {
    each.kind: each for each in (Latency, Bandwidth, SlowClose, Timeout, ResetPeer, Slicer, LimitData)
}


@dataclass(slots=True)
class Toxics:
    """The toxics of a proxy by their names, in the order they were added."""

    by_name: dict[str, Toxic] = field(default_factory=dict)

    def make(self, values: Mapping[str, Any]) -> Toxic:
        """Add one as the API describes it; raises ``ValueError``."""
        kind = str(values.get("type"))
        if kind not in KINDS:
            raise ValueError(f"there is no toxic {kind!r}; there are {', '.join(KINDS)}")
        stream = values.get("stream", "downstream")
        if stream not in {"upstream", "downstream"}:
            raise ValueError("stream is upstream or downstream")
        name = str(values.get("name") or f"{kind}_{stream}")
        if name in self.by_name:
            raise ValueError(f"there is a toxic {name!r} already")
        try:
            made = KINDS[kind](name, stream, float(values.get("toxicity", 1)), **values.get("attributes", {}))
        except TypeError as error:
            raise ValueError(f"{kind}: {error}") from None
        if isinstance(made, Bandwidth) and made.rate <= 0:
            raise ValueError("bandwidth needs a rate above 0")
        self.by_name[name] = made
        return made
