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


GRACE = 60.0


async def test_while_the_database_is_away_what_is_remembered_goes_on_for_a_minute() -> None:
    async def fetch(key: bytes) -> Credential:
        if away:
            raise ServiceUnavailable("away")
        credential = _credential()
        credential.fetched_at = clock.now
        return credential

    away, clock = False, Moment()
    hearing = Hearing(clock)
    cache = Cache(fetch, hearing, GRACE)
    hearing.heard_until(clock.now)
    known = await cache.resolve(b"k")
    away = True
    hearing.lose()
    clock.now += GRACE - 1
    assert [await cache.resolve(b"k") for _ in range(20)] == [known] * 20
    assert cache.lookups <= 4, "one question now and then, and nobody waits for it"
    with pytest.raises(ServiceUnavailable):
        await cache.resolve(b"unknown")
    cache.forget(b"k")
    with pytest.raises(ServiceUnavailable):
        await cache.resolve(b"k")  # what is known to have changed has no grace
    away = False
    again = await cache.resolve(b"k")
    away = True
    clock.now += GRACE + 1
    with pytest.raises(ServiceUnavailable):
        await cache.resolve(b"k")
    assert again is not None


async def test_a_database_that_hangs_is_waited_for_once() -> None:
    async def fetch(key: bytes) -> Credential:
        if hangs:
            await asyncio.sleep(3600)
        return _credential()

    hangs, clock = False, Moment()
    hearing = Hearing(clock)
    cache = Cache(fetch, hearing, GRACE)
    hearing.heard_until(clock.now)
    await cache.resolve(b"k")
    hangs = True
    clock.now += 1
    begun = time.monotonic()
    for _ in range(50):
        assert await cache.resolve(b"k") is not None
    assert time.monotonic() - begun < 2, (
        "a tenth of a second for a heartbeat, a quarter for an answer, and then no more"
    )
    for task in cache._pending.values():
        task.cancel()


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
