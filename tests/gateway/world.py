"""A running gateway whose identity schema is in a real PostgreSQL that can be unplugged."""

import asyncio
import contextlib
import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psutil
import pytest
from pydantic import SecretStr

from shared import clock
from shared.auth import IdentityVerifier, api_key
from shared.db.migrations import provision
from shared.ids import new_id
from shared.settings import Settings
from shared.testing.server import TestServer, run

SQL = (Path(__file__).parent / "identity.sql").read_text()


class Switchboard:
    """A TCP relay to PostgreSQL that can be unplugged, or go silent while its connections stay open."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.plugged = True
        self.forwarding = threading.Event()
        self.forwarding.set()
        self.writers: set[asyncio.StreamWriter] = set()
        self.relays: set[asyncio.Task[Any]] = set()
        self.port = 0

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay = asyncio.current_task()
        assert relay is not None
        self.relays.add(relay)
        relay.add_done_callback(self.relays.discard)
        if not self.plugged:
            writer.transport.abort()
            return
        upstream_reader, upstream = await asyncio.open_connection(*self.target)
        self.writers |= {writer, upstream}
        await asyncio.gather(self._pump(reader, upstream), self._pump(upstream_reader, writer))
        self.writers -= {writer, upstream}

    async def unplug(self) -> None:
        self.plugged = False
        self.forwarding.set()
        for writer in list(self.writers):
            writer.transport.abort()

    async def run(self, ready: Callable[[], None]) -> None:
        self.server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        self.loop = asyncio.get_running_loop()
        self.stopped = asyncio.Event()
        ready()
        await self.stopped.wait()
        self.server.close()
        await self.unplug()
        await asyncio.gather(*self.relays)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.stopped.set)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                while not (self.forwarding.is_set() or writer.is_closing()):  # noqa: ASYNC110 (set by another thread)
                    await asyncio.sleep(0.01)
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()


class World:
    """A running gateway with an identity schema behind it."""

    def __init__(self, front: Any, dsn: str, settings: Settings, board: Switchboard) -> None:
        self.front = front
        self.dsn = dsn
        self.database = urlsplit(dsn).path[1:]
        self.board = board
        self.settings = settings
        self.verifier = IdentityVerifier(settings.derive_key, "echo", ["gateway"])

    def sql(self, statement: str, *arguments: Any) -> Any:
        async def work() -> Any:
            connection = await asyncpg.connect(self.dsn)
            try:
                return await connection.fetchval(statement, *arguments)
            finally:
                await connection.close()

        return run(work)

    def key(self, *scopes: str, **fields: Any) -> api_key.NewKey:
        made = api_key.generate("live")
        values = {
            "public_id": made.public_id,
            "secret_sha256": made.sha256,
            "organization_id": new_id(),
            "actor_id": f"key-{made.public_id}",
            "scopes": list(scopes),
            **fields,
        }
        slots = ", ".join(f"${number}" for number in range(1, len(values) + 1))
        self.sql(f"INSERT INTO identity.keys ({', '.join(values)}) VALUES ({slots})", *values.values())
        return made

    def session(self, **fields: Any) -> tuple[str, str]:
        token, user = secrets.token_urlsafe(32), str(new_id())
        values = {
            "token_sha256": hashlib.sha256(token.encode()).digest(),
            "organization_id": new_id(),
            "user_id": user,
            "scopes": ["contacts:read"],
            "expires_at": clock.now() + timedelta(hours=1),
            "authenticated_at": clock.now() - timedelta(minutes=5),
            **fields,
        }
        slots = ", ".join(f"${number}" for number in range(1, len(values) + 1))
        self.sql(f"INSERT INTO identity.sessions ({', '.join(values)}) VALUES ({slots})", *values.values())
        return token, user

    def call(self, text: str, path: str = "/v1/private") -> Any:
        return self.front.get(path, f"Authorization: Bearer {text}")

    def asked(self, key: api_key.NewKey) -> int:
        count = self.sql("SELECT count(*) FROM identity.asked WHERE what = $1", f"key:{key.public_id}")
        assert isinstance(count, int)
        return count

    def principal(self) -> Any:
        (header,) = self.front.header("guardian-identity")
        return self.verifier.verify(header.encode(), time.time())

    def listening(self) -> bool:
        return bool(self.front.get("/readyz").json["credentials"] == "listening")

    def revoke(self, key: api_key.NewKey) -> float:
        """Revoke ``key`` as the identity service does; returns the monotonic time right after the commit."""
        return self.change(key, "disabled = true")

    def change(self, key: api_key.NewKey, what: str) -> float:
        """As ``revoke``, for any other change."""
        self.sql(
            f"WITH changed AS (UPDATE identity.keys SET {what} WHERE public_id = $1 RETURNING public_id) "
            "SELECT pg_notify('guardian_credentials', 'key:' || public_id) FROM changed",
            key.public_id,
        )
        return time.monotonic()

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """The gateway's connections stay open, and nothing passes through them."""
        self.board.forwarding.clear()
        try:
            yield
        finally:
            self.board.forwarding.set()

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """The gateway's backends are stopped (``SIGSTOP``); skips where they are not ours to stop."""
        backends = [psutil.Process(pid) for pid in self._backends()]
        stopped = []
        try:
            for backend in backends:
                if self.database not in " ".join(backend.cmdline()):
                    pytest.skip("PostgreSQL does not run on this machine")
                backend.suspend()
                stopped.append(backend)
            yield
        except psutil.Error as error:
            pytest.skip(f"the backends cannot be stopped: {error}")
        finally:
            for backend in stopped:
                with contextlib.suppress(psutil.NoSuchProcess):
                    backend.resume()

    def _backends(self) -> list[int]:
        pids = self.sql(
            "SELECT array_agg(pid) FROM pg_stat_activity WHERE usename = 'svc_gateway' AND datname = $1", self.database
        )
        assert pids, "the gateway is not connected"
        return list(pids)

    def unplug(self) -> None:
        asyncio.run_coroutine_threadsafe(self.board.unplug(), self.board.loop).result(5)

    def plug(self) -> None:
        self.board.forwarding.set()
        self.board.plugged = True


@contextlib.contextmanager
def switchboard(target: tuple[str, int]) -> Iterator[Switchboard]:
    """A plugged switchboard, in a thread of its own until the end of the block."""
    board, ready = Switchboard(target), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(board.run(ready.set)))
    thread.start()
    assert ready.wait(5)
    try:
        yield board
    finally:
        board.stop()
        thread.join(10)


@contextlib.contextmanager
def running_world(postgres: TestServer, start: Callable[..., Any], home: Path) -> Iterator[World]:
    """A world with a database of its own; ``start`` is the fixture that starts a gateway."""
    dsn = postgres.create_database(f"gateway_{new_id().hex}")
    target = urlsplit(dsn)
    direct = Settings(environment="test", home=home, database_url=SecretStr(dsn))
    run(lambda: _prepare(direct, dsn))
    with switchboard((target.hostname or "", target.port or 5432)) as board:
        address = f"{target.netloc.rpartition('@')[0]}@127.0.0.1:{board.port}"
        relayed = SecretStr(urlunsplit(target._replace(netloc=address)))
        settings = direct.model_copy(update={"database_url": relayed})
        with start(settings) as front:
            yield World(front, dsn, settings, board)
    postgres.drop_database(target.path[1:])


async def _prepare(settings: Settings, dsn: str) -> None:
    await provision(settings, ["identity", "gateway"])
    connection = await asyncpg.connect(dsn)
    await connection.execute(SQL)
    await connection.close()
