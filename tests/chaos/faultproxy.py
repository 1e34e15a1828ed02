"""A TCP proxy with Toxiproxy's faults, in this process or behind its HTTP API (``python -m tests.chaos.faultproxy``).

    async with Proxy("kafka", upstream=("127.0.0.1", 9092)) as proxy:
        toxic = proxy.add(type="latency", attributes={"latency": 500})
        ...
        proxy.remove(toxic.name)

A toxic that is added or removed works on the connections that are open as on new ones. ``down`` is
``disable()``: nothing listens, and what was open is reset.
"""

import argparse
import asyncio
import contextlib
import random
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.chaos.toxics import Stream, Toxic, Toxics

_PIECE = 64 * 1024
_WAITING = 64
"""Pieces under way in one direction: enough for latency without a loss of throughput, few enough to push back."""
_RESET = struct.pack("ii", 1, 0)


class _Link:
    """One direction of one connection: reads into a queue, and sends from it what the toxics leave."""

    def __init__(
        self, connection: "_Connection", stream: Stream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.stream = stream
        self.sent = 0
        self.dice = connection.dice
        self._connection = connection
        self._reader = reader
        self._writer = writer
        self._queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_WAITING)

    def end(self, *, reset: bool = False) -> None:
        self._connection.end(reset=reset)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read())
            group.create_task(self._send())

    async def _read(self) -> None:
        while True:
            data = await self._reader.read(_PIECE)
            await self._queue.put((time.monotonic(), data))
            if not data:
                return

    async def _send(self) -> None:
        while True:
            read_at, data = await self._queue.get()
            if not data:
                break
            async for piece in self._through(self._connection.toxics(self.stream), data, read_at):
                self._writer.write(piece)
                await self._writer.drain()
                self.sent += len(piece)
        for toxic in self._connection.toxics(self.stream):
            ending = asyncio.create_task(toxic.ending(self))
            self._connection.guard(toxic, ending)
            await asyncio.wait({ending})
        if self._writer.can_write_eof():
            self._writer.write_eof()

    async def _through(self, toxics: list[Toxic], data: bytes, read_at: float) -> AsyncIterator[bytes]:
        if not toxics:
            yield data
            return
        async for piece in toxics[0].apply(data, time.monotonic() - read_at, self):
            async for rest in self._through(toxics[1:], piece, read_at):
                yield rest


class _Connection:
    """A client's connection and ours to the upstream."""

    def __init__(self, proxy: "Proxy", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.dice = random.Random(proxy.dice.random())
        self._proxy = proxy
        self._client = (reader, writer)
        self._writers = [writer]
        self._links: list[_Link] = []
        self._in: dict[str, bool] = {}
        self._beside: dict[str, list[asyncio.Task[None]]] = {}
        self._task: asyncio.Task[None] | None = None

    def toxics(self, stream: Stream) -> list[Toxic]:
        return [each for each in self._proxy.toxics.by_name.values() if each.stream == stream and self._takes(each)]

    def _takes(self, toxic: Toxic) -> bool:
        if toxic.name not in self._in:
            self._in[toxic.name] = self.dice.random() < toxic.toxicity
        return self._in[toxic.name]

    async def run(self) -> None:
        self._task = asyncio.current_task()
        try:
            reader, writer = await asyncio.open_connection(*self._proxy.upstream)
            self._writers.append(writer)
            self._links = [
                _Link(self, "upstream", self._client[0], writer), _Link(self, "downstream", reader, self._client[1]),
            ]  # fmt: skip
            for toxic in self._proxy.toxics.by_name.values():
                self.take(toxic)
            async with asyncio.TaskGroup() as group:
                for link in self._links:
                    group.create_task(link.run())
        except* (OSError, RuntimeError, asyncio.CancelledError):  # RuntimeError: uvloop, writing to a closed transport
            self.end(reset=True)  # a side that went is gone for the other one too
        finally:
            for name in list(self._beside):
                self.drop(name)
            for each in self._writers:
                each.close()

    def take(self, toxic: Toxic) -> None:
        """A toxic begins to work here."""
        for link in self._links:
            if link.stream == toxic.stream and self._takes(toxic):
                self.guard(toxic, asyncio.create_task(toxic.began(link)))

    def guard(self, toxic: Toxic, task: "asyncio.Task[None]") -> None:
        """End ``task`` when the toxic is removed."""
        self._beside.setdefault(toxic.name, []).append(task)

    def drop(self, name: str) -> None:
        """A toxic was removed."""
        self._in.pop(name, None)
        for task in self._beside.pop(name, []):
            task.cancel()

    def end(self, *, reset: bool = False) -> None:
        for writer in self._writers:
            made = writer.get_extra_info("socket")
            if reset and made is not None:
                with contextlib.suppress(OSError, ValueError):  # uvloop's socket of a closed transport has no number
                    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort() if reset else writer.close()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()


class Proxy:
    """Passes connections on to ``upstream``; ``port`` is known once it is started and stays when it is disabled."""

    def __init__(self, name: str, upstream: tuple[str, int], *, port: int = 0, seed: int = 0) -> None:
        self.name = name
        self.upstream = upstream
        self.port = port
        self.toxics = Toxics()
        self.dice = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._connections: dict[_Connection, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        await self.enable()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.disable()

    @property
    def enabled(self) -> bool:
        return self._server is not None

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    async def enable(self) -> None:
        """Listen (again)."""
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def disable(self) -> None:
        """Toxiproxy's ``down``: nothing listens, and what is open is reset."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            tasks = list(self._connections.values())
            for connection in list(self._connections):
                connection.end(reset=True)
            await asyncio.gather(*tasks, return_exceptions=True)

    def add(self, **values: Any) -> Toxic:
        """Add a toxic: ``type``, ``stream``, ``toxicity``, ``attributes``, ``name``; raises ``ValueError``."""
        toxic = self.toxics.make(values)
        for connection in list(self._connections):
            connection.take(toxic)
        return toxic

    def remove(self, name: str) -> bool:
        """Remove a toxic; False when there is none."""
        toxic = self.toxics.by_name.pop(name, None)
        for connection in list(self._connections):
            connection.drop(name)
        return toxic is not None

    def reset(self) -> None:
        """Remove every toxic."""
        for name in list(self.toxics.by_name):
            self.remove(name)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self, reader, writer)
        task = asyncio.current_task()
        assert task is not None
        self._connections[connection] = task
        try:
            await connection.run()
        finally:
            del self._connections[connection]


def describe(proxy: Proxy) -> dict[str, Any]:
    """A proxy as the API shows it."""
    return {
        "name": proxy.name,
        "listen": f"127.0.0.1:{proxy.port}",
        "upstream": f"{proxy.upstream[0]}:{proxy.upstream[1]}",
        "enabled": proxy.enabled,
        "toxics": [describe_toxic(each) for each in proxy.toxics.by_name.values()],
    }


def describe_toxic(toxic: Toxic) -> dict[str, Any]:
    """A toxic as the API shows it."""
    return {
        "name": toxic.name, "type": toxic.kind, "stream": toxic.stream, "toxicity": toxic.toxicity,
        "attributes": toxic.attributes(),
    }  # fmt: skip


class Api:
    """Toxiproxy's HTTP API over the proxies of this process, as far as its clients commonly use it."""

    def __init__(self, *proxies: Proxy) -> None:
        self.proxies = {proxy.name: proxy for proxy in proxies}
        routes = [
            Route("/proxies", self._list, methods=["GET"]),
            Route("/proxies", self._create, methods=["POST"]),
            Route("/reset", self._reset, methods=["POST"]),
            Route("/proxies/{proxy}", self._one, methods=["GET", "POST", "DELETE"]),
            Route("/proxies/{proxy}/toxics", self._toxics, methods=["GET", "POST"]),
            Route("/proxies/{proxy}/toxics/{toxic}", self._toxic, methods=["GET", "DELETE"]),
        ]
        self.app = Starlette(routes=routes, lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        yield
        for proxy in self.proxies.values():
            await proxy.disable()

    async def _list(self, _request: Request) -> Response:
        return JSONResponse({name: describe(proxy) for name, proxy in self.proxies.items()})

    async def _create(self, request: Request) -> Response:
        values = await request.json()
        host, _, port = str(values["upstream"]).rpartition(":")
        listen = str(values.get("listen", "")).rpartition(":")[2]
        if values["name"] in self.proxies:
            return _error(f"there is a proxy {values['name']!r} already", 409)
        proxy = self.proxies[values["name"]] = Proxy(values["name"], (host, int(port)), port=int(listen or 0))
        if values.get("enabled", True):
            await proxy.enable()
        return JSONResponse(describe(proxy), 201)

    async def _reset(self, _request: Request) -> Response:
        for proxy in self.proxies.values():
            proxy.reset()
            await proxy.enable()
        return Response(status_code=204)

    async def _one(self, request: Request) -> Response:
        proxy = self.proxies.get(request.path_params["proxy"])
        if proxy is None:
            return _error("there is no such proxy", 404)
        if request.method == "DELETE":
            await self.proxies.pop(proxy.name).disable()
            return Response(status_code=204)
        if request.method == "POST":
            await (proxy.enable() if (await request.json()).get("enabled", True) else proxy.disable())
        return JSONResponse(describe(proxy))

    async def _toxics(self, request: Request) -> Response:
        proxy = self.proxies.get(request.path_params["proxy"])
        if proxy is None:
            return _error("there is no such proxy", 404)
        if request.method == "GET":
            return JSONResponse([describe_toxic(each) for each in proxy.toxics.by_name.values()])
        try:
            return JSONResponse(describe_toxic(proxy.add(**await request.json())))
        except ValueError as error:
            return _error(str(error), 400)

    async def _toxic(self, request: Request) -> Response:
        proxy = self.proxies.get(request.path_params["proxy"])
        toxic = proxy.toxics.by_name.get(request.path_params["toxic"]) if proxy else None
        if proxy is None or toxic is None:
            return _error("there is no such toxic", 404)
        if request.method == "DELETE":
            proxy.remove(toxic.name)
            return Response(status_code=204)
        return JSONResponse(describe_toxic(toxic))


def _error(text: str, status: int) -> Response:
    return JSONResponse({"error": text, "status": status}, status)


def main() -> None:
    """Serve the API; proxies are made through it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8474, help="port of the API (default: Toxiproxy's)")
    uvicorn.run(Api().app, host="127.0.0.1", port=parser.parse_args().port, log_level="warning")


if __name__ == "__main__":
    main()
