"""Bulkhead and breaker: who gets in, who waits, who is refused, and when a service is asked again."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.guards import CONGESTED_SECONDS, PATIENCE_SECONDS, STANDING_SECONDS, Breaker, Bulkhead, Guard
from gateway.problems import Overloaded, UpstreamUnavailable
from gateway.shedding import Priority

AUTH, BULK, HEALTH, INTERACTIVE = Priority.AUTH, Priority.BULK, Priority.HEALTH, Priority.INTERACTIVE


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def opened(breaker: Breaker) -> bool:
    return breaker.is_open


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize(("priority", "most"), [(BULK, 5), (INTERACTIVE, 9), (AUTH, 10), (HEALTH, 10)])
def test_the_less_important_leave_places_to_the_more_important(priority: Priority, most: int) -> None:
    bulkhead = Bulkhead(10)
    assert [bulkhead.try_enter(priority) for _ in range(11)].count(True) == most
    assert bulkhead.try_enter(HEALTH) is (most < 10)


async def test_who_waits_gets_in_by_importance_and_then_by_age() -> None:
    bulkhead, order = Bulkhead(2), []
    bulkhead.inside = 2

    async def come(name: str, priority: Priority) -> None:
        await bulkhead.enter(priority)
        order.append(name)

    tasks = [
        asyncio.create_task(come(name, priority))
        for name, priority in (("bulk", BULK), ("first", INTERACTIVE))
    ]  # fmt: skip
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(come("auth", AUTH))]
    await asyncio.sleep(0)
    assert bulkhead.waiting == 2  # the last one took the place of the bulk request
    with pytest.raises(Overloaded):
        await tasks[0]
    for expected in (["auth"], ["auth"], ["auth", "first"]):
        bulkhead.leave()
        await asyncio.sleep(0)
        assert order == expected
    await asyncio.gather(*tasks[1:])


async def test_who_waits_too_long_is_refused_and_takes_no_place() -> None:
    bulkhead = Bulkhead(1)
    assert bulkhead.try_enter(AUTH)
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(Overloaded) as refused:
        await bulkhead.enter(AUTH)
    assert loop.time() - began >= PATIENCE_SECONDS
    assert refused.value.headers["Retry-After"] == "1"
    assert bulkhead.waiting == 0
    bulkhead.leave()
    assert bulkhead.inside == 0
    assert bulkhead.try_enter(AUTH)


async def test_one_that_is_let_in_while_it_leaves_gives_its_place_on() -> None:
    bulkhead = Bulkhead(1)
    assert bulkhead.try_enter(AUTH)
    waiting = asyncio.create_task(bulkhead.enter(AUTH))
    await asyncio.sleep(0)
    bulkhead.leave()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert bulkhead.inside == 0


async def test_a_queue_that_does_not_end_makes_everybody_less_patient(clock: Clock) -> None:
    bulkhead = Bulkhead(4, clock)
    bulkhead.inside = 4
    for _ in range(3):  # let in after having waited for longer than a tenth of a second, again and again
        waiting = asyncio.create_task(bulkhead.enter(AUTH))
        await asyncio.sleep(0)
        clock.now += STANDING_SECONDS
        bulkhead.leave()
        await waiting
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(Overloaded):
        await bulkhead.enter(AUTH)
    assert CONGESTED_SECONDS <= loop.time() - began < PATIENCE_SECONDS
    waiting = asyncio.create_task(bulkhead.enter(AUTH))
    await asyncio.sleep(0)
    bulkhead.leave()  # at once: the queue has ended
    await waiting
    assert bulkhead._patience(clock.now) == PATIENCE_SECONDS


def test_a_breaker_opens_at_half_of_twenty_and_asks_again_each_second(clock: Clock) -> None:
    breaker = Breaker(clock)
    for number in range(19):
        (breaker.failed if number % 2 else breaker.succeeded)(clock.now)
    assert not opened(breaker)
    breaker.failed(clock.now)
    assert opened(breaker)
    for _ in range(3):
        with pytest.raises(UpstreamUnavailable) as refused:
            breaker.check()
        assert refused.value.headers["Retry-After"] == "1"
        clock.now += 1.0
        breaker.check()  # one a second
        breaker.failed(clock.now)
    clock.now += 1.0
    breaker.check()
    breaker.succeeded(clock.now)
    assert not breaker.is_open
    breaker.check()


def test_a_breaker_forgets(clock: Clock) -> None:
    breaker = Breaker(clock)
    for _ in range(1000):
        breaker.succeeded(clock.now)
    clock.now += 20
    for number in range(20):
        assert not breaker.is_open, number
        breaker.failed(clock.now)
    assert breaker.is_open


async def test_a_guard_counts_what_says_something_about_its_service() -> None:
    guard = Guard(2)
    for _ in range(30):
        await guard.enter(INTERACTIVE)
        guard.bulkhead.leave()
        guard.judge(time.perf_counter(), answered=None)
    assert not opened(guard.breaker)
    for _ in range(30):
        await guard.enter(INTERACTIVE)
        guard.bulkhead.leave()
        guard.judge(time.perf_counter(), answered=False)
        if opened(guard.breaker):
            break
    with pytest.raises(UpstreamUnavailable):
        await guard.enter(HEALTH)
    assert guard.bulkhead.inside == 0
