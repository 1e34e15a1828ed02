"""A listener whose connection went silent without closing: revocations must still be effective within a second."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from gateway.credentials import LIFE_DEAF, Cache, Credential
from shared.auth import api_key
from shared.db.hearing import HEARING_SECONDS, Hearing
from shared.db.listener import Listener
from shared.errors import ServiceUnavailable
from shared.ids import new_id
from shared.testing.plugin import DatabaseFactory
from tests.gateway.world import World

LONGEST = 1.0


def _status(world: World, key: api_key.NewKey) -> int:
    time.sleep(0.005)  # each call is a connection, whose number is limited
    reply = world.call(key.text)
    if reply.status != 200:
        assert reply.code in ("api_key_revoked", "service_unavailable")
    return int(reply.status)


@pytest.mark.parametrize("after", [0.0, 0.15, 0.4])
@pytest.mark.parametrize("how", ["silent", "suspended"])
def test_a_key_revoked_in_silence_ends_within_a_second(
    world: World, eventually: Callable[..., None], how: str, after: float
) -> None:
    key = world.key()
    assert world.call(key.text).status == 200
    with getattr(world, how)():
        began = time.monotonic()
        while time.monotonic() - began < after:
            _status(world, key)
        revoked_at = world.revoke(key)
        last_accepted, statuses = revoked_at, set()
        while time.monotonic() - revoked_at < 1.5:
            asked_at = time.monotonic()
            status = _status(world, key)
            statuses.add(status)
            if status == 200:
                last_accepted = time.monotonic()
            else:
                assert time.monotonic() - asked_at < 4, "an answer that cannot be given is refused in time"
    assert last_accepted - revoked_at <= LONGEST
    eventually(lambda: world.call(key.text).status == 401)
    eventually(world.listening)


class Moment:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _credential() -> Credential:
    return Credential(b"", new_id(), "api_key", "x", frozenset(), 0.0, 0.0)


def test_a_late_heartbeat_shortens_lives_and_the_next_one_restores_them() -> None:
    async def scenario() -> None:
        async def fetch(key: bytes) -> Credential:
            return _credential()

        clock = Moment()
        hearing = Hearing(clock)
        cache = Cache(fetch, hearing)
        hearing.heard_until(clock.now)
        await cache.resolve(b"k")
        clock.now += HEARING_SECONDS - 0.01
        assert cache.peek(b"k") is not None
        clock.now += 0.02
        assert cache.peek(b"k") is None
        waiting = asyncio.create_task(cache.resolve(b"k"))
        await asyncio.sleep(0)
        hearing.heard_until(clock.now)
        await waiting
        assert cache.lookups == 1, "waiting for a heartbeat that is only late spares the database"
        hearing.lose()
        assert cache.peek(b"k") is None
        await cache.resolve(b"k")
        assert cache.lookups == 2

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "heard, overtaken, accepted", [(True, False, True), (True, True, False), (False, False, False)]
)
def test_an_answer_that_took_long_counts_only_while_changes_are_heard(
    heard: bool, overtaken: bool, accepted: bool
) -> None:
    async def scenario() -> Any:
        async def fetch(key: bytes) -> Credential:
            clock.now += LIFE_DEAF + 0.1
            if heard:
                hearing.heard_until(clock.now)
            if overtaken:
                cache.forget(key)
            return _credential()

        clock = Moment()
        hearing = Hearing(clock)
        cache = Cache(fetch, hearing)
        return await cache.resolve(b"k")

    if accepted:
        assert asyncio.run(scenario()) is not None
    else:
        with pytest.raises(ServiceUnavailable):
            asyncio.run(scenario())


async def test_a_socket_that_was_closed_does_not_end_the_listening(
    database: DatabaseFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, attempts = await database("gateway"), 0
    connect = opened.connect

    async def closed_at_first() -> Any:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")
        return await connect()

    monkeypatch.setattr(opened, "connect", closed_at_first)
    listens = asyncio.Event()
    listener = Listener(
        opened, "guardian_credentials", lambda _: None, lambda state: listens.set() if state else None, lambda _: None
    )
    listener.start()
    await asyncio.wait_for(listens.wait(), 10)
    await listener.stop()
    assert attempts == 3
