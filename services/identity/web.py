"""What handlers here take from a request: settings, guard, vault, the client; and the answer that signs in."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Request
from starlette.responses import Response

from services.identity.cookies import session_cookie
from services.identity.guard import Guard
from services.identity.settings import IdentitySettings
from shared.db import Database, Session
from shared.http import json_response
from shared.http.unit_of_work import UnitOfWork
from shared.settings import Settings
from shared.vault import Vault

_USER_AGENT_LENGTH = 400


class Edge:
    """One request's surroundings."""

    def __init__(self, request: Request) -> None:
        state = request.app.state
        self.settings: Settings = state.settings
        self.own: IdentitySettings = state.identity_settings
        self.guard: Guard = state.guard
        self.vault: Vault = state.vault
        self.database: Database = state.database
        self._unit: UnitOfWork = request.scope["unit_of_work"]
        self.address: str | None = request.scope["principal"].client_address
        agent = request.headers.get("user-agent", "")[:_USER_AGENT_LENGTH]
        self.user_agent = "".join(c for c in agent if c.isprintable()) or None

    @asynccontextmanager
    async def reading(self, organization_id: UUID | None = None) -> AsyncIterator[Session]:
        """A look at the database before slow work, holding no connection afterwards. Tables of organisations show what
        belongs to the caller's, ``organization_id``.

        Where the request's transaction is open already, within it: nobody waits for a second connection
        while holding one.
        """
        if self._unit.begun:
            yield await self._unit.begin()
        else:
            async with self.database.transaction(organization_id) as session:
                yield session

    def signed_in(self, content: Any, token: str, status: int = 201) -> Response:
        """``content``, and the cookie that carries the session on."""
        seconds = int(self.own.session_lifetime.total_seconds())
        return json_response(content, status, {"Set-Cookie": session_cookie(self.settings, token, seconds)})

    def signed_out(self) -> Response:
        """Nothing, and a cookie that replaces the session's."""
        return Response(status_code=204, headers={"Set-Cookie": session_cookie(self.settings, "", 0)})


EdgeDep = Annotated[Edge, Depends(Edge)]

TOO_MANY: dict[int | str, dict[str, Any]] = {
    429: {
        "description": "There were too many attempts; ``Retry-After`` says how long to wait",
        "headers": {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}},
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
}
"""The answer of the guard, for the OpenAPI entry of the operations it watches."""
