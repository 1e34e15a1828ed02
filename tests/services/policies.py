"""Policies of an organisation, stored as if its administrator had made them."""

from typing import Any
from uuid import UUID

import asyncpg

from shared.ids import new_id


async def store_policy(dsn: str, organization_id: UUID, **fields: Any) -> UUID:
    """One more policy, in force before the organisation's first call; its id."""
    values: dict[str, Any] = {
        "organization_id": organization_id, "id": new_id(), "name": f"p{new_id().hex[-8:]}", "quota": 10,
        "window": "hour", "version": 1,
    } | fields  # fmt: skip
    names = ", ".join(f'"{name}"' for name in values)
    places = ", ".join(f"${number}" for number in range(1, len(values) + 1))
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(
            f"INSERT INTO ratelimit.policies ({names}, created_at, updated_at) VALUES ({places}, now(), now())",
            *values.values(),
        )
    finally:
        await connection.close()
    made: UUID = values["id"]
    return made


async def usage_of(dsn: str, organization_id: UUID) -> list[Any]:
    """What was written of the organisation's usage."""
    connection = await asyncpg.connect(dsn)
    try:
        rows: list[Any] = await connection.fetch(
            "SELECT * FROM ratelimit.usage_minutes WHERE organization_id = $1 ORDER BY minute, route", organization_id
        )
    finally:
        await connection.close()
    return rows
