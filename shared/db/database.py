"""A service's connections: an asyncpg pool in the service's own role, and the unit of work on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit, urlunsplit
from uuid import UUID

import asyncpg
import orjson

from shared.db.session import Session
from shared.errors import Problem, ServiceUnavailable
from shared.settings import Settings

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]

POOL_WAIT_SECONDS = 2.0
CONNECT_SECONDS = 3.0

UNAVAILABLE = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.DiskFullError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the server went while asyncpg was in the middle of something
)
"""What a missing, full or restarting database raises; the edge answers 503 with ``Retry-After``.

One that is a ``ValueError`` as well (an ``InterfaceError``: a value that asyncpg cannot send) tells of no outage.
"""

AWAY = (*UNAVAILABLE, asyncpg.PostgresError, RuntimeError)
"""For whoever only looks whether the database answers: whatever it says, it does not. A ``RuntimeError`` is uvloop's,
which refuses to write to a closed socket before asyncpg has heard that it is closed."""


class _Connection(asyncpg.Connection):
    """A pooled connection without asyncpg's reset query: every transaction sets its own context, with
    ``set_config(..., true)``, and nothing here sets session state (saves one round trip a request).
    """

    def get_reset_query(self) -> str:
        return ""


async def _prepare(connection: Connection) -> None:
    for name in ("jsonb", "json"):
        await connection.set_type_codec(
            name, encoder=_dump_json, decoder=orjson.loads, schema="pg_catalog", format="text"
        )


def _dump_json(value: Any) -> str:
    return orjson.dumps(value).decode()


def role_of(service: str) -> str:
    """The database role of a service."""
    return f"svc_{service}"


def service_dsn(settings: Settings, service: str) -> str:
    """The admin DSN with the user and password replaced by those of the service's role."""
    return role_dsn(settings, role_of(service))


def role_dsn(settings: Settings, role: str) -> str:
    """The admin DSN with the user and password replaced by those of a role of ours."""
    if settings.database_url is None:
        raise RuntimeError("DATABASE_URL is not set; 'guardian up' sets it to the embedded PostgreSQL")
    parts = urlsplit(settings.database_url.get_secret_value())
    address = parts.netloc.rpartition("@")[2]
    credentials = f"{quote(role)}:{quote(settings.service_password(role))}"
    return urlunsplit(parts._replace(netloc=f"{credentials}@{address}"))


class Database:
    """One service's database within this process. The API and the worker share it (and its pool)."""

    _shared: dict[tuple[str, str], Database] = {}  # noqa: RUF012 (the registry of this process)

    def __init__(self, settings: Settings, service: str) -> None:
        self.service = service
        self.dsn = service_dsn(settings, service)
        self.settings = settings
        self._pool: Pool | None = None
        self._users = 0
        self._lock = asyncio.Lock()

    @classmethod
    def for_service(cls, settings: Settings, service: str) -> Database:
        """The database of ``service``; the same object for the same address in this process."""
        key = (service_dsn(settings, service), service)
        if key not in cls._shared:
            cls._shared[key] = cls(settings, service)
        return cls._shared[key]

    @property
    def pool(self) -> Pool:
        """The open pool; raises ``ServiceUnavailable`` before ``open`` or after ``close``."""
        if self._pool is None:
            raise ServiceUnavailable("The database connections are not open.")
        return self._pool

    async def open(self) -> None:
        """Open the pool, or count one more user of it. Works while the database is away."""
        async with self._lock:
            self._users += 1
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    self.dsn,
                    min_size=0,
                    max_size=self.settings.database_pool_size,
                    max_inactive_connection_lifetime=1800,
                    connection_class=_Connection,
                    init=_prepare,
                    timeout=CONNECT_SECONDS,
                    command_timeout=self.settings.database_statement_timeout_ms / 1000 + 1,
                    server_settings=self._server_settings(),
                )

    async def close(self) -> None:
        """Give the pool up; the last user closes it."""
        async with self._lock:
            self._users -= 1
            if self._users <= 0 and self._pool is not None:
                pool, self._pool, self._users = self._pool, None, 0
                self._shared.pop((self.dsn, self.service), None)
                try:
                    await asyncio.wait_for(pool.close(), timeout=2)
                except TimeoutError:
                    pool.terminate()

    async def connect(self) -> Connection:
        """A connection of its own outside the pool, for LISTEN; the caller closes it."""
        connection: Connection = await asyncpg.connect(
            self.dsn, timeout=CONNECT_SECONDS, server_settings=self._server_settings()
        )
        await _prepare(connection)
        return connection

    @asynccontextmanager
    async def transaction(self, organization_id: UUID | None = None) -> AsyncIterator[Session]:
        """A unit of work: commits at the end of the block, rolls back when the block raises.

        The organisation is set in the statement that opens the transaction; without one, row-level
        security finds no rows. Raises ``ServiceUnavailable`` when the database cannot be reached.
        """
        connection = await self._acquire()
        try:
            session = Session(connection, organization_id, self.service)
            try:
                await _start(connection, organization_id)
                yield session
                await session.run_before_commit()
                await _commit(connection)
            except BaseException as error:
                lost = _is_lost(connection, error)
                await asyncio.shield(_roll_back(connection))
                if lost and isinstance(error, Exception) and not isinstance(error, (Problem, *UNAVAILABLE)):
                    raise ConnectionResetError("the database ended the connection") from error
                raise
        finally:
            await self._release(connection)
        session.run_after_commit()

    async def _acquire(self) -> Connection:
        try:
            return await self.pool.acquire(timeout=POOL_WAIT_SECONDS)  # type: ignore[return-value]
        except AWAY as error:
            # Nothing was asked yet: whatever a server says to a new connection, it does not let us in.
            raise ServiceUnavailable("The database cannot be reached right now; try again shortly.") from error

    async def _release(self, connection: Connection) -> None:
        if self._pool is not None:
            await self._pool.release(connection)  # type: ignore[arg-type]

    def _server_settings(self) -> dict[str, str]:
        return {
            "application_name": f"guardian-{self.service}",
            "search_path": self.service,
            "statement_timeout": str(self.settings.database_statement_timeout_ms),
            "lock_timeout": "2000",
            "idle_in_transaction_session_timeout": "10000",
            "jit": "off",
        }


async def _start(connection: Connection, organization_id: UUID | None) -> None:
    try:
        await connection.execute(_begin(organization_id))
    except asyncpg.InternalClientError as error:
        # The server ended this connection a moment ago: asyncpg has read so, but has not seen the end yet.
        connection.terminate()
        raise ServiceUnavailable("The database cannot be reached right now; try again shortly.") from error


def _is_lost(connection: Connection, error: BaseException) -> bool:
    """Whether the connection ended under whoever used it, whatever error that became."""
    return connection.is_closed() or (isinstance(error, RuntimeError) and "handler is closed" in str(error))


async def _roll_back(connection: Connection) -> None:
    if connection.is_closed() or not connection.is_in_transaction():
        return
    try:
        await connection.execute("ROLLBACK")
    except Exception:
        connection.terminate()  # whatever state it is in, nobody shall use it again; the server rolls back


async def _commit(connection: Connection) -> None:
    # PostgreSQL answers COMMIT of an aborted transaction with the tag ROLLBACK and no error: code that
    # swallowed a database error would otherwise be told that its work was kept.
    if await connection.execute("COMMIT") != "COMMIT":
        raise asyncpg.InFailedSQLTransactionError("the transaction had failed and was rolled back")


def _begin(organization_id: UUID | None) -> str:
    if organization_id is None:
        return "BEGIN"
    # A UUID renders as hex digits and dashes only, so it is safe inside the literal; the simple query
    # protocol (the only one that takes two statements at once) has no parameters.
    return f"BEGIN; SELECT set_config('app.organization_id', '{UUID(int=organization_id.int)}', true)"
