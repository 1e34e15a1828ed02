"""A gateway on a real port in a thread of its own, and a client that speaks bytes."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import uvloop
from pydantic import SecretStr

from gateway.app import Gateway, create_gateway
from gateway.connections import ConnectionLimits
from gateway.routing import Route
from gateway.server import GatewayServer
from shared.settings import Settings
from shared.testing.server import TestServer
from tests.gateway.world import World, running_world

NOWHERE = "postgresql://postgres:x@127.0.0.1:1/none"
LIMITS = ConnectionLimits(
    header_seconds=0.4, body_seconds=0.4, body_rate=10_000, idle_seconds=0.4, write_seconds=1.0, linger_seconds=0.4,
    half_closed_seconds=0.15,
)  # fmt: skip
PUBLIC = frozenset(
    (method, path)
    for method in ("GET", "POST", "PUT")
    for path in ("/v1/echo", "/v1/echo/{anything}", "/v1/echo/{anything}/{more}")
)


class Echo:
    """A service that answers what it was given; ``?do=`` makes it misbehave. It verifies nothing."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.cancelled = threading.Event()
        self.entered = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append(scope)
        self.entered.set()
        action = scope["query_string"].removeprefix(b"do=").decode()
        try:
            await getattr(self, f"do_{action or 'echo'}")(scope, receive, send)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def do_echo(self, scope: Any, receive: Any, send: Any) -> None:
        size = 0
        while True:
            message = await receive()
            size += len(message.get("body", b""))
            if not message.get("more_body", False):
                break
        body = orjson.dumps(
            {
                "path": scope["path"],
                "client": scope["client"][0],
                "scheme": scope["scheme"],
                "size": size,
                "headers": [[name.decode(), value.decode("latin-1")] for name, value in scope["headers"]],
            }
        )
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def do_hang(self, scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    async def do_raise(self, scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("secret detail of the service")

    async def do_refuse(self, scope: Any, receive: Any, send: Any) -> None:
        raise ConnectionRefusedError("secret address of the service")

    async def do_nothing(self, scope: Any, receive: Any, send: Any) -> None:
        """Return without an answer."""

    async def do_abort(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        raise ValueError("in the middle")

    async def do_cut(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})

    async def do_mirror(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        more = True
        while more:
            message = await receive()
            more = message.get("more_body", False)
            await send({"type": "http.response.body", "body": message.get("body", b""), "more_body": more})

    async def do_headers(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [
            (b"content-type", b"text/html"),
            (b"server", b"secret/1.0"),
            (b"connection", b"keep-alive"),
            (b"guardian-identity", b"v1.leak"),
            (b"x-request-id", b"another"),
            (b"cache-control", b"max-age=60"),
            (b"content-length", b"0"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async def do_limits(self, scope: Any, receive: Any, send: Any, status: int = 200) -> None:
        headers = [
            (b"ratelimit", b'"theirs";r=1;t=2'),
            (b"ratelimit-policy", b'"theirs";q=1;w=2'),
            (b"x-ratelimit-remaining", b"1"),
            (b"retry-after", b"2"),
            (b"content-length", b"0"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async def do_metered(self, scope: Any, receive: Any, send: Any) -> None:
        await self.do_limits(scope, receive, send, 429)

    async def do_early(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 422, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"no"})


@dataclass
class Reply:
    """One HTTP/1.1 answer, as far as it came."""

    status: int
    headers: dict[str, str]
    body: bytes
    closed: bool
    complete: bool = True

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def code(self) -> str:
        assert self.headers["content-type"] == "application/problem+json"
        code = self.json["code"]
        assert isinstance(code, str)
        return code


@dataclass
class Live:
    """A running gateway."""

    gateway: Gateway
    echo: Echo
    port: int
    loop: asyncio.AbstractEventLoop
    server: GatewayServer
    sockets: list[socket.socket] = field(default_factory=list)

    def connect(self) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port), timeout=5)
        self.sockets.append(client)
        return client

    def send(self, data: bytes) -> Reply:
        """Send bytes on a new connection and read one answer and what becomes of the connection."""
        client = self.connect()
        with contextlib.suppress(ConnectionError):
            client.sendall(data)
        return read_reply(client)

    def get(self, path: str = "/v1/echo", *headers: str, method: str = "GET", body: bytes = b"") -> Reply:
        return self.send(request(path, *headers, method=method, body=body))

    @property
    def last(self) -> dict[str, Any]:
        return self.echo.seen[-1]

    def header(self, name: str) -> list[str]:
        """What the service saw under ``name`` in the last request."""
        return [value.decode() for key, value in self.last["headers"] if key == name.encode()]

    def call(self, work: Callable[[], Any]) -> Any:
        """Run a coroutine function in the gateway's loop."""
        return asyncio.run_coroutine_threadsafe(work(), self.loop).result(10)


def request(path: str = "/v1/echo", *headers: str, method: str = "GET", body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: api.example", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def read_reply(client: socket.socket, *, until_closed: bool = False) -> Reply:
    """Read one answer; ``closed`` tells whether the server closed right behind it."""
    data, closed = b"", False
    while b"\r\n\r\n" not in data and not closed:
        data, closed = _more(client, data)
    head, _, rest = data.partition(b"\r\n\r\n")
    if not head:
        return Reply(0, {}, b"", closed=True, complete=False)
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    length = int(headers.get("content-length", "-1"))
    chunked = headers.get("transfer-encoding") == "chunked"
    while not closed and (len(rest) < length or (chunked and not rest.endswith(b"0\r\n\r\n")) or until_closed):
        rest, closed = _more(client, rest)
    complete = rest.endswith(b"0\r\n\r\n") if chunked else len(rest) >= length
    if headers.get("connection") == "close" and not closed:
        _, closed = _more(client, b"")
    return Reply(int(lines[0].split()[1]), headers, rest, closed, complete)


def _more(client: socket.socket, data: bytes) -> tuple[bytes, bool]:
    try:
        piece = client.recv(65536)
    except ConnectionError:
        return data, True
    return data + piece, not piece


@contextlib.contextmanager
def live(settings: Settings, limits: ConnectionLimits = LIMITS, **options: Any) -> Iterator[Live]:
    """Run a gateway in front of an ``Echo`` until the end of the block; without limits, unless they are asked for."""
    echo = Echo()
    upstreams = options.pop("upstreams", {"echo": echo})
    options.setdefault("limited", False)
    routes = options.pop("routes", None) or [
        Route("/v1/echo", "echo", public=PUBLIC),
        Route("/v1/private", "echo"),
    ]
    listening = socket.create_server(("127.0.0.1", 0))
    started = threading.Event()
    made: list[Live] = []

    async def main() -> None:
        gateway = create_gateway(settings, upstreams, routes, **options)
        server = GatewayServer(gateway, settings, limits=limits)
        made.append(Live(gateway, echo, listening.getsockname()[1], asyncio.get_running_loop(), server))
        serving = asyncio.create_task(server.serve([listening]))
        while not server.started and not serving.done():  # noqa: ASYNC110 (uvicorn has no event to wait for)
            await asyncio.sleep(0.005)
        started.set()
        await serving

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(main())
        finally:
            started.set()

    thread = threading.Thread(target=run)
    thread.start()
    started.wait(15)
    try:
        yield made[0]
    finally:
        for client in made[0].sockets:
            client.close()
        made[0].server.should_exit = True
        thread.join(15)
    assert not thread.is_alive()


@pytest.fixture(scope="session")
def offline_settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings whose database cannot be reached: what is public must work without it."""
    return Settings(
        environment="test",
        home=tmp_path_factory.mktemp("gateway-home"),
        database_url=SecretStr(NOWHERE),
        max_body_bytes=50_000,
        request_timeout_seconds=0.5,
    )


@pytest.fixture(scope="module")
def front(offline_settings: Settings) -> Iterator[Live]:
    """A gateway with short deadlines, for a module's tests; its operations are public."""
    with live(offline_settings) as running:
        yield running


@pytest.fixture(scope="session")
def start() -> Callable[..., contextlib.AbstractContextManager[Live]]:
    """Start a gateway of one's own: ``with start(settings, limits, **create_gateway options) as front:``."""
    return live


@pytest.fixture(scope="session")
def limits() -> ConnectionLimits:
    return replace(LIMITS)


@pytest.fixture(scope="session")
def raw() -> Callable[..., bytes]:
    """Make a request's bytes."""
    return request


@pytest.fixture(scope="session")
def read() -> Callable[..., Reply]:
    """Read one answer from a socket."""
    return read_reply


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Wait for a condition, at most ten seconds."""

    def wait(condition: Callable[[], bool], what: str = "the condition") -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come about"
            time.sleep(0.01)

    return wait


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def module_world(
    postgres_server: TestServer,
    start: Callable[..., contextlib.AbstractContextManager[Live]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    with running_world(postgres_server, start, tmp_path_factory.mktemp("world")) as running:
        yield running


@pytest.fixture
def world(module_world: World, eventually: Callable[..., None]) -> World:
    """The module's gateway with a database, plugged in and listening at the start of every test."""
    module_world.plug()
    eventually(module_world.listening, "listening")
    return module_world
