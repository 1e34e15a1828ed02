"""Services behind sockets: a real server in a thread, and one that says exactly the bytes it is told to."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
import uvicorn
import uvloop

from gateway.server import server_config
from gateway.upstream import HttpUpstream
from shared.settings import Settings

Script = Callable[["Visit"], Awaitable[None]]
PIECE = b"x" * 65_536
SSE = b"data: one\n\n"


@contextlib.contextmanager
def in_thread(main: Callable[[Callable[[], None], asyncio.Event], Awaitable[None]]) -> Iterator[None]:
    """Run ``main(ready, stopped)`` in a loop of its own until the end of the block."""
    ready = threading.Event()
    made: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def run() -> None:
        stopped = asyncio.Event()
        made.append((asyncio.get_running_loop(), stopped))
        await main(ready.set, stopped)

    def work() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run())

    thread = threading.Thread(target=work)
    thread.start()
    assert ready.wait(10)
    try:
        yield
    finally:
        loop, stopped = made[0]
        loop.call_soon_threadsafe(stopped.set)
        thread.join(15)
    assert not thread.is_alive()


@contextlib.contextmanager
def served(app: Any, config: Callable[[Any], uvicorn.Config], listening: socket.socket) -> Iterator[None]:
    """Serve ``app`` on ``listening`` with uvicorn."""

    async def main(ready: Callable[[], None], stopped: asyncio.Event) -> None:
        server = uvicorn.Server(config(app))
        serving = asyncio.create_task(server.serve([listening]))
        while not server.started and not serving.done():  # noqa: ASYNC110 (uvicorn has no event to wait for)
            await asyncio.sleep(0.005)
        ready()
        await stopped.wait()
        server.should_exit = server.force_exit = True
        await serving

    with in_thread(main):
        yield


def plain(app: Any) -> uvicorn.Config:
    """Uvicorn as it is."""
    return uvicorn.Config(app, loop="uvloop", http="httptools", lifespan="off", log_config=None, access_log=False)


@contextlib.contextmanager
def plainly_served(app: Any) -> Iterator[str]:
    """The URL of ``app`` behind a plain uvicorn."""
    listening = socket.create_server(("127.0.0.1", 0))
    with served(app, plain, listening):
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextlib.contextmanager
def proxied(start: Callable[..., Any], settings: Settings, service: Any, **options: Any) -> Iterator[Any]:
    """A gateway that reaches ``service`` over HTTP, behind a server that cancels what nobody waits for."""
    listening = socket.create_server(("127.0.0.1", 0))
    upstream = HttpUpstream(f"http://127.0.0.1:{listening.getsockname()[1]}")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await service(scope, receive, send)

    def config(app: Any) -> uvicorn.Config:
        made = server_config(app, settings)
        made.lifespan = "off"
        return made

    with served(app, config, listening), start(settings, upstreams={"echo": upstream}, **options) as front:
        front.echo = service
        yield front


class Service:
    """An application that does what the path says."""

    def __init__(self) -> None:
        self.clients: list[int] = []
        self.sent = self.taken = 0
        self.running = self.most_running = 0
        self.go_on = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.clients.append(scope["client"][1] if scope["client"] else 0)
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            await getattr(self, scope["path"].split("/")[1] or "echo")(scope, receive, send)
        finally:
            self.running -= 1

    @staticmethod
    async def _start(send: Any, *headers: tuple[bytes, bytes], status: int = 200) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})

    async def echo(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        said = orjson.dumps(
            {
                "method": scope["method"], "raw_path": scope["raw_path"].decode(),
                "query": scope["query_string"].decode(), "version": scope["http_version"],
                "headers": [[name.decode(), value.decode("latin-1")] for name, value in scope["headers"]],
                "size": len(body), "body": body[:100].decode(),
            }
        )  # fmt: skip
        await self._start(send, (b"content-length", b"%d" % len(said)), (b"x-two", b"1"), (b"x-two", b"2"))
        await send({"type": "http.response.body", "body": said})

    async def status(self, scope: Any, receive: Any, send: Any) -> None:
        await self._start(send, (b"etag", b'"1"'), status=int(scope["path"].split("/")[2]))
        await send({"type": "http.response.body", "body": b""})

    async def slow(self, scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.02)
        await self.echo(scope, receive, send)

    async def events(self, scope: Any, receive: Any, send: Any) -> None:
        await self._start(send, (b"content-type", b"text/event-stream"))
        await send({"type": "http.response.body", "body": SSE, "more_body": True})
        while not self.go_on.is_set():  # noqa: ASYNC110 (set by another thread)
            await asyncio.sleep(0.005)
        await send({"type": "http.response.body", "body": SSE})

    async def down(self, scope: Any, receive: Any, send: Any) -> None:
        await self._start(send)
        for _ in range(int(scope["path"].split("/")[2])):
            await send({"type": "http.response.body", "body": PIECE, "more_body": True})
            self.sent += len(PIECE)
        await send({"type": "http.response.body", "body": b""})

    async def up(self, scope: Any, receive: Any, send: Any) -> None:
        await asyncio.to_thread(self.go_on.wait, 10)
        while (message := await receive())["more_body"]:
            self.taken += len(message["body"])
        self.taken += len(message["body"])
        await self._start(send, (b"content-length", b"2"))
        await send({"type": "http.response.body", "body": b"ok"})


# -- raw bytes -------------------------------------------------------------------------------------------
@dataclass
class Visit:
    """One connection to a raw service."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int
    service: "RawService"

    async def head(self) -> bytes:
        """The next request's head; raises ``IncompleteReadError`` at the end of the connection."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        self.service.heads.append(head)
        self.service.asked.set()
        return head

    async def say(self, *pieces: bytes) -> None:
        for piece in pieces:
            self._check_open()
            self.writer.write(piece)
            await self.writer.drain()
            if len(pieces) > 1:
                await asyncio.sleep(0.002)

    async def ended(self) -> None:
        """Wait until the other side has closed."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass
        self.service.ended.set()

    def _check_open(self) -> None:
        if self.writer.is_closing():
            raise ConnectionResetError("the other side has closed")

    def reset(self) -> None:
        """End the connection with a reset."""
        self._check_open()
        peer = self.writer.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@dataclass
class RawService:
    """A server that plays a script on every connection."""

    port: int = 0
    visits: int = 0
    heads: list[bytes] = field(default_factory=list)
    asked: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def raw_service(script: Script, port: int = 0) -> Iterator[RawService]:
    """Play ``script`` on every connection, in a thread, until the end of the block."""
    service = RawService()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        service.visits += 1
        try:
            await script(Visit(reader, writer, service.visits, service))
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # cancelled at the end of the test, where its streams' callback would raise it
        finally:
            writer.close()

    async def main(ready: Callable[[], None], stopped: asyncio.Event) -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", port)
        service.port = server.sockets[0].getsockname()[1]
        ready()
        await stopped.wait()
        server.close()
        await asyncio.sleep(0.01)  # so that connections accepted just now have a task, too
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    with in_thread(main):
        yield service


def says(*pieces: bytes, close: bool = True) -> Script:
    """A script that reads a request's head and answers with ``pieces``, apart from one another."""

    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(*pieces)
        if not close:
            await visit.ended()

    return script


def always(answer: bytes) -> Script:
    """A script that answers every request with ``answer``."""

    async def script(visit: Visit) -> None:
        while True:
            await visit.head()
            await visit.say(answer)

    return script


# -- calls -----------------------------------------------------------------------------------------------
@dataclass
class Answer:
    """What an upstream gave to the gateway."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    complete: bool = False

    def header(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]


class Call:
    """One request to an upstream, as the gateway makes it."""

    def __init__(
        self, method: str = "GET", target: bytes = b"/", headers: Iterable[tuple[bytes, bytes]] = (), body: Any = None
    ) -> None:
        path, _, query = target.partition(b"?")
        made = [(b"host", b"api.example"), *headers]
        if isinstance(body, bytes):
            made.append((b"content-length", b"%d" % len(body)))
        elif body is not None and not any(name == b"content-length" for name, _ in made):
            made.append((b"transfer-encoding", b"chunked"))
        self.scope = {
            "type": "http", "method": method, "raw_path": path, "path": path.decode(), "query_string": query,
            "headers": made,
        }  # fmt: skip
        self.answer = Answer()
        self.pulled = 0
        self._whole = body if isinstance(body, bytes) else None
        self._pieces = _pieces(body)

    async def receive(self) -> dict[str, Any]:
        if self._whole is not None:
            whole, self._whole = self._whole, b""
            return {"type": "http.request", "body": whole, "more_body": False}
        piece = await anext(self._pieces, None)
        self.pulled += len(piece or b"")
        return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.answer.status, self.answer.headers = message["status"], message["headers"]
        else:
            self.answer.body += message["body"]
            self.answer.complete = not message["more_body"]


async def _pieces(body: Any) -> AsyncIterator[bytes]:
    if hasattr(body, "__aiter__"):
        async for piece in body:
            yield piece
    else:
        for piece in body or ():
            yield piece


async def call(upstream: HttpUpstream, *args: Any, **fields: Any) -> Answer:
    """``call(upstream, method, target, headers, body)``; bytes have a length, other bodies are chunked."""
    made = Call(*args, **fields)
    await upstream(made.scope, made.receive, made.send)
    return made.answer


def play(work: Callable[[HttpUpstream], Awaitable[None]], url: str, **options: Any) -> None:
    """Run ``work(upstream)`` in a loop like the gateway's, and see that no slot is lost."""

    async def main() -> None:
        upstream = HttpUpstream(url, **options)
        async with asyncio.timeout(15), upstream.lifespan():
            await work(upstream)
            assert upstream.pool.open == upstream.pool.idle, "a slot is held by nobody"
            assert upstream.pool.waiting == 0
        assert upstream.pool.open == 0

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
