"""The HTTP upstream in front of a real uvicorn: what passes, what is kept, and what waits for whom."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

from gateway.metrics import GatewayMetrics
from gateway.upstream import GATHERED_BYTES, HttpUpstream
from tests.gateway.upstreams import PIECE, SSE, Call, Service, call, plain, plainly_served, play, served


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Service, str]]:
    service = Service()
    with plainly_served(service) as url:
        yield service, url


@pytest.fixture
def service(server: tuple[Service, str]) -> Service:
    service, _ = server
    service.__init__()  # type: ignore[misc]
    return service


@pytest.fixture
def url(server: tuple[Service, str]) -> str:
    return server[1]


async def pieces(count: int, piece: bytes = PIECE) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield piece


# -- what passes -----------------------------------------------------------------------------------------
def test_the_request_arrives_as_the_gateway_made_it(service: Service, url: str) -> None:
    async def work(upstream: HttpUpstream) -> None:
        headers = [(b"x-a", b"1"), (b"x-a", b"2"), (b"guardian-identity", b"v1.x"), (b"x-latin", b"caf\xe9")]
        dropped = [(b"connection", b"close"), (b"expect", b"100-continue"), (b"te", b"trailers"), (b"upgrade", b"h2c")]
        answer = await call(upstream, "PATCH", b"/echo/a%20b?q=1&r=%2F", [*headers, *dropped], b"hello")
        said = orjson.loads(answer.body)
        assert (said["method"], said["raw_path"], said["query"]) == ("PATCH", "/echo/a%20b", "q=1&r=%2F")
        assert (said["size"], said["body"], said["version"]) == (5, "hello", "1.1")
        assert [tuple(pair) for pair in said["headers"]] == [
            ("host", "api.example"), ("x-a", "1"), ("x-a", "2"), ("guardian-identity", "v1.x"), ("x-latin", "caf\xe9"),
            ("content-length", "5"),
        ]  # fmt: skip
        assert answer.status == 200
        assert answer.header(b"x-two") == [b"1", b"2"]
        assert answer.complete

    play(work, url)


@pytest.mark.parametrize("size", [0, 1, GATHERED_BYTES, GATHERED_BYTES + 1, 300_000])
@pytest.mark.parametrize("has_length", [True, False], ids=["length", "chunked"])
def test_bodies_of_any_size_arrive(service: Service, url: str, size: int, has_length: bool) -> None:
    async def work(upstream: HttpUpstream) -> None:
        body = b"y" * size
        answer = await call(upstream, "POST", b"/echo", (), body if has_length else [body[:7], body[7:]])
        said = orjson.loads(answer.body)
        assert said["size"] == size
        framing = {name: value for name, value in said["headers"] if name in ("content-length", "transfer-encoding")}
        assert framing == ({"content-length": str(size)} if has_length else {"transfer-encoding": "chunked"})

    play(work, url)


def test_answers_without_a_body_leave_the_connection_usable(service: Service, url: str) -> None:
    async def work(upstream: HttpUpstream) -> None:
        head = await call(upstream, "HEAD", b"/echo")
        assert (head.status, bytes(head.body), head.complete) == (200, b"", True)
        assert int(head.header(b"content-length")[0]) > 100
        for status in (204, 304):
            answer = await call(upstream, "GET", b"/status/%d" % status)
            assert (answer.status, bytes(answer.body), answer.complete) == (status, b"", True)
            assert answer.header(b"etag") == [b'"1"']
        assert orjson.loads((await call(upstream)).body)["method"] == "GET"
        assert len(set(service.clients)) == 1

    play(work, url)


def test_what_a_caller_could_smuggle_is_refused(service: Service, url: str) -> None:
    async def work(upstream: HttpUpstream) -> None:
        for headers in ([(b"x", b"a\r\ny: b")], [(b"x\n", b"a")], [(b"x", b"a\rb")]):
            with pytest.raises(ValueError, match="line end"):
                await call(upstream, headers=headers)
        with pytest.raises(ValueError, match="line end"):
            await call(upstream, target=b"/echo HTTP/1.1\r\nx: y")
        with pytest.raises(ValueError, match="two lengths"):
            await call(upstream, "POST", b"/", [(b"transfer-encoding", b"chunked")], b"hello")
        for length in (3, 20_000):
            for body in ([b"z" * (length - 1)], [b"z" * (length + 1)]):
                with pytest.raises(ValueError, match="another length"):
                    await call(upstream, "POST", b"/echo", [(b"content-length", b"%d" % length)], body)

    play(work, url)


def test_a_service_on_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "service.sock"

    async def work(upstream: HttpUpstream) -> None:
        assert orjson.loads((await call(upstream, "POST", b"/", (), b"hello")).body)["size"] == 5
        assert upstream.pool.idle == 1

    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    with served(Service(), plain, listening):
        play(work, f"unix:{path}")


@pytest.mark.parametrize("bad", ["https://a", "http://", "http://a/b", "http://u:p@a", "a:80", "unix:", "http://a?b"])
def test_addresses_that_are_none_are_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="looks like"):
        HttpUpstream(bad)


# -- what is kept ----------------------------------------------------------------------------------------
def test_one_connection_serves_many_requests(service: Service, url: str) -> None:
    async def work(upstream: HttpUpstream) -> None:
        for number in range(30):
            await call(upstream, "POST" if number % 2 else "GET", b"/echo", (), b"abc" if number % 3 else [b"abc"])
        assert len(set(service.clients)) == 1
        assert (upstream.pool.open, upstream.pool.idle) == (1, 1)

    play(work, url)


def test_no_more_connections_than_allowed_and_everyone_in_turn(service: Service, url: str) -> None:
    async def work(upstream: HttpUpstream) -> None:
        order: list[int] = []

        async def one(number: int) -> None:
            await call(upstream, target=b"/slow")
            order.append(number)

        calls = [asyncio.create_task(one(number)) for number in range(12)]
        await asyncio.sleep(0.01)
        assert (upstream.pool.open, upstream.pool.waiting) == (3, 9)
        await asyncio.gather(*calls)
        assert service.most_running == 3
        assert len(set(service.clients)) == 3
        assert [{*order[at : at + 3]} for at in range(0, 12, 3)] == [{at, at + 1, at + 2} for at in range(0, 12, 3)]

    play(work, url, most=3)


def test_the_last_used_connection_is_used_first_and_the_others_end(service: Service, url: str) -> None:
    async def work(upstream: HttpUpstream) -> None:
        await asyncio.gather(*(call(upstream, target=b"/slow") for _ in range(4)))
        assert upstream.pool.idle == 4
        service.clients.clear()
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            await call(upstream)
            await asyncio.sleep(0.01)
        assert len(set(service.clients)) == 1
        assert upstream.pool.open == 1, "the ones that rested were closed"
        await asyncio.sleep(0.4)
        assert upstream.pool.open == 0

    play(work, url, idle_seconds=0.3)


def test_whoever_stops_waiting_leaves_the_queue_intact(service: Service, url: str) -> None:
    async def work(upstream: HttpUpstream) -> None:
        calls = [asyncio.create_task(call(upstream, target=b"/slow")) for _ in range(6)]
        await asyncio.sleep(0.01)
        calls[2].cancel()
        calls[3].cancel()
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(answer, asyncio.CancelledError) for answer in done] == [
            False,
            False,
            True,
            True,
            False,
            False,
        ]

    play(work, url, most=1)


def test_a_turn_that_comes_while_it_is_given_up_goes_to_the_next(service: Service, url: str) -> None:
    async def work(upstream: HttpUpstream) -> None:
        pool = upstream.pool
        for _ in range(2):  # first with a connection in the slot, then with an empty one
            held = await pool.take()
            held.ask(b"GET /echo HTTP/1.1\r\nhost: a\r\n\r\n", bodiless=False, sent=True)
            await held.answer()
            while not held.take()[1]:
                await held.news()
            first, second = asyncio.create_task(pool.take()), asyncio.create_task(pool.take())
            await asyncio.sleep(0)
            pool.give_back(held) if _ == 0 else pool.drop(held)
            first.cancel()
            got = await second
            assert got.is_open
            assert pool.open == 1
            pool.drop(got)

    play(work, url, most=1)


def test_the_pools_figures_are_among_the_gateways(service: Service, url: str) -> None:
    metrics = GatewayMetrics()

    def figure(state: str) -> float | None:
        labels = {"service": "echo", "state": state}
        return metrics.registry.get_sample_value("guardian_gateway_upstream_connections", labels)

    async def work(upstream: HttpUpstream) -> None:
        upstream.watch("echo", metrics)
        calls = [asyncio.create_task(call(upstream, target=b"/slow")) for _ in range(5)]
        await asyncio.sleep(0.01)
        assert [figure(state) for state in ("open", "idle", "waiting")] == [2, 0, 3]
        await asyncio.gather(*calls)
        assert [figure(state) for state in ("open", "idle", "waiting")] == [2, 2, 0]

    play(work, url, most=2)


# -- streams ---------------------------------------------------------------------------------------------
def test_the_first_event_arrives_before_there_is_a_second(service: Service, url: str) -> None:
    class Events(Call):
        async def send(self, message: Any) -> None:
            await super().send(message)
            if self.answer.body == SSE:
                service.go_on.set()

    async def work(upstream: HttpUpstream) -> None:
        events = Events(target=b"/events")
        await upstream(events.scope, events.receive, events.send)
        assert events.answer.body == SSE * 2
        assert events.answer.complete

    play(work, url)


def test_a_hundred_megabytes_each_way_are_not_held(service: Service, url: str) -> None:
    class Counted(Call):
        size = peak = 0

        async def send(self, message: Any) -> None:
            self.size += len(message.get("body", b""))
            self.peak = max(self.peak, process.memory_info().rss)

    process = psutil.Process()

    async def work(upstream: HttpUpstream) -> None:
        service.go_on.set()
        await call(upstream, "POST", b"/up", (), pieces(20))
        before = process.memory_info().rss
        down = Counted("GET", b"/down/1600")
        await upstream(down.scope, down.receive, down.send)
        assert down.size == 1600 * len(PIECE)
        up = Counted("POST", b"/up", (), pieces(1600))
        await upstream(up.scope, up.receive, up.send)
        grown = max(down.peak, up.peak) - before
        assert grown < 16_000_000, f"{grown / 1e6:.1f} MB more, client, upstream and service together"

    play(work, url)
    assert service.taken == 1620 * len(PIECE)


def test_a_slow_client_makes_the_service_wait(service: Service, url: str) -> None:
    class Slow(Call):
        async def send(self, message: Any) -> None:
            if message["type"] == "http.response.body" and not client.is_set():
                sent = -1
                while service.sent != sent:
                    sent = service.sent
                    await asyncio.sleep(0.1)
                client.set()
            await super().send(message)

    client = asyncio.Event()

    async def work(upstream: HttpUpstream) -> None:
        slow = Slow("GET", b"/down/800")
        task = asyncio.create_task(upstream(slow.scope, slow.receive, slow.send))
        await client.wait()
        assert service.sent < 12_000_000, "the rest waits in the service, beyond what sockets hold"
        await task
        assert len(slow.answer.body) == 800 * len(PIECE)

    play(work, url)


def test_a_slow_service_makes_the_client_wait(service: Service, url: str) -> None:
    async def work(upstream: HttpUpstream) -> None:
        upload = Call("POST", b"/up", (), pieces(800))
        task = asyncio.create_task(upstream(upload.scope, upload.receive, upload.send))
        pulled = -1
        while upload.pulled != pulled or not pulled:
            pulled = upload.pulled
            await asyncio.sleep(0.1)
        assert pulled < 12_000_000, "what was not written was not read from the client"
        service.go_on.set()
        await task
        assert service.taken == 800 * len(PIECE)
        assert upstream.pool.idle == 1

    play(work, url)


def test_a_call_after_the_server_restarted_is_not_lost(service: Service) -> None:
    listening = socket.create_server(("127.0.0.1", 0))  # held through the restart, as a supervisor does
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"

    async def work(upstream: HttpUpstream) -> None:
        for _ in range(3):
            with served(Service(), plain, listening.dup()):
                for method in ("GET", "POST"):
                    assert (await call(upstream, method, b"/echo", (), b"abc")).status == 200

    play(work, url)
    listening.close()
