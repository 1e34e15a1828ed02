"""Use cases of sessions."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from prometheus_client import Counter

from services.identity.accounts import repository as accounts
from services.identity.events import UserSignedIn, UserSignedOut, UserSignInFailed
from services.identity.members import repository as members
from services.identity.people import as_user, publish_about
from services.identity.sessions import repository
from services.identity.tokens import new_token
from shared import clock
from shared.auth import Principal
from shared.db import Record, Session
from shared.errors import NotFound, Unauthenticated
from shared.http.pagination import PageParams, decode_moment_cursor
from shared.ids import new_id

SORT = "created_at"
_FAILURES = Counter("guardian_sign_in_failures", "Sign-ins with a wrong address or password", ["account"])


class Started(NamedTuple):
    """A session just begun: the token for the cookie, and what may be shown."""

    token: str
    session: dict[str, Any]


async def start(
    session: Session,
    principal: Principal,
    user_id: UUID,
    organization_id: UUID | None,
    *,
    method: str,
    lifetime: timedelta,
    user_agent: str | None = None,
) -> Started:
    """Begin a session of a person who has just shown who they are."""
    token, now = new_token(), clock.now()
    row = {
        "id": new_id(),
        "token_sha256": token.sha256,
        "user_id": user_id,
        "organization_id": organization_id,
        "user_agent": user_agent,
        "client_address": principal.client_address,
        "authenticated_at": now,
        "created_at": now,
        "last_seen_at": now,
        "expires_at": now + lifetime,
    }
    await repository.add(session, row)
    if organization_id is not None:
        event = UserSignedIn(
            session_id=row["id"], method=method, client_address=principal.client_address, user_agent=user_agent
        )
        actor = as_user(principal, user_id, organization_id)
        await publish_about(session, actor, user_id, event, [organization_id])
    return Started(token.text, shown(row, token.sha256.hex()))


async def account_of(session: Session, email: str) -> Record | None:
    """Who has an address, with the password's hash to verify."""
    return await accounts.by_email(session, email)


async def sign_in(
    session: Session,
    principal: Principal,
    user: Record,
    organization_id: UUID | None,
    *,
    lifetime: timedelta,
    user_agent: str | None = None,
) -> Started | None:
    """Begin a session after the password was right; None when it was replaced in the meantime.

    Raises ``NotFound`` when ``organization_id`` is none of the person's.
    """
    current = await accounts.by_id(session, user["id"], lock=True)
    if current is None or current["password_hash"] != user["password_hash"]:
        return None
    theirs = await members.organizations_of(session, user["id"])
    if organization_id is None:
        organization_id = theirs[0] if theirs else None
    elif organization_id not in theirs:
        raise _no_organization()
    return await start(
        session, principal, user["id"], organization_id, method="password", lifetime=lifetime, user_agent=user_agent
    )


async def sign_in_failed(session: Session, principal: Principal, user: Record | None) -> None:
    """Tell the person's organisations about a wrong password; an unknown address concerns none."""
    _FAILURES.labels("unknown" if user is None else "known").inc()
    await accounts.commit_without_waiting(session)
    organizations = await members.organizations_of(session, user["id"] if user else new_id())
    if user is not None:
        event = UserSignInFailed(reason="wrong_password", client_address=principal.client_address)
        await publish_about(session, principal, user["id"], event, organizations)


async def current(session: Session, principal: Principal) -> Record:
    """The caller's own session; raises ``Unauthenticated`` when it has ended just now."""
    assert principal.user_id is not None, "asked for by the operation"
    token_sha256 = bytes.fromhex(principal.session_id or "")
    row = await repository.by_token(session, principal.user_id, token_sha256, clock.now())
    if row is None:
        raise Unauthenticated("The session has ended; sign in again.", code="session_expired")
    return row


async def switch(session: Session, principal: Principal, organization_id: UUID) -> Record:
    """Work in another of the caller's organisations; raises ``NotFound`` when they do not belong to it."""
    row = await current(session, principal)
    assert principal.user_id is not None, "asked for by the operation"
    if await members.role_of(session, organization_id, principal.user_id) is None:
        raise _no_organization()
    if row["organization_id"] == organization_id:
        return row
    changed = await repository.switch(session, principal.user_id, row["id"], organization_id)
    if changed is None:
        raise Unauthenticated("The session has ended; sign in again.", code="session_expired")
    event = UserSignedIn(
        session_id=row["id"], method="switch", client_address=principal.client_address, user_agent=row["user_agent"]
    )
    actor = as_user(principal, principal.user_id, organization_id)
    await publish_about(session, actor, principal.user_id, event, [organization_id])
    return changed


async def end(session: Session, principal: Principal, session_id: UUID) -> None:
    """End one of the caller's sessions; raises ``NotFound``."""
    assert principal.user_id is not None, "asked for by the operation"
    ended = await repository.end(session, principal.user_id, session_id)
    if ended is None:
        raise NotFound("You have no session with this id.")
    if ended["organization_id"] is not None:
        event = UserSignedOut(session_id=session_id)
        await publish_about(session, principal, principal.user_id, event, [ended["organization_id"]])


async def page(session: Session, principal: Principal, query: PageParams) -> list[dict[str, Any]]:
    """One of the caller's sessions more than the page holds."""
    assert principal.user_id is not None, "asked for by the operation"
    after = decode_moment_cursor(query.cursor, SORT) if query.cursor else None
    rows = await repository.page(session, principal.user_id, clock.now(), after, query.limit + 1)
    return [shown(row, principal.session_id) for row in rows]


def shown(row: Mapping[str, Any], current_sha256: str | None) -> dict[str, Any]:
    """A session as its owner sees it: without the token's hash."""
    names = ("id", "organization_id", "user_agent", "client_address", "created_at", "last_seen_at", "expires_at")
    return {"current": row["token_sha256"].hex() == current_sha256, **{name: row[name] for name in names}}


def _no_organization() -> NotFound:
    return NotFound("You belong to no organisation with this id.")
