"""Storage of custom-field definitions."""

from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Select, Text, Update, any_, bindparam, delete, insert, select, tuple_, update

from services.crm.custom_fields.schemas import CustomField
from services.crm.models import custom_fields as table
from shared.db import Record, Session, columns

_COLUMNS = columns(table, CustomField)
_MINE = table.c.organization_id == bindparam("organization_id")
_THIS = table.c.id == bindparam("field_id")

_DEFINITIONS = select(table.c.key, table.c.type, table.c.options).where(
    _MINE,
    table.c.record_type == bindparam("record_type"),
    table.c.key == any_(bindparam("keys", type_=ARRAY(Text))),
)
_ONE = select(*_COLUMNS).where(_MINE, _THIS)
_ONE_LOCKED = _ONE.with_for_update()
_DELETE = delete(table).where(_MINE, _THIS)


async def definitions(session: Session, organization_id: UUID, record_type: str, keys: Collection[str]) -> list[Record]:
    """Key, type and options of those of the keys that are defined for one kind of record."""
    params = {"organization_id": organization_id, "record_type": record_type, "keys": list(keys)}
    return await session.fetch(_DEFINITIONS, **params)


@lru_cache(maxsize=8)
def _insert(names: tuple[str, ...]) -> Any:
    return insert(table).values({name: bindparam(name) for name in names})


async def add(session: Session, row: Mapping[str, Any]) -> None:
    """Store a new definition; its key is unique within the kind of record."""
    await session.execute(_insert(tuple(row)), **row)


async def get(session: Session, organization_id: UUID, field_id: UUID, *, lock: bool) -> Record | None:
    """One definition; ``lock`` holds it until the transaction ends."""
    statement = _ONE_LOCKED if lock else _ONE
    return await session.fetch_one(statement, organization_id=organization_id, field_id=field_id)


@lru_cache(maxsize=8)
def _update(names: frozenset[str]) -> Update:
    values: dict[str, Any] = {name: bindparam(name) for name in sorted(names)} | {"version": table.c.version + 1}
    return update(table).where(_MINE, _THIS).values(values).returning(*_COLUMNS)


async def change(session: Session, organization_id: UUID, field_id: UUID, changed: Mapping[str, Any]) -> Record | None:
    """Change a locked definition."""
    return await session.fetch_one(
        _update(frozenset(changed)), organization_id=organization_id, field_id=field_id, **changed
    )


async def remove(session: Session, organization_id: UUID, field_id: UUID) -> None:
    """Delete a definition; values that records hold under its key stay and are no longer checked."""
    await session.execute(_DELETE, organization_id=organization_id, field_id=field_id)


@lru_cache(maxsize=8)
def _page(filtered: bool, after: bool) -> Select[Any]:
    statement = select(*_COLUMNS).where(_MINE)
    if filtered:
        statement = statement.where(table.c.record_type == bindparam("record_type"))
    if after:
        cursor = tuple_(
            bindparam("after_at", type_=table.c.created_at.type), bindparam("after_id", type_=table.c.id.type)
        )
        statement = statement.where(tuple_(table.c.created_at, table.c.id) > cursor)
    return statement.order_by(table.c.created_at, table.c.id).limit(bindparam("limit"))


async def page(
    session: Session, organization_id: UUID, record_type: str | None, after: tuple[Any, UUID] | None, limit: int
) -> list[Record]:
    """Definitions in the order they were made."""
    params: dict[str, Any] = {"organization_id": organization_id, "limit": limit}
    if record_type:
        params["record_type"] = record_type
    if after:
        params["after_at"], params["after_id"] = after
    return await session.fetch(_page(record_type is not None, after is not None), **params)
