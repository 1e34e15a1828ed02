"""Storage of overrides."""

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import Select, bindparam, delete, func, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert

from services.ratelimit.models import overrides
from services.ratelimit.overrides.schemas import LimitOverride
from services.ratelimit.policies.domain import Exemption
from shared.db import Record, Session, columns

_SHOWN = tuple(LimitOverride.model_fields)
_COLUMNS = columns(overrides, _SHOWN)
_OF_POLICY = (
    overrides.c.organization_id == bindparam("organization_id"),
    overrides.c.policy_id == bindparam("policy_id"),
)
_ONE = overrides.c.id == bindparam("override_id")
_GET = select(*_COLUMNS).where(*_OF_POLICY, _ONE)
_ACTIVE = select(overrides.c.pattern, overrides.c.quota, overrides.c.expires_at).where(
    *_OF_POLICY, or_(overrides.c.expires_at.is_(None), overrides.c.expires_at > func.clock_timestamp())
)
_SAME = select(overrides.c.id).where(*_OF_POLICY, overrides.c.pattern == bindparam("pattern"))
_COUNT = select(func.count()).select_from(overrides).where(*_OF_POLICY)
_INSERT = insert(overrides).values({name: bindparam(name) for name in ("organization_id", *_SHOWN)})
_DELETE = delete(overrides).where(*_OF_POLICY, _ONE)


async def get(session: Session, organization_id: UUID, policy_id: UUID, override_id: UUID) -> Record | None:
    """An override of a policy."""
    return await session.fetch_one(_GET, organization_id=organization_id, policy_id=policy_id, override_id=override_id)


async def active(session: Session, organization_id: UUID, policy_id: UUID) -> list[Exemption]:
    """The overrides of a policy that have not expired."""
    rows = await session.fetch(_ACTIVE, organization_id=organization_id, policy_id=policy_id)
    return [Exemption(row["pattern"], row["quota"], row["expires_at"]) for row in rows]


async def having(session: Session, organization_id: UUID, policy_id: UUID, pattern: str) -> UUID | None:
    """The override of a policy that has this pattern."""
    found: UUID | None = await session.fetch_value(
        _SAME, organization_id=organization_id, policy_id=policy_id, pattern=pattern
    )
    return found


async def count(session: Session, organization_id: UUID, policy_id: UUID) -> int:
    """How many overrides a policy has, expired ones among them."""
    found: int = await session.fetch_value(_COUNT, organization_id=organization_id, policy_id=policy_id)
    return found


async def add(session: Session, row: Mapping[str, Any]) -> None:
    """Store an override."""
    await session.execute(_INSERT, **row)


async def change(
    session: Session, organization_id: UUID, policy_id: UUID, override_id: UUID, changed: Mapping[str, Any]
) -> None:
    """Change an override and count its version up."""
    keys = {"organization_id": organization_id, "policy_id": policy_id, "override_id": override_id}
    await session.execute(_update(frozenset(changed)), **keys, **changed)


@lru_cache(maxsize=32)
def _update(names: frozenset[str]) -> Any:
    values: dict[str, Any] = {name: bindparam(name) for name in sorted(names)}
    return update(overrides).where(*_OF_POLICY, _ONE).values(values | {"version": overrides.c.version + 1})


async def remove(session: Session, organization_id: UUID, policy_id: UUID, override_id: UUID) -> None:
    """Delete an override."""
    await session.execute(_DELETE, organization_id=organization_id, policy_id=policy_id, override_id=override_id)


async def page(
    session: Session, organization_id: UUID, policy_id: UUID, after: tuple[datetime, UUID] | None, limit: int
) -> list[Record]:
    """Overrides of a policy in the order they were made."""
    params: dict[str, Any] = {"organization_id": organization_id, "policy_id": policy_id, "limit": limit}
    if after is not None:
        params["after_at"], params["after_id"] = after
    return await session.fetch(_page(after is not None), **params)


@lru_cache(maxsize=2)
def _page(after: bool) -> Select[Any]:
    at, identifier = overrides.c.created_at, overrides.c.id
    statement = select(*_COLUMNS).where(*_OF_POLICY)
    if after:
        cursor = tuple_(bindparam("after_at", type_=at.type), bindparam("after_id", type_=identifier.type))
        statement = statement.where(tuple_(at, identifier) > cursor)
    return statement.order_by(at, identifier).limit(bindparam("limit"))
