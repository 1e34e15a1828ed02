import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest_asyncio

from shared.db import Database
from shared.events import wakeups
from shared.events.wakeups import CHANNEL, Post, wake
from shared.settings import Settings
from tests.shared.events.support import make_event, until

ProcessFactory = Callable[..., Awaitable[Database]]
Heard = list[str]


@pytest_asyncio.fixture(loop_scope="session")
async def other_process(events_settings: Settings) -> AsyncIterator[tuple[Any, Heard]]:
    """A connection of another process, and what it hears."""
    assert events_settings.database_url is not None
    connection = await asyncpg.connect(events_settings.database_url.get_secret_value())
    heard: Heard = []
    await connection.add_listener(CHANNEL, lambda *message: heard.append(str(message[3])))
    yield connection, heard
    await connection.close()


@pytest_asyncio.fixture(loop_scope="session")
async def post(process: ProcessFactory) -> AsyncIterator[Post]:
    opened = Post.open(await process("alpha"))
    await until(lambda: opened.connected)
    yield opened
    await opened.close()


async def test_a_hint_reaches_other_processes(post: Post, other_process: tuple[Any, Heard]) -> None:
    wake("outbox:alpha")
    await until(lambda: other_process[1] == ["outbox:alpha"])


async def test_many_hints_become_few_notifications(post: Post, other_process: tuple[Any, Heard]) -> None:
    for n in range(1000):
        wake(f"outbox:{'alpha' if n % 2 else 'beta'}")
    await until(lambda: bool(other_process[1]))
    wake("outbox:last")
    await until(lambda: "outbox:last" in other_process[1])
    assert len(other_process[1]) <= 3
    assert other_process[1][0] == "outbox:alpha,outbox:beta"


async def test_hints_of_other_processes_are_heard(post: Post, other_process: tuple[Any, Heard]) -> None:
    one, two = wakeups.subscribe("outbox:alpha"), wakeups.subscribe("outbox:beta")
    await other_process[0].execute("SELECT pg_notify($1, 'outbox:alpha,outbox:gamma')", CHANNEL)
    await one.wait(5.0)
    assert one._event.is_set()
    assert not two._event.is_set()


async def test_what_an_active_relay_here_will_do_is_not_told_to_others(
    post: Post, other_process: tuple[Any, Heard]
) -> None:
    mine = wakeups.subscribe("outbox:alpha")
    mine.exclusive = True
    wake("outbox:alpha")
    wake("outbox:beta")
    await until(lambda: bool(other_process[1]))
    assert other_process[1] == ["outbox:beta"]
    assert mine._event.is_set()


async def test_a_signal_nobody_keeps_is_forgotten() -> None:
    signal = wakeups.subscribe("outbox:gone")
    assert len(wakeups._signals["outbox:gone"]) == 1
    del signal
    assert len(wakeups._signals["outbox:gone"]) == 0


async def test_waiting_ends_at_the_timeout() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    await wakeups.subscribe("never").wait(0.02)
    assert 0.01 < loop.time() - began < 1


async def test_a_lost_hint_is_made_good_by_the_poll(post: Post, other_process: tuple[Any, Heard]) -> None:
    signal = wakeups.subscribe("guardian.alpha.events")
    event = make_event()
    await other_process[0].execute(
        "SELECT bus.append('guardian.alpha.events', ARRAY[$1::uuid], ARRAY[$1::uuid], ARRAY['x'], ARRAY['k'], ARRAY[0], ARRAY['{}']::json[])",
        event.id,
    )
    await signal.wait(5.0)
    assert signal._event.is_set()


async def test_the_post_comes_back_after_its_connection_is_lost(post: Post, other_process: tuple[Any, Heard]) -> None:
    await other_process[0].execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'svc_alpha' AND datname = current_database()"
    )
    await until(lambda: not post.connected)
    await until(lambda: post.connected)
    wake("outbox:alpha")
    await until(lambda: "outbox:alpha" in other_process[1])
