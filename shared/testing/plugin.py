"""Fixtures every test may ask for. Session-wide ones share one event loop (``asyncio_default_*_loop_scope``)."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from pydantic import SecretStr

import shared
from shared.auth import Principal
from shared.clock import FixedClock, use_clock
from shared.db import Database
from shared.ids import new_id
from shared.migrate import migrate_all
from shared.settings import Settings
from shared.testing.server import RUN_VARIABLE, TestServer, fingerprint, joined_run, new_run

DatabaseFactory = Callable[[str], Awaitable[Database]]
PrincipalFactory = Callable[..., Principal]
ROLES = ("gateway",)
"""Roles without a schema of their own."""

_SERVER = pytest.StashKey[TestServer]()


def pytest_configure(config: pytest.Config) -> None:
    """Name the run's server (nothing starts yet) and forget the developer's own settings."""
    if hasattr(config, "workerinput"):
        config.stash[_SERVER] = joined_run()
        return
    for name in [n for n in os.environ if n.startswith("GUARDIAN_") or n == "DATABASE_URL"]:
        del os.environ[name]
    config.stash[_SERVER] = new_run()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the server, if any test asked for it."""
    server = config.stash.get(_SERVER, None)
    if server is not None and not hasattr(config, "workerinput"):
        server.stop()
        os.environ.pop(RUN_VARIABLE, None)


@pytest.fixture(scope="session")
def services(request: pytest.FixtureRequest) -> list[str]:
    """Every service that has a schema, by name."""
    folders = request.config.rootpath.glob("services/*/migrations")
    return sorted(folder.parent.name for folder in folders if folder.is_dir())


@pytest.fixture(scope="session")
def postgres_server(request: pytest.FixtureRequest) -> TestServer:
    """The run's PostgreSQL, for tests that need databases of their own."""
    return request.config.stash[_SERVER]


@pytest.fixture(scope="session")
def template(
    request: pytest.FixtureRequest,
    postgres_server: TestServer,
    services: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    """Name of the database with every migration applied; made once per run."""
    folders = [request.config.rootpath / "services" / name / "migrations" for name in services]
    name = f"template_{fingerprint([*folders, Path(shared.__path__[0])])}"

    async def build(dsn: str) -> None:
        await migrate_all(_settings(dsn, tmp_path_factory.mktemp("migrate")), services, roles=ROLES)

    postgres_server.ensure_template(name, build)
    return name


@pytest.fixture(scope="session")
def postgres(postgres_server: TestServer, template: str) -> Iterator[str]:
    """Administrator's DSN of this worker's database, migrated."""
    name = f"tests_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
    yield postgres_server.create_database(name, template=template)
    postgres_server.drop_database(name)


@pytest.fixture
def empty_database(postgres_server: TestServer) -> Iterator[str]:
    """Administrator's DSN of a database with nothing in it, for this test alone."""
    name = f"empty_{new_id().hex}"
    yield postgres_server.create_database(name)
    postgres_server.drop_database(name)


@pytest.fixture
def fresh_database(postgres_server: TestServer, template: str) -> Iterator[str]:
    """Administrator's DSN of a migrated database for this test alone (some 30 ms)."""
    name = f"fresh_{new_id().hex}"
    yield postgres_server.create_database(name, template=template)
    postgres_server.drop_database(name)


@pytest.fixture(scope="session")
def settings(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of the environment ``test`` on this worker's database, with a home of their own."""
    return _settings(postgres, tmp_path_factory.mktemp("home"))


def _settings(dsn: str, home: Path) -> Settings:
    return Settings(environment="test", home=home, database_url=SecretStr(dsn), log_level="WARNING")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def database(settings: Settings) -> AsyncIterator[DatabaseFactory]:
    """``await database("crm")``: that service's open ``Database``, closed after the run."""
    opened: dict[str, Database] = {}

    async def open_database(service: str) -> Database:
        if service not in opened:
            opened[service] = Database.for_service(settings, service)
            await opened[service].open()
        return opened[service]

    yield open_database
    for each in opened.values():
        await each.close()


@pytest.fixture
def organization_id() -> UUID:
    """An organisation nobody else has: tests commit freely and never see each other's rows."""
    return new_id()


@pytest.fixture
def principal(organization_id: UUID) -> PrincipalFactory:
    """``principal("contacts:read", actor_type="user")``: a caller of this test's organisation."""

    def make(*scopes: str, **fields: Any) -> Principal:
        values: dict[str, Any] = {
            "organization_id": organization_id,
            "actor_type": "user",
            "actor_id": str(new_id()),
            "auth_method": "session",
            "request_id": f"test-{new_id()}",
        }
        return Principal(scopes=frozenset(scopes), **(values | fields))

    return make


@pytest.fixture
def frozen_clock() -> Iterator[FixedClock]:
    """The clock stands at 2026-01-15 12:00 UTC for this test; move it with ``advance``."""
    clock = FixedClock(datetime(2026, 1, 15, 12, tzinfo=UTC))
    with use_clock(clock):
        yield clock
