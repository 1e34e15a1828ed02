"""Large and slow uploads: what they may hold of the connections to a service, and what is left to others."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import orjson
import pytest

from gateway.problems import UpstreamBusy
from gateway.upstream import GATHERED_BYTES, HttpUpstream
from gateway.upstream_uploads import Uploads
from tests.gateway.upstreams import Answer, Call, Service, call, plainly_served, play

LENGTH = (b"content-length", b"%d" % (GATHERED_BYTES + 1))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with plainly_served(Service()) as url:
        yield url


def upload_of(
    upstream: HttpUpstream, caller: Any, until: asyncio.Event | None, begins: int = GATHERED_BYTES + 1, *headers: Any
) -> asyncio.Task[Answer]:
    """An upload under way that does not end before ``until``."""

    async def body() -> AsyncIterator[bytes]:
        yield b"x" * begins
        if until is not None:
            await until.wait()
        yield b"y"

    async def run() -> Answer:
        made = Call("POST", b"/echo", headers, body())
        made.scope["guardian.caller"] = caller
        await upstream(made.scope, made.receive, made.send)
        return made.answer

    return asyncio.create_task(run())


async def ended(uploads: list[asyncio.Task[Answer]]) -> None:
    for upload in uploads:
        upload.cancel()
    await asyncio.gather(*uploads, return_exceptions=True)


def test_large_uploads_leave_connections_to_others(url: str) -> None:
    async def work(upstream: HttpUpstream) -> None:
        never = asyncio.Event()

        uploads = [upload_of(upstream, caller, never) for caller in range(4)]
        await asyncio.sleep(0.05)
        assert upstream.pool.open == 2
        await call(upstream, "POST", b"/echo", (), b"small")
        await ended(uploads)

    play(work, url, most=4)


def test_who_reads_the_answer_slowly_uploads_no_more(url: str) -> None:
    async def work(upstream: HttpUpstream) -> None:
        read = asyncio.Event()
        made = Call("POST", b"/echo", (), [b"x" * (GATHERED_BYTES + 1), b"y"])
        made.scope["guardian.caller"] = "slow"

        async def send(_message: Any) -> None:
            await read.wait()

        slow = asyncio.create_task(upstream(made.scope, made.receive, send))
        await asyncio.sleep(0.1)
        assert (await upload_of(upstream, "slow", None)).status == 200
        read.set()
        await slow

    play(work, url, most=2)


def test_a_body_that_has_hardly_begun_holds_nothing(url: str) -> None:
    async def work(upstream: HttpUpstream) -> None:
        never = asyncio.Event()
        starts = [
            upload_of(upstream, "one", never, GATHERED_BYTES, *framing) for framing in ([], [LENGTH]) for _ in "ab"
        ]
        await asyncio.sleep(0.05)
        assert upstream.pool.open == 0
        assert orjson.loads((await call(upstream, "POST", b"/echo", (), [b"x"] * 30_000)).body)["size"] == 30_000
        await ended(starts)

    play(work, url, most=2)


def test_one_callers_uploads_leave_slots_to_others(url: str) -> None:
    async def work(upstream: HttpUpstream) -> None:
        never = asyncio.Event()
        held = [upload_of(upstream, "dripping", never) for _ in range(6)]
        await asyncio.sleep(0.05)
        assert upstream.pool.open == 2, "a quarter of the eight slots for uploads"
        began = time.monotonic()
        assert (await asyncio.wait_for(upload_of(upstream, "honest", None), 5)).status == 200
        assert time.monotonic() - began < 0.5
        refused = await asyncio.gather(*held[2:], return_exceptions=True)
        assert time.monotonic() - began < 2.5
        assert [(type(each), each.status, each.code) for each in refused] == [(UpstreamBusy, 503, "upstream_busy")] * 4  # type: ignore[union-attr]
        waiting = upload_of(upstream, "dripping", None)
        await asyncio.sleep(0.05)
        assert not waiting.done()
        never.set()
        assert (await waiting).status == 200, "its turn came"
        assert [(await each).status for each in held[:2]] == [200, 200]
        assert not upstream._uploads._held

    play(work, url, most=16)


def test_an_uploads_turn_that_comes_while_it_is_given_up_goes_to_the_next() -> None:
    async def work() -> None:
        uploads = Uploads(1)

        async def hold() -> None:
            async with uploads.slot("one"):
                await asyncio.sleep(0)

        async with uploads.slot("one"):
            given_up, next_one = asyncio.create_task(hold()), asyncio.create_task(hold())
            await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.wait_for(next_one, 0.5)
        assert given_up.cancelled()
        await asyncio.wait_for(hold(), 0.5)

    asyncio.run(work())
