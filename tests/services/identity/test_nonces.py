"""What was signed is taken once: across calls, callers, and a crash that empties unlogged tables."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from gateway.nonces import Nonce, Nonces
from services.identity.jobs import forget_nonces
from shared.db import Database
from shared.errors import ServiceUnavailable
from shared.ids import new_id
from shared.settings import Settings

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
CALL = "SELECT identity.remember_nonces($1, $2, $3, $4)"
LIFE = timedelta(minutes=5)


@pytest_asyncio.fixture
async def now(gateway: Connection) -> datetime:
    """The database's time: a moment after its memory began."""
    moment: datetime = await gateway.fetchval("SELECT clock_timestamp()")
    return moment


@pytest_asyncio.fixture
async def crash(postgres: str) -> AsyncIterator[Connection]:
    """The database as it is after a crash, seen by its administrator until the test ends."""
    connection = await asyncpg.connect(postgres)
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
    await connection.close()


async def lose(connection: Connection) -> None:
    """What PostgreSQL does to the unlogged tables when it recovers."""
    lost = await connection.fetch(
        "SELECT oid::regclass::text FROM pg_class WHERE relpersistence = 'u' AND relkind = 'r'"
        " AND relnamespace = 'identity'::regnamespace"
    )
    assert {name for (name,) in lost} == {"identity.request_nonces", "identity.nonce_memory"}
    await connection.execute("TRUNCATE identity.request_nonces, identity.nonce_memory")


async def remember(
    connection: Any, created: datetime, *nonces: tuple[UUID, str], until: datetime | None = None
) -> Sequence[bool | None]:
    keys, texts = [key for key, _ in nonces], [text for _, text in nonces]
    ends = until or created + LIFE
    answers: Sequence[bool | None] = await connection.fetchval(
        CALL, keys, texts, [created.timestamp()] * len(nonces), [ends.timestamp()] * len(nonces)
    )
    return answers


async def test_each_is_new_once(gateway: Connection, now: datetime) -> None:
    key, other = new_id(), new_id()
    assert await remember(gateway, now, (key, "a"), (key, "b")) == [True, True]
    assert await remember(gateway, now, (key, "c"), (key, "a"), (other, "a"), (key, "A")) == [True, False, True, True]
    assert await remember(gateway, now, (key, "c"), (other, "a"), (key, "A")) == [False] * 3


async def test_answers_stand_in_the_order_of_the_questions(gateway: Connection, now: datetime) -> None:
    keys = sorted((new_id() for _ in range(3)), reverse=True)
    await remember(gateway, now, (keys[1], "z"))
    asked = [(keys[0], "b"), (keys[1], "z"), (keys[2], "é"), (keys[0], "B"), (keys[0], "a")]
    assert await remember(gateway, now, *asked) == [True, False, True, True, True]
    assert await remember(gateway, now) == []


async def test_of_the_same_in_one_call_the_first_is_new(gateway: Connection, now: datetime) -> None:
    key = new_id()
    assert await remember(gateway, now, (key, "b"), (key, "a"), (key, "b"), (key, "b")) == [True, True, False, False]


async def test_of_many_at_the_same_time_one_wins_and_none_waits_for_ever(settings: Settings, now: datetime) -> None:
    """The same nonces in opposite orders: what would deadlock if rows were inserted as they come."""
    keys = [new_id() for _ in range(100)]
    asked = [(key, nonce) for key in keys for nonce in ("a", "b")]
    connections = [await Database(settings, "gateway").connect() for _ in range(4)]
    try:
        for _ in range(5):
            asked = [(new_id(), nonce) for _, nonce in asked]
            calls = [remember(each, now, *asked[:: (1, -1)[n % 2]]) for n, each in enumerate(connections)]
            answers = await asyncio.wait_for(asyncio.gather(*calls), 20)
            won = [list(each)[:: (1, -1)[n % 2]] for n, each in enumerate(answers)]
            assert [sum(each) for each in zip(*won, strict=True)] == [1] * len(asked)
    finally:
        for each in connections:
            await each.close()


async def test_what_was_signed_before_the_memory_began_is_not_known(gateway: Connection) -> None:
    assert await remember(gateway, datetime(2026, 1, 15, tzinfo=UTC), (new_id(), "a")) == [None]


async def test_after_a_crash_what_may_have_been_seen_is_not_known(crash: Connection, now: datetime) -> None:
    key = new_id()
    assert await remember(crash, now, (key, "a")) == [True]
    await lose(crash)
    assert await remember(crash, now, (key, "a"), (key, "unseen")) == [None, None]
    later: datetime = await crash.fetchval("SELECT clock_timestamp()")
    assert await remember(crash, later, (key, "a")) == [True]
    assert await remember(crash, now, (key, "unseen")) == [None]
    assert await crash.fetchval("SELECT count(*) FROM identity.nonce_memory") == 1


async def test_after_a_crash_what_was_signed_by_a_clock_ahead_is_still_known(crash: Connection, now: datetime) -> None:
    """Its time is behind the crash, so that the time alone would let it pass a second time."""
    key, ahead = new_id(), now + timedelta(minutes=4)
    assert await remember(crash, ahead, (key, "a")) == [True]
    assert await remember(crash, ahead, (key, "a")) == [False]
    await lose(crash)
    assert await remember(crash, ahead, (key, "a"), (key, "b")) == [False, True]


async def test_those_that_have_expired_are_forgotten(
    gateway: Connection, identity: Database, postgres: str, now: datetime
) -> None:
    key = new_id()
    kept = {"expired lately": -50, "good": 300, "ahead": 400}
    for name, seconds in {"old": -70, "old ahead": -70, **kept}.items():
        created = now + timedelta(minutes=4) if "ahead" in name else now
        until = now + timedelta(seconds=seconds)
        await remember(gateway, created, (key, name), until=until)
        if "lately" not in name:
            await gateway.execute("SELECT identity.spend_nonce($1, $2, $3)", key, name, until.timestamp())
    await forget_nonces(identity)
    connection = await asyncpg.connect(postgres)
    left = [
        await connection.fetch(f"SELECT nonce FROM identity.{table} WHERE signing_key_id = $1", key)
        for table in ("request_nonces", "request_nonces_ahead", "request_nonces_spent")
    ]
    await connection.close()
    assert [{row["nonce"] for row in rows} for rows in left] == [set(kept), {"ahead"}, {"ahead", "good"}]


async def test_what_was_refused_for_good_is_spent_also_after_a_crash(crash: Connection, settings: Settings) -> None:
    """Known to every gateway, by the key and to the letter."""
    key, soon = new_id(), time.time() + 300
    databases = [Database(settings, "gateway") for _ in range(2)]
    async with AsyncExitStack() as stack:
        for each in databases:
            await each.open()
            stack.push_async_callback(each.close)
        one, other = [Nonces(each) for each in databases]
        nonce = Nonce(str(key), "a", int(soon) - 300, int(soon))
        assert not await other.is_spent(nonce)
        for _ in range(2):
            await one.spend(nonce)
        await lose(crash)
        assert await other.is_spent(nonce)
        assert not await other.is_spent(nonce._replace(text="A"))
        assert not await other.is_spent(nonce._replace(key_id=str(new_id())))


async def test_a_gateway_that_finds_the_database_again_begins_its_memory(postgres: str, settings: Settings) -> None:
    """Not the first signature after the crash, which would be from before the memory began."""
    administrator = await asyncpg.connect(postgres)
    await administrator.execute("TRUNCATE identity.request_nonces, identity.nonce_memory")
    database = Database(settings, "gateway")
    await database.open()
    nonces = Nonces(database)
    nonces.begin()
    for _ in range(500):
        if await administrator.fetchval("SELECT count(*) FROM identity.nonce_memory"):
            break
        await asyncio.sleep(0.01)
    else:
        pytest.fail("it waits for a signature")
    await nonces.stop()
    for each in (database, administrator):
        await each.close()


async def test_who_leaves_while_it_is_spent_does_not_keep_it(gateway: Connection, settings: Settings) -> None:
    nonce = Nonce(str(new_id()), "a", int(time.time()), int(time.time()) + 300)
    database = Database(settings, "gateway")
    await database.open()
    nonces = Nonces(database)
    asked = asyncio.ensure_future(nonces.spend(nonce))
    await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    for _ in range(500):
        if await nonces.is_spent(nonce):
            break
        await asyncio.sleep(0.01)
    else:
        pytest.fail("it stays good")
    await database.close()


async def test_what_cannot_be_spent_is_said(settings: Settings) -> None:
    database = Database(settings, "gateway")
    await database.open()
    await database.close()
    with pytest.raises(ServiceUnavailable):
        await Nonces(database).spend(Nonce(str(new_id()), "a", 0, 300))


@pytest.mark.parametrize("service", ["crm", "gateway"])
async def test_nobody_else_may_forget(settings: Settings, service: str) -> None:
    connection = await Database(settings, service).connect()
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("SELECT identity.forget_nonces()")
    finally:
        await connection.close()
