"""What is refused when there is more to do than can be done: how much of it, and what never is."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.shedding import BURST_SECONDS, BUSY, TARGET_SECONDS, Priority, Shedder, priority_of
from shared.limits.policies import Operation


@pytest.mark.parametrize(
    ("service", "operation", "priority"),
    [
        ("health", Operation("GET", "/v1/status"), Priority.HEALTH),
        ("identity", Operation("POST", "/v1/sessions", route_class="anonymous"), Priority.AUTH),
        ("crm", Operation("GET", "/v1/contacts"), Priority.INTERACTIVE),
        ("crm", Operation("POST", "/v1/contacts/bulk", route_class="bulk"), Priority.BULK),
        ("crm", None, Priority.INTERACTIVE),
    ],
)
def test_importance_follows_the_contract(service: str, operation: Operation | None, priority: Priority) -> None:
    assert priority_of(service, operation) is priority


def test_a_moment_of_work_refuses_nobody() -> None:
    shedder = Shedder(lambda: BUSY)
    for _ in range(50):
        shedder.observe(BURST_SECONDS / 2)
        shedder.observe(0.0)
    assert shedder.share == 0
    assert not shedder.refuses(Priority.BULK)


def test_the_share_settles_where_the_work_is_done_in_time() -> None:
    """A process that can do ten thousand things a second is asked for thirty thousand; what is refused costs a tenth."""
    shedder, backlog, lateness = Shedder(lambda: BUSY), 0.0, 0.0
    seen = []
    for _ in range(1000):
        arrived = 30_000 * 0.02
        work = arrived * (1 - shedder.share) + 0.1 * arrived * shedder.share
        backlog = max(0.0, backlog + work - 10_000 * 0.02)
        lateness = backlog / 10_000
        shedder.observe(lateness)
        seen.append((shedder.share, lateness))
    shares, late = [share for share, _ in seen[-200:]], [each for _, each in seen[-200:]]
    assert 0.70 < sum(shares) / len(shares) < 0.80  # 30 (1 - p) + 3 p = 10
    assert sum(late) / len(late) < 4 * TARGET_SECONDS
    for _ in range(200):
        shedder.observe(0.0)
    assert shedder.share == 0


def test_signing_in_and_health_are_never_refused_and_bulk_first() -> None:
    shedder = Shedder(lambda: BUSY)
    shedder.share = 0.3
    refused = {each: sum(shedder.refuses(each) for _ in range(2000)) / 2000 for each in Priority}
    assert refused[Priority.HEALTH] == refused[Priority.AUTH] == 0
    assert 0.2 < refused[Priority.INTERACTIVE] < 0.4
    assert 0.5 < refused[Priority.BULK] < 0.7


async def test_it_notices_an_event_loop_that_is_late_while_there_is_work() -> None:
    busy = BUSY - 1
    shedder = Shedder(lambda: busy)
    shedder.start()
    for _ in range(20):
        time.sleep(0.06)  # noqa: ASYNC251 (somebody else has the processor)
        await asyncio.sleep(0.001)
    assert not shedder.share
    busy = BUSY
    try:
        async with asyncio.timeout(20):
            while not shedder.share:
                time.sleep(0.06)  # noqa: ASYNC251 (that is the point)
                await asyncio.sleep(0.001)
            while shedder.share:  # noqa: ASYNC110 (it changes as time passes)
                await asyncio.sleep(0.01)
    finally:
        shedder.stop()
