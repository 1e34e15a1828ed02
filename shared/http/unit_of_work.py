"""The transaction of a request, opened when something first asks for it."""

from contextlib import AsyncExitStack
from typing import Self

from shared.auth import Principal
from shared.buggify import buggify
from shared.db import Database, Session


class UnitOfWork:
    """At most one transaction; leaving the block commits it, or rolls it back when the block raises."""

    def __init__(self, database: Database, principal: Principal) -> None:
        self.database = database
        self.principal = principal
        self._session: Session | None = None
        self._stack = AsyncExitStack()

    @property
    def begun(self) -> bool:
        """Whether the transaction is open already; a keyed request opens it before its handler runs."""
        return self._session is not None

    async def begin(self) -> Session:
        """The session; the first call opens the transaction in the caller's organisation."""
        if self._session is None:
            context = self.database.transaction(self.principal.organization_id)
            self._session = await self._stack.enter_async_context(context)
        return self._session

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.__aexit__(*error)  # type: ignore[arg-type]
        if self.begun:
            buggify("unit_of_work.committed")
