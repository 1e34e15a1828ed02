from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
import pytest_asyncio

from services.identity.domain import Role
from shared.auth import Principal
from shared.db import Database
from shared.ids import NIL
from shared.mail import Mail
from shared.settings import Settings
from shared.testing.client import ClientFactory
from tests.services.identity import support
from tests.services.identity.support import ADDRESS, PASSWORD, Events, Outgoing, People, Person, sign_up_body


@pytest_asyncio.fixture
async def anyone(client: ClientFactory) -> httpx.AsyncClient:
    """Identity as somebody without a credential sees it."""
    principal = Principal(NIL, "anonymous", "anonymous", client_address=ADDRESS, request_id="test-request")
    return await client("identity", principal)


@pytest.fixture
def sign_up(client: ClientFactory, anyone: httpx.AsyncClient) -> People:
    """``await sign_up(name="Grace")``: the owner of a new organisation."""

    async def make(**fields: Any) -> Person:
        return await support.person(client, await anyone.post("/v1/sign-up", json=sign_up_body(**fields)))

    return make


@pytest_asyncio.fixture
async def owner(sign_up: People) -> Person:
    return await sign_up()


@pytest_asyncio.fixture
async def stranger(sign_up: People) -> Person:
    """The owner of another organisation."""
    return await sign_up(organization="Difference Engines", name="Charles Babbage")


@pytest_asyncio.fixture
async def identity(database: Callable[[str], Any]) -> Database:
    made: Database = await database("identity")
    return made


@pytest_asyncio.fixture
async def gateway(settings: Settings) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection as the gateway's role."""
    connection = await Database(settings, "gateway").connect()
    yield connection
    await connection.close()


@pytest.fixture
def events(postgres: str) -> Events:
    """``await events(organization_id)``: what an organisation's events say."""

    async def published(organization_id: UUID) -> list[dict[str, Any]]:
        return await support.outbox(postgres, organization_id)

    return published


@pytest.fixture
def outgoing(identity: Database, settings: Settings) -> Outgoing:
    """``await outgoing("ada@example.com")``: the mails that wait for an address."""

    async def waiting(to: str) -> list[Mail]:
        return await support.outgoing(identity, settings, to)

    return waiting


@pytest.fixture
def join(client: ClientFactory, anyone: httpx.AsyncClient, outgoing: Outgoing) -> People:
    """``await join(owner, "member")``: somebody new who was invited and has accepted."""

    async def make(owner: Person, role: Role = "member", **fields: Any) -> Person:
        email = sign_up_body(**fields)["email"]
        invited = await owner.http.post("/v1/invitations", json={"email": email, "role": role})
        assert invited.status_code == 201, invited.text
        token = support.token_in((await outgoing(email))[-1])
        body = {"token": token, "name": "Grace Hopper", "password": PASSWORD}
        return await support.person(client, await anyone.post("/v1/invitations/accept", json=body), role)

    return make
