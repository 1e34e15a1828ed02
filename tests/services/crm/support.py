"""What the CRM's tests share: its scopes, the four kinds of record, and a look into the outbox."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import orjson

RESOURCES = ("contacts", "companies", "deals", "activities", "pipelines", "custom_fields")
SCOPES = tuple(f"{resource}:{verb}" for resource in RESOURCES for verb in ("read", "write"))
NOWHERE = "01900000-0000-7000-8000-000000000000"


@dataclass(frozen=True)
class Kind:
    """One kind of record: where it lives, a body to make one, a change of it, and its events' first word."""

    plural: str
    name: str
    body: dict[str, Any]
    change: dict[str, Any]
    required: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return f"/v1/{self.plural}"


KINDS = [
    Kind("contacts", "contact", {"first_name": "Ada", "email": "ada@example.com"}, {"phone": "+44 20 7946 0000"}),
    Kind("companies", "company", {"name": "Engines"}, {"industry": "Computing"}),
    Kind("deals", "deal", {"name": "First engine", "amount_minor": 1_700_000}, {"amount_minor": 5}),
    Kind("activities", "activity", {"kind": "call", "subject": "First call"}, {"body": "They will think about it."}),
]


@dataclass(frozen=True)
class Published:
    """An event as it stands in the outbox."""

    type: str
    subject: str
    sequence: int
    data: dict[str, Any]
    envelope: dict[str, Any]


Events = Callable[[], Awaitable[list[Published]]]


async def outbox(dsn: str, organization_id: UUID) -> list[Published]:
    """The organisation's events in the order they were published, pipelines left out (the default one comes by itself)."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            "SELECT envelope::text AS envelope FROM crm.outbox WHERE organization_id = $1 ORDER BY seq", organization_id
        )
    finally:
        await connection.close()
    envelopes = [orjson.loads(row["envelope"]) for row in rows]
    return [Published(each["type"], each["subject"], int(each["sequence"]), each["data"], each) for each in envelopes]


def problem(answer: httpx.Response, status: int, code: str, *fields: str) -> dict[str, Any]:
    """Assert that ``answer`` is this problem about exactly these fields (none given: any); its body."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert (body["status"], body["code"]) == (status, code), body
    assert body["request_id"]
    if fields:
        assert sorted(each["field"] for each in body.get("errors", [])) == sorted(fields), body
    return body


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
    """Wait for ``condition``; raises ``TimeoutError``."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 (what is waited for happens in the database)
            await asyncio.sleep(0.01)


async def blocked(admin: Any) -> bool:
    """Whether a statement of the CRM waits for a lock in the database of ``admin``."""
    waiting: bool = await admin.fetchval(
        "SELECT exists(SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT l.granted"
        " AND a.usename = 'svc_crm' AND a.datname = current_database())"
    )
    return waiting


async def made(client: httpx.AsyncClient, path: str, **body: Any) -> dict[str, Any]:
    """The resource a POST of ``body`` makes."""
    answer = await client.post(path, json=body)
    assert answer.status_code == 201, answer.text
    result: dict[str, Any] = answer.json()
    return result
