"""What a bus brings to be held to the conformance suite, and how the suite reads from it."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from shared.db import Database
from shared.events import Bus, Received, Subscription


class Harness(Protocol):
    async def bus(self) -> Bus:
        """The started bus as one more process sees it."""

    async def lose(self, bus: Bus, member: Subscription) -> None:
        """The process of ``member`` stops without a word, and is noticed as this bus notices it."""

    async def append_unreadable(self, key: str) -> None:
        """An entry that is no CloudEvent, under ``key``."""

    async def database(self) -> Database:
        """The consuming service's database."""


async def take(member: Subscription, wanted: int, *, limit: int = 100, seconds: float = 10.0) -> list[Received]:
    """Fetch and commit until ``wanted`` entries came."""
    got: list[Received] = []
    deadline = asyncio.get_running_loop().time() + seconds
    while len(got) < wanted:
        assert asyncio.get_running_loop().time() < deadline, f"{len(got)} of {wanted} entries came"
        batch = await member.fetch(limit, 0.2)
        got += batch
        if batch:
            await member.commit(batch)
    return got


def numbers(received: Sequence[Received]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for each in received:
        assert each.event is not None
        found.setdefault(each.key, []).append(each.event.sequence)
    return found
