"""What the tests of limits share: scopes, bodies, and a look into the outbox and the tables."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import orjson

SCOPES = ("limits:read", "limits:write", "usage:read")
NOWHERE = "01900000-0000-7000-8000-000000000000"
POLICIES = "/v1/limits/policies"
BODY: dict[str, Any] = {"name": "imports", "quota": 600, "window": "minute", "per": ["key"]}


@dataclass(frozen=True)
class Published:
    """An event as it stands in the outbox."""

    type: str
    subject: str
    sequence: int
    data: dict[str, Any]
    envelope: dict[str, Any]


async def outbox(dsn: str, organization_id: UUID) -> list[Published]:
    """The organisation's events in the order they were published."""
    rows = await rows_of(
        dsn,
        "SELECT envelope::text AS envelope FROM ratelimit.outbox WHERE organization_id = $1 ORDER BY seq",
        organization_id,
    )
    envelopes = [orjson.loads(row["envelope"]) for row in rows]
    return [Published(each["type"], each["subject"], int(each["sequence"]), each["data"], each) for each in envelopes]


async def rows_of(dsn: str, statement: str, *arguments: Any) -> list[dict[str, Any]]:
    """What a statement of the administrator answers."""
    connection = await asyncpg.connect(dsn)
    try:
        return [dict(row) for row in await connection.fetch(statement, *arguments)]
    finally:
        await connection.close()


def problem(answer: httpx.Response, status: int, code: str, *fields: str) -> dict[str, Any]:
    """Assert that ``answer`` is this problem about exactly these fields (none given: any); its body."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert (body["status"], body["code"]) == (status, code), body
    if fields:
        assert sorted(each["field"] for each in body.get("errors", [])) == sorted(fields), body
    return body


async def made(client: httpx.AsyncClient, path: str = POLICIES, **body: Any) -> dict[str, Any]:
    """The resource a POST of ``body`` makes."""
    answer = await client.post(path, json=body)
    assert answer.status_code == 201, answer.text
    result: dict[str, Any] = answer.json()
    return result


async def count(
    dsn: str, organization_id: UUID, policy: dict[str, Any], subject: str, used: int, **columns: Any
) -> None:
    """Put a counter of a policy's present window into the database."""
    values = {"admitted": 0, "epoch": policy["epoch"], "moment": "clock_timestamp()"} | columns
    await rows_of(
        dsn,
        "INSERT INTO ratelimit.api_rate_limits (organization_id, policy_id, epoch, subject, window_start, window_end,"
        " used, admitted, quota, highest_quota) SELECT $1, $2, $3, $4, w.starts, w.ends, $5, $6, $7, $7"
        f" FROM ratelimit.window_of($8, $9, {values['moment']}) w",
        organization_id,
        UUID(policy["id"]),
        values["epoch"],
        subject,
        used,
        values["admitted"],
        policy["quota"],
        policy["window"],
        policy["timezone"],
    )
