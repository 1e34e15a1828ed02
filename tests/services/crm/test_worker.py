"""The CRM's background half over a database of its own: events reach the bus, old answers go."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest_asyncio
from pydantic import SecretStr

from services.crm.app import create_app, worker
from shared import clock
from shared.auth import Principal
from shared.http import idempotency
from shared.settings import Settings
from shared.testing.client import SignedAs
from tests.services.crm.support import until


@pytest_asyncio.fixture
async def running(
    fresh_database: str, caller: Principal, tmp_path: Path
) -> AsyncIterator[tuple[httpx.AsyncClient, Any]]:
    """The CRM's API and worker, and the administrator's connection to their database."""
    settings = Settings(environment="test", home=tmp_path, database_url=SecretStr(fresh_database), log_level="WARNING")
    admin = await asyncpg.connect(fresh_database)
    old = clock.now() - idempotency.KEPT - timedelta(minutes=1)
    await admin.execute(
        "INSERT INTO crm.idempotency_keys VALUES ($1, 'old', '', '', $2), ($1, 'new', '', '', $2 + interval '2 minutes')",
        caller.organization_id, old,
    )  # fmt: skip
    app, background = create_app(settings), worker(settings)
    transport, auth = httpx.ASGITransport(app=app), SignedAs(settings, "crm", caller)
    async with app.router.lifespan_context(app):
        await background.start()
        async with httpx.AsyncClient(transport=transport, base_url="http://crm", auth=auth) as client:
            yield client, admin
        await background.stop()
    await admin.close()


async def test_events_reach_the_bus_in_order(running: tuple[httpx.AsyncClient, Any]) -> None:
    client, admin = running
    contact = (await client.post("/v1/contacts", json={"first_name": "Ada"})).json()
    await client.patch(f"/v1/contacts/{contact['id']}", json={"phone": "1"})

    async def arrived() -> bool:
        return bool(await admin.fetchval("SELECT count(*) = 2 FROM bus.log"))

    await until(arrived)
    rows = await admin.fetch("SELECT topic, type, key FROM bus.log ORDER BY position")
    assert [tuple(row) for row in rows] == [
        (
            "guardian.crm.events",
            type_,
            f"{await admin.fetchval('SELECT organization_id FROM crm.contacts')}/{contact['id']}",
        )
        for type_ in ("contact.created", "contact.updated")
    ]
    assert await admin.fetchval("SELECT count(*) FROM crm.outbox") == 0


async def test_answers_older_than_a_day_go(running: tuple[httpx.AsyncClient, Any]) -> None:
    _, admin = running

    async def gone() -> bool:
        return bool(await admin.fetchval("SELECT count(*) = 1 FROM crm.idempotency_keys"))

    await until(gone)
    assert await admin.fetchval("SELECT scope FROM crm.idempotency_keys") == b"new"
