"""Statements every repository here needs: add a row, change a versioned one, list. Built once for each shape."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import Column, Insert, Select, Table, Update, bindparam, insert, tuple_, update

from shared.db import Record, Session, columns


@lru_cache(maxsize=64)
def _insert(table: Table, names: tuple[str, ...]) -> Insert:
    return insert(table).values({name: bindparam(name) for name in names})


async def add(session: Session, table: Table, row: Mapping[str, Any]) -> None:
    """Store a new row."""
    await session.execute(_insert(table, tuple(row)), **row)


@lru_cache(maxsize=128)
def _update(table: Table, keys: tuple[str, ...], names: frozenset[str], shown: tuple[str, ...]) -> Update:
    values: dict[str, Any] = {name: bindparam(name) for name in sorted(names)} | {"version": table.c.version + 1}
    found = [table.c[key] == bindparam(f"key_{key}") for key in keys]
    return update(table).where(*found).values(values).returning(*columns(table, shown))


async def change(
    session: Session, table: Table, key: Mapping[str, Any], changed: Mapping[str, Any], shown: Sequence[str]
) -> Record:
    """Change a locked row and count its version up; the ``shown`` columns afterwards."""
    statement = _update(table, tuple(key), frozenset(changed), tuple(shown))
    row = await session.fetch_one(statement, **{f"key_{name}": value for name, value in key.items()}, **changed)
    assert row is not None, "the caller holds the row's lock"
    return row


class Listing:
    """A list in the order ``(created_at, id)`` of ``table``: its first page, and those behind a cursor."""

    def __init__(self, statement: Select[Any], table: Table) -> None:
        created_at: Column[Any] = table.c.created_at
        identifier: Column[Any] = table.c.id
        cursor = tuple_(bindparam("after_at", type_=created_at.type), bindparam("after_id", type_=identifier.type))
        ordered = statement.order_by(created_at, identifier).limit(bindparam("limit"))
        self._first = ordered
        self._behind = ordered.where(tuple_(created_at, identifier) > cursor)

    async def fetch(
        self, session: Session, after: tuple[datetime, UUID] | None, limit: int, **params: Any
    ) -> list[Record]:
        """Up to ``limit`` rows behind ``after``."""
        if after is None:
            return await session.fetch(self._first, limit=limit, **params)
        return await session.fetch(self._behind, limit=limit, after_at=after[0], after_id=after[1], **params)
