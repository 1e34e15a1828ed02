"""The queue of mails: rows sealed with AES-GCM-SIV, because a mail holds a token and an address.

A row of the kind ``password_reset`` is an order: it holds an address that may belong to nobody. The
worker finds out, so that asking for a reset does the same work, known address or not.
"""

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from services.identity.mails import repository
from shared import clock
from shared.db import Record, Session
from shared.ids import new_id
from shared.mail import Mail
from shared.settings import Settings

LEASE = timedelta(minutes=2)
"""A mail being sent is left alone for this long; then somebody tries again."""

MAX_ATTEMPTS = 12
_FIRST_DELAY = timedelta(seconds=15)
_LONGEST_DELAY = timedelta(hours=2)
_KEPT_FAILURES = timedelta(days=7)


async def put_mail(session: Session, settings: Settings, to: str, subject_and_text: tuple[str, str]) -> None:
    """Send a mail once the transaction has committed."""
    subject, text = subject_and_text
    await _put(session, settings, "mail", {"to": to, "subject": subject, "text": text})


async def order_password_reset(session: Session, settings: Settings, email: str) -> None:
    """Let the worker send a reset to this address, if somebody has it."""
    await _put(session, settings, "password_reset", {"email": email})


async def _put(session: Session, settings: Settings, kind: str, content: Mapping[str, Any]) -> None:
    mail_id, now = new_id(), clock.now()
    sealed = _seal(settings, mail_id, content)
    row = {"id": mail_id, "kind": kind, "sealed": sealed, "attempts": 0, "next_attempt_at": now, "created_at": now}
    await repository.add(session, row)


async def claim(session: Session, limit: int) -> list[Record]:
    """Take mails that are due; they come again if they are not dealt with before the lease ends."""
    now = clock.now()
    rows = await repository.claim(session, now, now + LEASE, limit)
    return sorted(rows, key=lambda row: row["created_at"])


def ordered_address(settings: Settings, row: Record) -> str:
    """Whom an order concerns."""
    address: str = _unseal(settings, row)["email"]
    return address


def mail_of(settings: Settings, row: Record) -> Mail:
    """The mail of a claimed row; raises ``InvalidTag`` when it was sealed under another secret key."""
    return Mail(row["id"], **_unseal(settings, row))


async def become_mail(
    session: Session, settings: Settings, mail_id: UUID, to: str, subject_and_text: tuple[str, str]
) -> Mail:
    """Make a mail of an order, so that a repetition sends the same link."""
    subject, text = subject_and_text
    sealed = _seal(settings, mail_id, {"to": to, "subject": subject, "text": text})
    await repository.replace(session, mail_id, sealed)
    return Mail(mail_id, to, subject, text)


async def remove(session: Session, mail_id: UUID) -> None:
    """The mail is sent, or was an order for nobody."""
    await repository.remove(session, mail_id)


async def postpone(session: Session, row: Record, error: str) -> bool:
    """Try a claimed mail again later; False when it has been tried often enough and is given up."""
    now = clock.now()
    attempts: int = row["attempts"]
    alive = attempts < MAX_ATTEMPTS
    delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** (attempts - 1))
    await repository.postpone(
        session,
        row["id"],
        next_attempt_at=now + delay,
        failed_at=None if alive else now,
        last_error=error,
    )
    return alive


async def purge(session: Session) -> None:
    """Forget mails that were given up long ago."""
    await repository.purge(session, clock.now() - _KEPT_FAILURES)


def _box(settings: Settings) -> AESGCMSIV:
    return AESGCMSIV(settings.derive_key("identity:mail"))


def _seal(settings: Settings, mail_id: UUID, content: Mapping[str, Any]) -> bytes:
    nonce = os.urandom(12)
    return nonce + _box(settings).encrypt(nonce, orjson.dumps(content), mail_id.bytes)


def _unseal(settings: Settings, row: Record) -> dict[str, Any]:
    sealed: bytes = row["sealed"]
    content: dict[str, Any] = orjson.loads(_box(settings).decrypt(sealed[:12], sealed[12:], row["id"].bytes))
    return content
