import asyncio
import gc
import importlib.util
from dataclasses import replace
from typing import Any

import pytest

from gateway import server
from gateway.app import create_gateway
from gateway.routing import Route


def test_the_server_is_pinned_to_its_parts(offline_settings: Any) -> None:
    config = server.server_config(lambda: None, offline_settings)
    assert config.loop == "uvloop"
    assert not config.proxy_headers
    assert not config.server_header
    assert config.timeout_graceful_shutdown
    assert config.limit_concurrency


@pytest.mark.parametrize("missing", ["uvloop", "httptools"])
def test_it_refuses_to_start_without_them(monkeypatch: Any, offline_settings: Any, missing: str) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else found(name))
    with pytest.raises(RuntimeError, match=missing):
        server.server_config(lambda: None, offline_settings)


def test_it_refuses_another_event_loop(offline_settings: Any) -> None:
    async def attempt() -> None:
        gateway = create_gateway(offline_settings, {}, [])
        await server.GatewayServer(gateway, offline_settings).serve()

    with pytest.raises(RuntimeError, match="must run on uvloop"):
        asyncio.run(attempt())


def test_limits_come_from_settings(offline_settings: Any) -> None:
    settings = offline_settings.model_copy(
        update={"header_timeout_seconds": 1.5, "connections_per_address": 7, "trusted_proxies": ["10.0.0.0/8"]}
    )
    limits = server.connection_limits(settings)
    assert (limits.header_seconds, limits.per_address) == (1.5, 7)
    assert str(limits.uncounted[0]) == "10.0.0.0/8"


def test_a_request_is_no_garbage_that_holds_itself(start: Any, offline_settings: Any, limits: Any, read: Any) -> None:
    with start(offline_settings, replace(limits, idle_seconds=60)) as front:  # collecting takes long in a large process
        client = front.connect()

        def ask() -> None:
            client.sendall(b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
            assert read(client).status == 200

        def garbage() -> int:
            gc.collect()
            for _ in range(50):
                ask()
            front.echo.seen.clear()
            return gc.collect()

        ask()
        gc.disable()
        try:
            assert min(garbage() for _ in range(5)) < 50  # other threads leave some now and then
        finally:
            gc.enable()


def test_stopping_finishes_what_is_under_way(
    start: Any, offline_settings: Any, limits: Any, read: Any, eventually: Any
) -> None:
    with start(offline_settings, replace(limits, body_seconds=10)) as front:
        client = front.connect()
        client.sendall(b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel")
        eventually(lambda: front.gateway._pipeline.in_flight == 1)
        front.server.should_exit = True
        eventually(lambda: front.gateway._parts.probes.draining)
        client.sendall(b"lo")
        reply = read(client)
        assert (reply.json["size"], reply.closed) == (5, True)


def test_a_gateway_that_cannot_start_says_so(offline_settings: Any) -> None:
    from contextlib import asynccontextmanager

    from shared.http.hosting import Hosted

    class Broken:
        class router:  # noqa: N801 (Starlette's name)
            @staticmethod
            @asynccontextmanager
            async def lifespan_context(_app: Any) -> Any:
                if _app is not None:
                    raise RuntimeError("its migrations are missing")
                yield {}

    async def attempt() -> list[dict[str, Any]]:
        gateway = create_gateway(offline_settings, {"broken": Hosted(Broken())}, [Route("/v1/broken", "broken")])
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "lifespan.startup"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await gateway({"type": "lifespan"}, receive, send)
        return sent

    (message,) = asyncio.run(attempt())
    assert message == {"type": "lifespan.startup.failed", "message": "its migrations are missing"}


def test_websockets_are_refused(offline_settings: Any) -> None:
    async def attempt() -> list[Any]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await create_gateway(offline_settings, {}, [])({"type": "websocket"}, None, send)
        return sent

    assert asyncio.run(attempt())[0]["type"] == "websocket.close"
