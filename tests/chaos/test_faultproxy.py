"""Each toxic over real sockets, in both directions where it matters; then the HTTP API."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.chaos.faultproxy import Api, Proxy

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def _echo() -> AsyncIterator[tuple[str, int]]:
    """A server that sends back what it gets, and ends when the client does."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()
    finally:
        server.close()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def _proxied(**toxic: Any) -> AsyncIterator[tuple[Proxy, Streams]]:
    async with _echo() as upstream, Proxy("echo", upstream) as proxy:
        if toxic:
            proxy.add(**toxic)
        reader, writer = await _connect(proxy)
        try:
            yield proxy, (reader, writer)
        finally:
            writer.close()


async def _connect(proxy: Proxy) -> Streams:
    return await asyncio.open_connection("127.0.0.1", proxy.port)


async def _ask(streams: Streams, data: bytes) -> tuple[bytes, float]:
    """What comes back, and after how many seconds all of it was there."""
    begun = time.monotonic()
    streams[1].write(data)
    await streams[1].drain()
    return await asyncio.wait_for(streams[0].readexactly(len(data)), 10), time.monotonic() - begun


async def test_without_toxics_everything_passes_both_ways() -> None:
    data = bytes(range(256)) * 4096
    async with _proxied() as (proxy, streams):
        assert (await _ask(streams, data))[0] == data
        assert proxy.connections == 1
        streams[1].write_eof()
        assert await asyncio.wait_for(streams[0].read(), 5) == b""


async def test_latency_delays_without_costing_throughput() -> None:
    async with _proxied(type="latency", attributes={"latency": 200, "jitter": 20}) as (_, streams):
        assert (await _ask(streams, b"ping"))[1] >= 0.17
        begun = time.monotonic()
        for number in range(10):
            streams[1].write(b"%d" % number)
            await asyncio.sleep(0.02)
        assert await asyncio.wait_for(streams[0].readexactly(10), 5) == b"0123456789"
        assert time.monotonic() - begun < 1.5, "ten pieces are late together, not one after the other"


async def test_latency_of_the_upstream_direction_counts_too() -> None:
    async with _proxied(type="latency", stream="upstream", attributes={"latency": 150}) as (proxy, streams):
        assert (await _ask(streams, b"ping"))[1] >= 0.14
        proxy.add(type="latency", attributes={"latency": 150})
        assert (await _ask(streams, b"ping"))[1] >= 0.28
        proxy.reset()
        assert (await _ask(streams, b"ping"))[1] < 0.14


async def test_bandwidth_is_kept() -> None:
    data = b"x" * 60_000
    async with _proxied(type="bandwidth", attributes={"rate": 100}) as (_, streams):
        echoed, seconds = await _ask(streams, data)
    assert echoed == data
    assert 0.5 <= seconds < 3


async def test_slow_close_delays_the_end() -> None:
    async with _proxied(type="slow_close", attributes={"delay": 300}) as (_, streams):
        assert (await _ask(streams, b"ping"))[0] == b"ping"
        begun = time.monotonic()
        streams[1].write_eof()
        assert await asyncio.wait_for(streams[0].read(), 5) == b""
        assert time.monotonic() - begun >= 0.28


async def test_timeout_lets_nothing_pass_until_it_is_removed() -> None:
    async with _proxied(type="timeout") as (proxy, streams):
        streams[1].write(b"lost")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(streams[0].read(1), 0.3)
        proxy.remove("timeout_downstream")
        assert (await _ask(streams, b"ping"))[0] == b"ping"


async def test_timeout_ends_the_connection_when_it_says_so() -> None:
    async with _proxied(type="timeout", attributes={"timeout": 200}) as (_, streams):
        streams[1].write(b"lost")
        begun = time.monotonic()
        assert await asyncio.wait_for(streams[0].read(), 5) == b""
        assert time.monotonic() - begun >= 0.18


async def test_reset_peer_resets() -> None:
    async with _proxied() as (proxy, streams):
        assert (await _ask(streams, b"ping"))[0] == b"ping"
        proxy.add(type="reset_peer", attributes={"timeout": 50})
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(streams[0].read(), 5)


async def test_slicer_cuts_and_keeps_the_order() -> None:
    data = bytes(range(256)) * 8
    attributes = {"average_size": 64, "size_variation": 32, "delay": 100}
    async with _proxied(type="slicer", attributes=attributes) as (_, streams):
        assert (await _ask(streams, data))[0] == data


async def test_limit_data_ends_the_connection_after_so_many_bytes() -> None:
    async with _proxied(type="limit_data", attributes={"bytes": 10}) as (_, streams):
        streams[1].write(b"0123456789abcdef")
        assert await asyncio.wait_for(streams[0].read(), 5) == b"0123456789"


async def test_toxicity_is_the_share_of_connections() -> None:
    async with _echo() as upstream, Proxy("echo", upstream, seed=3) as proxy:
        proxy.add(type="timeout", toxicity=0.5)
        passed = 0
        for _ in range(20):
            streams = await _connect(proxy)
            streams[1].write(b"x")
            try:
                passed += len(await asyncio.wait_for(streams[0].read(1), 0.1))
            except TimeoutError:
                pass
            finally:
                streams[1].close()
    assert 4 <= passed <= 16


async def test_down_resets_and_refuses_and_comes_back_on_the_same_port() -> None:
    async with _proxied() as (proxy, streams):
        assert (await _ask(streams, b"ping"))[0] == b"ping"
        port = proxy.port
        await proxy.disable()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(streams[0].read(), 5)
        with pytest.raises(ConnectionRefusedError):
            await _connect(proxy)
        await proxy.enable()
        assert proxy.port == port
        again = await _connect(proxy)
        assert (await _ask(again, b"ping"))[0] == b"ping"
        again[1].close()


async def test_an_upstream_that_is_away_resets_the_client() -> None:
    async with _echo() as upstream:
        pass
    async with Proxy("gone", upstream) as proxy:
        reader, writer = await _connect(proxy)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 5)
        writer.close()


@asynccontextmanager
async def _api() -> AsyncIterator[httpx.AsyncClient]:
    api = Api()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api.app), base_url="http://toxiproxy") as client:
        yield client
    for proxy in api.proxies.values():
        await proxy.disable()


async def test_the_api_makes_proxies_and_toxics() -> None:
    async with _echo() as (host, port), _api() as api:
        made = await api.post("/proxies", json={"name": "echo", "listen": "127.0.0.1:0", "upstream": f"{host}:{port}"})
        assert made.status_code == 201
        listen = int(made.json()["listen"].rpartition(":")[2])
        toxic = {"type": "latency", "stream": "downstream", "attributes": {"latency": 100, "jitter": 0}}
        added = await api.post("/proxies/echo/toxics", json=toxic)
        assert added.json() == {**toxic, "name": "latency_downstream", "toxicity": 1.0}
        streams = await asyncio.open_connection("127.0.0.1", listen)
        assert (await _ask(streams, b"ping"))[1] >= 0.09
        assert (await api.delete("/proxies/echo/toxics/latency_downstream")).status_code == 204
        assert (await _ask(streams, b"ping"))[1] < 0.09
        assert (await api.get("/proxies")).json()["echo"]["enabled"] is True
        assert (await api.post("/proxies/echo", json={"enabled": False})).json()["enabled"] is False
        assert (await api.post("/reset")).status_code == 204
        assert (await api.get("/proxies/echo")).json()["enabled"] is True
        assert (await api.delete("/proxies/echo")).status_code == 204
        streams[1].close()


async def test_the_api_says_what_is_wrong() -> None:
    async with _api() as api:
        await api.post("/proxies", json={"name": "echo", "upstream": "127.0.0.1:1", "enabled": False})
        assert (await api.post("/proxies", json={"name": "echo", "upstream": "127.0.0.1:1"})).status_code == 409
        for body, said in [
            ({"type": "gremlin"}, "no toxic 'gremlin'"),
            ({"type": "latency", "stream": "sideways"}, "upstream or downstream"),
            ({"type": "latency", "attributes": {"speed": 1}}, "speed"),
            ({"type": "bandwidth"}, "rate above 0"),
        ]:
            answer = await api.post("/proxies/echo/toxics", json=body)
            assert (answer.status_code, said in answer.json()["error"]) == (400, True), answer.text
        await api.post("/proxies/echo/toxics", json={"type": "timeout"})
        assert "already" in (await api.post("/proxies/echo/toxics", json={"type": "timeout"})).json()["error"]
        for path in ("/proxies/none", "/proxies/none/toxics", "/proxies/echo/toxics/none"):
            assert (await api.get(path)).status_code == 404
