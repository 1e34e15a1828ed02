"""The HTTP upstream in front of services that misbehave, byte by byte over real sockets."""

import asyncio
import time
from typing import Any

import pytest

from gateway.upstream import HttpUpstream
from gateway.upstream_connection import HEAD_BYTES, BadAnswer, BrokenAnswer
from tests.gateway.upstreams import Call, Visit, always, call, play, raw_service, says

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def fails(upstream: HttpUpstream, kind: type[Exception], *args: Any) -> Call:
    """Make a call that must fail with ``kind``; it is an ``OSError``, so that the gateway answers 502."""
    made = Call(*args)
    with pytest.raises(kind) as caught:
        await upstream(made.scope, made.receive, made.send)
    assert isinstance(caught.value, OSError)
    assert not made.answer.complete
    return made


# -- answers that are none -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"garbage\r\n\r\n", id="garbage"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="another-protocol"),
        pytest.param(b"\x00\x01\x02\x03", id="binary"),
        pytest.param(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", id="bare-lf"),
        pytest.param(b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok", id="version"),
        pytest.param(b"HTTP/1.1 99 Low\r\nContent-Length: 2\r\n\r\nok", id="status-99"),
        pytest.param(b"HTTP/1.1 999 High\r\nContent-Length: 2\r\n\r\nok", id="status-999"),
        pytest.param(b"HTTP/1.1 101 Up\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", id="upgrade"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            id="cl+te",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            id="te+cl",
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", id="two-lengths"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", id="length-list"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok", id="negative-length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", id="te-list"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="te-twice"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok", id="te-identity"),
        pytest.param(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="te-1.0"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 2\r\n\r\nok", id="control-character"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length: 2\r\n\r\nok", id="folded"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"a" * HEAD_BYTES + b"\r\n\r\n", id="huge-header"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 300_000, id="endless-header"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000 + b"\r\n", id="many-headers"),
        pytest.param(b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" * 5_000, id="endless-hints"),
    ],
)
def test_an_answer_that_is_none(said: bytes) -> None:
    async def work(upstream: HttpUpstream) -> None:
        for method in ("GET", "POST"):
            made = await fails(upstream, BadAnswer, method)
            assert made.answer.status == 0, "nothing was passed on"

    with raw_service(says(said, close=False)) as service:
        play(work, service.url)
        assert service.visits == 2, "a bad answer is no reason to ask again"


@pytest.mark.parametrize(
    "head, rest, kind",
    [
        pytest.param(b"Content-Length: 10", b"half", BrokenAnswer, id="length"),
        pytest.param(b"Transfer-Encoding: chunked", b"4\r\nhalf\r\n", BrokenAnswer, id="chunked"),
        pytest.param(b"Transfer-Encoding: chunked", b"4\r\nhalf\r\nnonsense\r\n", BadAnswer, id="broken-chunk"),
    ],
)
def test_an_answer_that_stops_in_the_middle(head: bytes, rest: bytes, kind: type[Exception]) -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n")
        await asyncio.sleep(0.05)
        await visit.say(rest)
        await asyncio.sleep(0.05)

    async def work(upstream: HttpUpstream) -> None:
        made = await fails(upstream, kind)
        assert made.answer.status == 200

    with raw_service(script) as service:
        play(work, service.url)
        assert service.visits == 1


def test_an_answer_that_is_reset_in_the_middle_of_a_body_without_length() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        await asyncio.sleep(0.05)
        visit.reset()

    async def work(upstream: HttpUpstream) -> None:
        made = await fails(upstream, BrokenAnswer)
        assert made.answer.body == b"half"

    with raw_service(script) as service:
        play(work, service.url)


def test_a_head_that_stops_is_not_asked_for_again() -> None:
    async def work(upstream: HttpUpstream) -> None:
        await fails(upstream, BrokenAnswer)

    with raw_service(says(b"HTTP/1.1 200 OK\r\nContent-")) as service:
        play(work, service.url)
        assert service.visits == 1


# -- answers that are odd, but answers -------------------------------------------------------------------
@pytest.mark.parametrize(
    "said, body",
    [
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"ok", id="100"),
        pytest.param(b"HTTP/1.1 103 Hints\r\nLink: x\r\nContent-Length: 9\r\n\r\n" * 3 + OK, b"ok", id="103"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\nto the end", b"to the end", id="until-close"),
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\nto the end", b"to the end", id="1.0"),
        pytest.param(b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", b"ok", id="no-reason"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;ext=1\r\no\r\n1\r\nk\r\n0\r\nX-Trailer: 1\r\n\r\n",
            b"ok",
            id="extension-and-trailer",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nConnection: x-hop, close\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTrailer: x\r\n"
            b"Content-Length: 2\r\n\r\nok",
            b"ok",
            id="hop-by-hop",
        ),
    ],
)
@pytest.mark.parametrize("dripped", [False, True], ids=["at-once", "dripped"])
def test_an_odd_answer_is_understood(said: bytes, body: bytes, dripped: bool) -> None:
    async def work(upstream: HttpUpstream) -> None:
        answer = await call(upstream)
        assert (answer.status, bytes(answer.body), answer.complete) == (200, body, True)
        assert {name for name, _ in answer.headers} <= {b"content-length"}

    pieces = [said[at : at + 1] for at in range(len(said))] if dripped else [said]
    with raw_service(says(*pieces)) as service:
        play(work, service.url)


@pytest.mark.parametrize("status", [204, 304])
def test_a_length_without_a_body_is_not_passed_on(status: int) -> None:
    async def work(upstream: HttpUpstream) -> None:
        answer = await call(upstream)
        assert (answer.status, answer.header(b"content-length"), answer.complete) == (status, [], True)

    with raw_service(says(b"HTTP/1.1 %d X\r\nContent-Length: 9\r\n\r\n" % status)) as service:
        play(work, service.url)


# -- what must never reach the next request --------------------------------------------------------------
@pytest.mark.parametrize(
    "first, method",
    [
        pytest.param(OK + OK.replace(b"ok", b"no"), "GET", id="two-answers"),
        pytest.param(OK + b"\r\nHTTP/1.1", "GET", id="half-an-answer-more"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", "HEAD", id="body-to-head"),
        pytest.param(b"HTTP/1.1 204 OK\r\nContent-Length: 2\r\n\r\nno", "GET", id="body-to-204"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n", "HEAD", id="chunks"),
        pytest.param(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", "GET", id="close"),
        pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "GET", id="1.0"),
    ],
)
def test_a_connection_with_something_left_is_not_used_again(first: bytes, method: str) -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(first if visit.number == 1 else OK)
        await always(OK)(visit)

    async def work(upstream: HttpUpstream) -> None:
        assert (await call(upstream, method)).complete
        for _ in range(2):
            assert (await call(upstream)).body == b"ok"

    with raw_service(script) as service:
        play(work, service.url)
        assert service.visits == 2


@pytest.mark.parametrize("rested", [0, 0.1])
def test_what_comes_while_a_connection_rests_is_no_answer_to_the_next_request(rested: float) -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(OK)
        if visit.number == 1:
            await asyncio.sleep(0.05)
            await visit.say(OK.replace(b"ok", b"no"))
        await visit.ended()

    async def work(upstream: HttpUpstream) -> None:
        assert (await call(upstream)).body == b"ok"
        await asyncio.sleep(0.1)
        time.sleep(rested)  # noqa: ASYNC251 (the loop sees nothing in the meantime)
        assert (await call(upstream)).body == b"ok"

    with raw_service(script) as service:
        play(work, service.url)
        assert service.visits == 2
