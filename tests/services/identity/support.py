"""What identity's tests share: people who are signed in, problems, the outbox, the mails that wait."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from http.cookies import SimpleCookie
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import orjson

from services.identity.domain import ROLES, Role
from services.identity.mails import service as mails
from services.identity.tokens import digest
from shared.auth import Principal
from shared.db import Database
from shared.ids import new_id
from shared.mail import Mail
from shared.settings import Settings
from shared.testing.client import ClientFactory

PASSWORD = "seven-lamps-of-architecture"
PUBLIC_KEY = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
"""Of Ed25519: RFC 8032 §7.1, the first test."""
ADDRESS = "192.0.2.7"
NOWHERE = "01900000-0000-7000-8000-000000000000"


@dataclass
class Person:
    """Somebody who is signed in, and identity as they see it."""

    connect: ClientFactory
    principal: Principal
    http: httpx.AsyncClient
    user: dict[str, Any]
    session: dict[str, Any]
    token: str

    @property
    def organization_id(self) -> UUID:
        return self.principal.organization_id

    @property
    def email(self) -> str:
        email: str = self.user["email"]
        return email

    async def limited_to(self, *scopes: str) -> httpx.AsyncClient:
        """Identity as this person would see it with these scopes alone."""
        return await self.connect("identity", replace(self.principal, scopes=frozenset(scopes)))

    async def through_key(self, *scopes: str) -> httpx.AsyncClient:
        """Identity as an API key of this person sees it."""
        key = replace(
            self.principal, actor_type="api_key", actor_id=str(new_id()), auth_method="api_key",
            on_behalf_of=self.principal.actor_id, scopes=frozenset(scopes), session_id=None,
        )  # fmt: skip
        return await self.connect("identity", key)


People = Callable[..., Awaitable[Person]]
Events = Callable[[UUID], Awaitable[list[dict[str, Any]]]]
Outgoing = Callable[[str], Awaitable[list[Mail]]]


async def person(connect: ClientFactory, answer: httpx.Response, role: Role = "owner") -> Person:
    """Whoever a sign-up, sign-in or acceptance let in, as the gateway knows them from then on."""
    assert answer.status_code in {200, 201}, answer.text
    body, token = answer.json(), cookie(answer)
    principal = Principal(
        organization_id=UUID(body["session"]["organization_id"]),
        actor_type="user",
        actor_id=body["user"]["id"],
        scopes=ROLES[role],
        auth_method="session",
        session_id=digest(token).hex(),
        client_address=ADDRESS,
        request_id="test-request",
    )
    return Person(connect, principal, await connect("identity", principal), body["user"], body["session"], token)


def sign_up_body(**fields: Any) -> dict[str, Any]:
    """A sign-up nobody has made before."""
    return {"organization": "Analytical Engines", "data_region": "eu", "name": "Ada Lovelace",
            "email": f"{new_id().hex}@example.com", "password": PASSWORD} | fields  # fmt: skip


def cookie(answer: httpx.Response) -> str:
    """The session's token in the answer's cookie."""
    return SimpleCookie(answer.headers["set-cookie"])["guardian_session"].value


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


def same_problem(one: httpx.Response, other: httpx.Response) -> None:
    """Assert that two answers tell their reader nothing apart but where they asked."""
    assert one.status_code == other.status_code
    ignored = {"instance", "request_id"}
    first, second = ({k: v for k, v in answer.json().items() if k not in ignored} for answer in (one, other))
    assert first == second


async def outbox(dsn: str, organization_id: UUID) -> list[dict[str, Any]]:
    """The organisation's events in the order they were published."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            "SELECT envelope::text AS envelope FROM identity.outbox WHERE organization_id = $1 ORDER BY seq",
            organization_id,
        )
    finally:
        await connection.close()
    return [orjson.loads(row["envelope"]) for row in rows]


def of_type(events: list[dict[str, Any]], event_type: str) -> list[dict[str, Any]]:
    """Those of one type."""
    return [each for each in events if each["type"] == event_type]


async def outgoing(database: Database, settings: Settings, to: str) -> list[Mail]:
    """The mails to an address that wait to be sent, oldest first."""
    rows: list[Any] = await database.pool.fetch(
        "SELECT id, sealed, attempts FROM identity.mail_outbox WHERE kind = 'mail' ORDER BY created_at, ctid"
    )
    return [mail for mail in (mails.mail_of(settings, row) for row in rows) if mail.to == to]


def link_in(mail: Mail) -> httpx.URL:
    """The link of a mail."""
    (line,) = [line for line in mail.text.splitlines() if line.startswith("http")]
    return httpx.URL(line)


def token_in(mail: Mail) -> str:
    """The token in the link of a mail."""
    return link_in(mail).params["token"]
