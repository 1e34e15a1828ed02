"""Nothing is answered before it is kept: a commit that fails is an error the caller sees."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import pytest_asyncio
from pydantic import SecretStr

from services.crm.app import create_app
from shared.auth import Principal
from shared.settings import Settings
from shared.testing.client import SignedAs
from shared.testing.server import TestServer
from tests.services.crm.support import problem

BODY = {"first_name": "Ada"}


@pytest_asyncio.fixture
async def doomed(
    fresh_database: str, caller: Principal, tmp_path: Path
) -> AsyncIterator[tuple[httpx.AsyncClient, Any]]:
    """The CRM on a database of its own, and the administrator's connection to it."""
    settings = Settings(environment="test", home=tmp_path, database_url=SecretStr(fresh_database), log_level="WARNING")
    app = create_app(settings)
    admin = await asyncpg.connect(fresh_database)
    transport = httpx.ASGITransport(app=app)
    auth = SignedAs(settings, "crm", caller)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://crm", auth=auth) as client,
    ):
        yield client, admin
    await admin.close()


async def fail_at_commit(admin: Any, code: str) -> None:
    await admin.execute(
        f"""CREATE FUNCTION crm.fail() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'at commit' USING ERRCODE = '{code}'; END $$;
        CREATE CONSTRAINT TRIGGER fail AFTER INSERT ON crm.outbox DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION crm.fail()"""
    )


@pytest.mark.parametrize(("code", "status", "name"), [("40001", 503, "busy"), ("P0001", 500, "internal_error")])
@pytest.mark.parametrize("headers", [{}, {"idempotency-key": "key-1"}], ids=["plain", "keyed"])
async def test_a_failing_commit_is_not_answered_as_done(
    doomed: tuple[httpx.AsyncClient, Any], code: str, status: int, name: str, headers: dict[str, str]
) -> None:
    client, admin = doomed
    await fail_at_commit(admin, code)
    answer = await client.post("/v1/contacts", json=BODY, headers=headers)
    assert "at commit" not in answer.text
    problem(answer, status, name)
    assert ("retry-after" in answer.headers) is (status == 503)
    for table in ("contacts", "outbox", "idempotency_keys"):
        assert await admin.fetchval(f"SELECT count(*) FROM crm.{table}") == 0
    await admin.execute("DROP TRIGGER fail ON crm.outbox")
    assert (await client.post("/v1/contacts", json=BODY, headers=headers)).status_code == 201
    assert await admin.fetchval("SELECT count(*) FROM crm.contacts") == 1


async def test_a_database_that_goes_away_is_a_503_and_comes_back(
    doomed: tuple[httpx.AsyncClient, Any], postgres_server: TestServer
) -> None:
    client, admin = doomed
    assert (await client.post("/v1/contacts", json=BODY)).status_code == 201
    name = await admin.fetchval("SELECT current_database()")
    postgres_server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    await admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE usename = 'svc_crm' AND datname = current_database()"
    )
    for _ in range(2):
        answer = await client.get("/v1/contacts")
        problem(answer, 503, "service_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
    assert (await client.get("/readyz")).status_code == 503
    assert (await client.get("/livez")).status_code == 200
    postgres_server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    assert len((await client.get("/v1/contacts")).json()["data"]) == 1
    assert (await client.get("/readyz")).status_code == 200


@pytest.mark.parametrize("moment", ["in the handler", "at the end"])
async def test_a_connection_that_ends_is_no_fault_of_ours_whatever_it_is_called(
    doomed: tuple[httpx.AsyncClient, Any], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Uvloop refuses to write to a closed socket before asyncpg has heard that it is closed."""
    client, _ = doomed
    execute = asyncpg.Connection.execute

    async def closed(self: Any, query: str, *arguments: Any, **options: Any) -> str:
        if ("INSERT" in query) is (moment == "in the handler") and not query.startswith("BEGIN"):
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")
        return await execute(self, query, *arguments, **options)

    monkeypatch.setattr(asyncpg.Connection, "execute", closed)
    problem(await client.post("/v1/contacts", json=BODY), 503, "service_unavailable")
    monkeypatch.undo()
    assert (await client.post("/v1/contacts", json=BODY)).status_code == 201
