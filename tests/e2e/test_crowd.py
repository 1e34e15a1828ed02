"""Slow clients in numbers: they are turned away in time, and starve nobody. Each platform here has short deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.e2e.crowd import Crowd, Slow, call, calls, percentile
from tests.e2e.platform import Mode, RunningPlatform, params, wait_for
from tests.e2e.wire import BODY, CHUNKED, CLOSE, END, GET, LENGTH, POST, Door, chunk

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

WHOLE, APART = Mode("whole", kafka=False, split=False), Mode("apart", kafka=False, split=True)
HEADER, BODIES, IDLE, WRITE = 2.0, 2.0, 1.0, 20.0
"""Seconds; that an answer must be taken in 20 is no setting."""
RATE, WARM, ALONE, AMONG = 50, 25, 150, 250
LARGE = 20_000
"""More than a gateway gathers before it takes a connection to a service."""
_SETTINGS = {
    "GUARDIAN_HEADER_TIMEOUT_SECONDS": str(HEADER),
    "GUARDIAN_BODY_TIMEOUT_SECONDS": str(BODIES),
    "GUARDIAN_IDLE_TIMEOUT_SECONDS": str(IDLE),
}
LATE = frozenset({408})


@pytest.fixture(scope="module", params=params(WHOLE, APART))
def door(request: pytest.FixtureRequest, platforms: Callable[..., RunningPlatform]) -> Iterator[Door]:
    made = Door(platforms(request.param, **_SETTINGS))
    yield made
    made.close()


def kinds(door: Door) -> list[Slow]:
    """Five hundred clients."""
    post, late_or_busy = POST.replace(b"KEY", door.key), LATE | {503}
    get = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * 20
    leaves = door.platform.mode is APART  # the other has shown that they are turned away, and it takes a while
    promised = b"Content-Length: 100000\r\n\r\n"
    return [
        Slow("nothing", 100, HEADER, frozenset()),
        Slow("half a line", 80, HEADER, LATE, b"POST /v1/con"),
        Slow("a line of HTTP/0.9", 20, HEADER, LATE, b"GET /v1/contacts\r\n"),
        Slow("head in drops", 100, HEADER, LATE, b"POST /v1/contacts HTTP/1.1\r\nX: ", b"x"),
        Slow("body in drops", 40, BODIES, LATE, post + promised + BODY[:5], b" "),
        Slow("chunks in drops", 30, BODIES, LATE, post + CHUNKED + b"\r\n" + chunk(BODY[:5]), chunk(b" ")),
        Slow("large body in drops", 30, BODIES + LARGE / 4096, late_or_busy, post + promised + b" " * LARGE, b" "),
        Slow("answer not read", 80, IDLE, frozenset(), b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n", reads=False),
        Slow("answers not read", 20, WRITE, frozenset(), get, reads=False, leaves=leaves),
    ]  # fmt: skip


def test_five_hundred_slow_clients_starve_nobody(door: Door) -> None:
    port, slow = door.platform.port, kinds(door)
    asked = [
        (GET + CLOSE + b"\r\n").replace(b"KEY", door.key),
        (POST + CLOSE + LENGTH + b"\r\n" + BODY).replace(b"KEY", door.key),
    ]

    async def honest(turn: int) -> tuple[int, float]:
        return await call(port, asked[turn % 5 == 0])

    async def scenario() -> tuple[list[tuple[int, float]], list[tuple[int, float]], Crowd]:
        alone = (await calls(honest, RATE, WARM + ALONE))[WARM:]
        crowd = Crowd(port, slow)
        async with crowd.waiting():
            among = await calls(honest, RATE, AMONG)
        return alone, among, crowd

    alone, among, crowd = asyncio.run(scenario())
    assert [each for each in (*alone, *among) if each[0] not in (200, 201)] == []
    for said, found in (("alone", alone), ("among 500 slow clients", among)):
        seconds = [each[1] for each in found]
        median, worst = percentile(seconds, 0.5), percentile(seconds, 0.99)
        print(f"{door.platform.mode.name}, {said}: p50 {median:.1f} ms, p99 {worst:.1f} ms")
    assert {visit.slow.name for visit in crowd.visits} == {each.name for each in slow}
    assert [visit for visit in crowd.visits if not visit.is_right] == []
    door.makes(*["smuggled"] * ((WARM + ALONE + AMONG) // 5))


def test_connections_of_one_address_are_limited_and_others_are_not(door: Door) -> None:
    with ExitStack() as stack:
        held = [stack.enter_context(door.connect("127.0.0.99")) for _ in range(256)]
        for wire in held:
            wire.send(b"GET")
        with door.connect("127.0.0.99") as one_more:
            (answer,) = one_more.rest()
        assert (answer.refusal, answer.closes) == ((503, "too_many_connections"), True)
        assert door.ask(GET + CLOSE + b"\r\n").status == 200
        assert [answer.refusal for wire in held for answer in wire.rest()] == [(408, "request_timeout")] * 256

    def has_a_place() -> bool:
        with door.connect("127.0.0.99") as again:
            again.send(GET + CLOSE + b"\r\n")
            return [answer.status for answer in again.rest()] == [200]

    wait_for(has_a_place)


def test_broken_requests_in_numbers_leave_nothing_behind(door: Door) -> None:
    for _ in range(2_100):
        (answer,) = door.say(POST + CHUNKED + b"\r\nno size\r\n" + BODY + END, b"nobody")
        assert answer.refusal == (400, "bad_request")
    assert door.ask(GET + CLOSE + b"\r\n").status == 200
