"""The unit of work: one transaction in one organisation, committed at the edge and nowhere else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, cast
from uuid import UUID

import asyncpg
from sqlalchemy import Executable

from shared.db.statements import compiled

Record = Mapping[str, Any]
"""A row: its values by column name. (asyncpg's rows are mappings that do not say so.)"""


class Session:
    """A running transaction. Services and repositories use it; the edge that opened it commits it."""

    def __init__(
        self, connection: asyncpg.Connection[asyncpg.Record], organization_id: UUID | None, service: str
    ) -> None:
        self.connection = connection
        self.organization_id = organization_id
        self.service = service
        """Whose schema this is."""
        self._before_commit: list[Callable[[Session], Awaitable[None]]] = []
        self._after_commit: list[Callable[[], None]] = []
        self.state: dict[str, Any] = {}
        """Whatever a part of the chassis keeps for the length of the transaction, by its own key."""

    async def fetch(self, statement: Executable, /, **params: Any) -> list[Record]:
        """All rows of a Core statement."""
        query = compiled(statement)
        rows: list[Any] = await self.connection.fetch(query.sql, *query.arguments(params))
        return rows

    async def fetch_one(self, statement: Executable, /, **params: Any) -> Record | None:
        """The first row, or None."""
        query = compiled(statement)
        row: Any = await self.connection.fetchrow(query.sql, *query.arguments(params))
        return cast("Record | None", row)

    async def fetch_value(self, statement: Executable, /, **params: Any) -> Any:
        """The first column of the first row, or None."""
        query = compiled(statement)
        return await self.connection.fetchval(query.sql, *query.arguments(params))

    async def execute(self, statement: Executable, /, **params: Any) -> int:
        """Run a statement; the number of rows it touched."""
        query = compiled(statement)
        tag = await self.connection.execute(query.sql, *query.arguments(params))
        count = tag.rpartition(" ")[2]
        return int(count) if count.isdigit() else 0

    async def execute_many(self, statement: Executable, rows: Iterable[Mapping[str, Any]], /) -> None:
        """Run a statement for each row of parameters, pipelined in one round trip."""
        query = compiled(statement)
        await self.connection.executemany(query.sql, [query.arguments(row) for row in rows])

    def before_commit(self, callback: Callable[[Session], Awaitable[None]]) -> None:
        """Run ``callback`` once inside the transaction, just before it commits."""
        self._before_commit.append(callback)

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Run ``callback`` when the commit has succeeded; it must not raise."""
        self._after_commit.append(callback)

    async def run_before_commit(self) -> None:
        """Called by ``Database.transaction`` alone."""
        for callback in self._before_commit:
            await callback(self)

    def run_after_commit(self) -> None:
        """Called by ``Database.transaction`` alone."""
        for callback in self._after_commit:
            callback()
