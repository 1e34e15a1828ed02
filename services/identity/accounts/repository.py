"""Storage of users and one-time tokens. A user belongs to no organisation; their memberships do."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy import bindparam, delete, func, select, update

from services.identity import rows
from services.identity.models import one_time_tokens as tokens
from services.identity.models import users as table
from shared.db import Record, Session
from shared.errors import Conflict

_SHOWN = ("id", "email", "name", "email_verified_at", "version", "created_at", "updated_at")
_COLUMNS = [table.c[name] for name in (*_SHOWN, "password_hash")]
_THIS = table.c.id == bindparam("user_id")
_MOMENT = bindparam("moment", type_=tokens.c.expires_at.type)

_BY_EMAIL = select(*_COLUMNS).where(table.c.email == bindparam("email"))
_BY_ID = select(*_COLUMNS).where(_THIS)
# Not FOR UPDATE: a new row that refers to the user need not wait.
_LOCK_BY_EMAIL = _BY_EMAIL.with_for_update(key_share=True)
_LOCK_BY_ID = _BY_ID.with_for_update(key_share=True)
_NEXT_EVENT = (
    update(table).where(_THIS).values(event_sequence=table.c.event_sequence + 1).returning(table.c.event_sequence)
)
_DISCARD = delete(tokens).where(tokens.c.user_id == bindparam("user_id"), tokens.c.purpose == bindparam("purpose"))
_FIND_TOKEN = select(tokens.c.user_id).where(
    tokens.c.token_sha256 == bindparam("token_sha256"),
    tokens.c.purpose == bindparam("purpose"),
    tokens.c.expires_at > _MOMENT,
)
_USE_TOKEN = (
    delete(tokens)
    .where(
        tokens.c.token_sha256 == bindparam("token_sha256"),
        tokens.c.purpose == bindparam("purpose"),
        tokens.c.expires_at > _MOMENT,
    )
    .returning(tokens.c.user_id)
)
_PURGE = delete(tokens).where(tokens.c.expires_at <= _MOMENT)
# A failed sign-in is told, not promised: its caller must not learn from a disk's pause whether there was one.
_NO_WAIT = select(func.set_config("synchronous_commit", "off", True))


async def add(session: Session, row: Mapping[str, Any]) -> None:
    """Store a new user; raises ``Conflict`` (``email_taken``) when somebody has the address."""
    try:
        await rows.add(session, table, row)
    except asyncpg.UniqueViolationError as error:
        raise Conflict(
            "There is an account with this e-mail address; sign in, or reset its password.",
            code="email_taken",
            errors=[{"field": "/email", "code": "email_taken", "message": "has an account already"}],
        ) from error


async def by_email(session: Session, email: str, *, lock: bool = False) -> Record | None:
    """The user of an address, with the password's hash."""
    return await session.fetch_one(_LOCK_BY_EMAIL if lock else _BY_EMAIL, email=email)


async def by_id(session: Session, user_id: UUID, *, lock: bool = False) -> Record | None:
    """A user, with the password's hash."""
    return await session.fetch_one(_LOCK_BY_ID if lock else _BY_ID, user_id=user_id)


async def change(session: Session, user_id: UUID, changed: Mapping[str, Any]) -> Record:
    """Change a locked user."""
    return await rows.change(session, table, {"id": user_id}, changed, _SHOWN)


async def next_event(session: Session, user_id: UUID) -> int:
    """The place of the user's next event; holds the user until the transaction ends."""
    sequence: int = await session.fetch_value(_NEXT_EVENT, user_id=user_id)
    return sequence


async def add_token(session: Session, row: Mapping[str, Any]) -> None:
    """Store a one-time token."""
    await rows.add(session, tokens, row)


async def discard_tokens(session: Session, user_id: UUID, purpose: str) -> None:
    """Make the user's earlier tokens of this purpose worthless."""
    await session.execute(_DISCARD, user_id=user_id, purpose=purpose)


async def token_owner(session: Session, token_sha256: bytes, purpose: str, moment: datetime) -> UUID | None:
    """Whose valid token this is; it stays valid."""
    owner: UUID | None = await session.fetch_value(
        _FIND_TOKEN, token_sha256=token_sha256, purpose=purpose, moment=moment
    )
    return owner


async def use_token(session: Session, token_sha256: bytes, purpose: str, moment: datetime) -> UUID | None:
    """Whose valid token this was: it can be used once."""
    owner: UUID | None = await session.fetch_value(
        _USE_TOKEN, token_sha256=token_sha256, purpose=purpose, moment=moment
    )
    return owner


async def purge_tokens(session: Session, moment: datetime) -> None:
    """Forget the tokens that have expired by ``moment``."""
    await session.execute(_PURGE, moment=moment)


async def commit_without_waiting(session: Session) -> None:
    """Let this transaction commit without waiting for the disk."""
    await session.fetch_value(_NO_WAIT)
