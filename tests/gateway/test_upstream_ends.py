"""The HTTP upstream when a service is away, a connection ends, or the request is given up."""

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gateway.problems import UpstreamUnavailable
from gateway.retries import MOST, SHARE
from gateway.upstream import GATHERED_BYTES, HttpUpstream
from gateway.upstream_connection import NoAnswer
from tests.gateway.upstreams import Call, Visit, always, call, play, raw_service, says

KEYED = [(b"idempotency-key", b"k-1")]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def fails(upstream: HttpUpstream, kind: type[Exception], *args: Any) -> Call:
    """Make a call that must fail with ``kind``; it is an ``OSError``, so that the gateway answers 502."""
    made = Call(*args)
    with pytest.raises(kind) as caught:
        await upstream(made.scope, made.receive, made.send)
    assert isinstance(caught.value, OSError)
    assert not made.answer.complete
    return made


# -- connections that end --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "method, body, headers, visits",
    [
        ("GET", None, (), 2), ("HEAD", None, (), 2), ("DELETE", None, (), 2), ("OPTIONS", None, (), 2),
        ("PUT", None, (), 2), ("PUT", b"hello", (), 2), ("PUT", [b"hello"], (), 2), ("POST", None, (), 1),
        ("PATCH", b"hello", (), 1), ("POST", b"hello", KEYED, 2), ("PATCH", b"hello", KEYED, 1),
        ("PUT", [b"x" * (GATHERED_BYTES + 1), b"y"], (), 1), ("POST", [b"x" * (GATHERED_BYTES + 1), b"y"], KEYED, 1),
    ],
)  # fmt: skip
def test_an_end_without_an_answer_is_tried_once_more_where_that_is_safe(
    method: str, body: Any, headers: Any, visits: int
) -> None:
    async def script(visit: Visit) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            await visit.head()

    async def work(upstream: HttpUpstream) -> None:
        await fails(upstream, NoAnswer, method, b"/", headers, body)

    with raw_service(script) as service:
        play(work, service.url)
        assert service.visits == visits


def test_of_many_failures_only_some_are_tried_again() -> None:
    async def script(visit: Visit) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            await visit.head()

    async def work(upstream: HttpUpstream) -> None:
        for _ in range(60):
            await fails(upstream, NoAnswer, "GET", b"/")
        assert MOST <= upstream.retries.spent <= MOST + 60 * SHARE

    with raw_service(script) as service:
        play(work, service.url)


def test_the_second_try_is_answered() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        if visit.number == 1:
            await visit.say(OK)
            await visit.head()
            visit.reset()
        else:
            await visit.say(OK)
            await always(OK)(visit)

    async def work(upstream: HttpUpstream) -> None:
        for _ in range(3):
            assert (await call(upstream)).body == b"ok"

    with raw_service(script) as service:
        play(work, service.url, most=1)
        assert service.visits == 2
        assert len(service.heads) == 4


@pytest.mark.parametrize("seen", [True, False], ids=["seen", "not-yet-seen-by-the-loop"])
def test_a_connection_the_service_closed_while_it_rested_is_not_used(seen: bool) -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(OK)
        await asyncio.sleep(0.03)  # like a server whose patience is shorter than ours

    async def work(upstream: HttpUpstream) -> None:
        for _ in range(3):
            assert (await call(upstream, "POST", b"/", (), b"hello")).body == b"ok"
            if seen:
                await asyncio.sleep(0.1)
                assert upstream.pool.open == 0
            else:
                time.sleep(0.1)  # noqa: ASYNC251

    with raw_service(script) as service:
        play(work, service.url)
        assert service.visits == 3


# -- services that are not there -------------------------------------------------------------------------
def test_a_service_that_does_not_listen_is_unavailable(tmp_path: Any) -> None:
    free = socket.create_server(("127.0.0.1", 0))
    port = free.getsockname()[1]
    free.close()

    async def work(upstream: HttpUpstream) -> None:
        for _ in range(5):
            with pytest.raises(UpstreamUnavailable) as caught:
                await call(upstream, "POST", b"/", (), b"hello")
            assert (caught.value.status, caught.value.code) == (503, "upstream_unavailable")
            assert int(caught.value.headers["Retry-After"]) > 0
            assert str(port) not in (caught.value.detail or "")

    play(work, f"http://127.0.0.1:{port}", most=2)
    play(work, f"unix:{tmp_path}/none.sock", most=2)
    play(work, "http://no-such-host.invalid", most=2)


def test_a_service_that_does_not_accept_is_unavailable_after_a_second() -> None:
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    waiting = [socket.socket() for _ in range(4)]
    for one in waiting:
        one.setblocking(False)
        one.connect_ex(full.getsockname())

    async def work(upstream: HttpUpstream) -> None:
        began = time.monotonic()
        calls = [call(upstream) for _ in range(3)]
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(answer) for answer in done] == [UpstreamUnavailable] * 3
        assert 0.9 < time.monotonic() - began < 2.5

    play(work, f"http://127.0.0.1:{full.getsockname()[1]}", most=2)
    for one in (*waiting, full):
        one.close()


def test_no_slot_is_lost_whatever_happens() -> None:
    dice = random.Random(7)

    async def script(visit: Visit) -> None:
        while True:
            await visit.head()
            await asyncio.sleep(dice.random() * 0.01)
            fate = dice.randrange(5)
            if fate == 0:
                visit.reset()
            elif fate == 1:
                await visit.say(OK[: dice.randrange(len(OK))])
            else:
                await visit.say(OK)
            if fate < 3:
                return

    async def one(upstream: HttpUpstream) -> bool:
        with contextlib.suppress(OSError):  # TimeoutError is one
            async with asyncio.timeout(dice.random() * 0.1):
                await asyncio.sleep(dice.random() * 0.05)
                method, body = dice.choice([("GET", None), ("POST", b"hello"), ("PUT", [b"x" * 20_000] * 3)])
                answer = await call(upstream, method, b"/", (), body)
                assert answer.body == b"ok"
                return True
        return False

    async def work(upstream: HttpUpstream) -> None:
        for _ in range(8):
            await asyncio.gather(*(one(upstream) for _ in range(60)))
            assert upstream.pool.open <= 6
        while not await one(upstream):
            pass

    with raw_service(script) as service:
        play(work, service.url, most=6)


# -- requests that end early -----------------------------------------------------------------------------
def test_a_call_that_is_given_up_closes_its_connection_at_once(eventually: Callable[..., None]) -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.ended()

    async def work(upstream: HttpUpstream) -> None:
        async def forever() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 65_536
                await asyncio.sleep(0.01)

        for body in (None, b"hello", forever()):
            service.ended.clear()
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await call(upstream, "POST" if body else "GET", b"/", (), body)
            assert await asyncio.to_thread(service.ended.wait, 2)
            assert time.monotonic() - began < 0.5
            assert upstream.pool.open == 0

    with raw_service(script) as service:
        play(work, service.url)


@pytest.mark.parametrize("rudely", [False, True], ids=["politely", "with-a-reset"])
@pytest.mark.parametrize("has_length", [True, False], ids=["length", "chunked"])
def test_an_answer_before_the_end_of_the_body_is_passed_on_and_the_rest_not_sent(
    rudely: bool, has_length: bool
) -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno")
        if not rudely:
            await visit.ended()

    async def work(upstream: HttpUpstream) -> None:
        for _ in range(5):
            made = Call("POST", b"/", [(b"content-length", b"100000000")] if has_length else (), _megabytes(100))
            await upstream(made.scope, made.receive, made.send)
            assert (made.answer.status, bytes(made.answer.body), made.answer.complete) == (413, b"no", True)
            assert made.pulled < 20_000_000
            assert upstream.pool.open == 0

    with raw_service(script) as service:
        play(work, service.url)
        assert service.visits == 5


async def _megabytes(count: int) -> AsyncIterator[bytes]:
    for _ in range(count * 10):
        yield b"x" * 100_000
        await asyncio.sleep(0)


def test_a_client_that_leaves_in_the_middle_of_its_body_ends_the_request() -> None:
    class Left(Call):
        async def receive(self) -> dict[str, Any]:
            message = await super().receive()
            return {"type": "http.disconnect"} if self.pulled > 40_000 else message

    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.ended()

    async def work(upstream: HttpUpstream) -> None:
        made = Left("POST", b"/", (), [b"x" * 30_000] * 3)
        with pytest.raises(ConnectionAbortedError, match="client has left"):
            await upstream(made.scope, made.receive, made.send)
        assert await asyncio.to_thread(service.ended.wait, 2)

    with raw_service(script) as service:
        play(work, service.url)


def test_a_client_that_cannot_be_sent_to_ends_the_request() -> None:
    class Gone(Call):
        async def send(self, message: Any) -> None:
            raise RuntimeError("cannot send")

    async def work(upstream: HttpUpstream) -> None:
        gone = Gone()
        with pytest.raises(RuntimeError, match="cannot send"):
            await upstream(gone.scope, gone.receive, gone.send)
        assert await asyncio.to_thread(service.ended.wait, 2)

    with raw_service(says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nstart", close=False)) as service:
        play(work, service.url)


def test_who_reads_its_answer_slowly_and_leaves_breaks_nobody_elses_call() -> None:
    """The connection is given back before the last piece was passed on; by then it may be another's."""
    full = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000)
        await visit.head()
        await asyncio.sleep(0.1)
        await visit.say(OK)

    class Slow(Call):
        async def send(self, message: Any) -> None:
            if message["type"] == "http.response.body" and not message["more_body"]:
                full.set()
                await asyncio.sleep(30)

    async def work(upstream: HttpUpstream) -> None:
        reader, other = Slow(), Call("POST", body=b"")
        reading = asyncio.create_task(upstream(reader.scope, reader.receive, reader.send))
        await full.wait()
        asking = asyncio.create_task(upstream(other.scope, other.receive, other.send))
        await asyncio.sleep(0.02)  # the connection is the other's by now
        reading.cancel()
        await asking
        assert other.answer.status == 200

    with raw_service(script) as service:
        play(work, service.url, most=1)
