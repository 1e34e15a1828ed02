"""Sending mail: by SMTP where ``GUARDIAN_SMTP_URL`` is set; in development into a mailbox under the home.

A mail holds links that act for a person, so nothing here logs its text, and mailbox files are private.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP, default
from email.utils import format_datetime, parseaddr, parsedate_to_datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit
from uuid import UUID

import aiosmtplib

from shared import clock
from shared.settings import Settings

_SMTP_SECONDS = 20.0


class MailNotSent(Exception):
    """The mail could not be handed over; trying again later may help. Its text names no recipient."""


@dataclass(frozen=True, slots=True)
class Mail:
    """A plain-text mail to one person. ``id`` makes its Message-ID, so that a repetition is recognisable."""

    id: UUID
    to: str
    subject: str
    text: str


class Mailer(Protocol):
    """Whatever hands a mail over; raises ``MailNotSent``."""

    async def send(self, mail: Mail) -> None: ...


def mailer_for(settings: Settings) -> Mailer:
    """SMTP when it is configured, else the mailbox; production without SMTP keeps mails waiting."""
    if settings.smtp_url is not None:
        return SmtpMailer(settings.smtp_url.get_secret_value(), settings.mail_from)
    if settings.environment == "production":
        return Unconfigured()
    return Mailbox(settings.home / "mail", settings.mail_from)


class Unconfigured:
    """Production without an SMTP server: nothing is sent and nothing is lost."""

    async def send(self, mail: Mail) -> None:
        """Raise ``MailNotSent``, always."""
        raise MailNotSent(f"GUARDIAN_SMTP_URL is not set, so mail {mail.id} has to wait")


class SmtpMailer:
    """Hands mails to the server of ``smtp://user:password@host:port`` (``smtps://``: TLS from the start)."""

    def __init__(self, url: str, sender: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("smtp", "smtps") or not parts.hostname:
            raise ValueError("the SMTP URL must look like smtp://user:password@host:port")
        self._tls = parts.scheme == "smtps"
        self._host = parts.hostname
        self._port = parts.port or (465 if self._tls else 587)
        self._user = unquote(parts.username) if parts.username else None
        self._password = unquote(parts.password) if parts.password else None
        self._sender = sender

    async def send(self, mail: Mail) -> None:
        """Deliver over one connection, upgraded with STARTTLS when the server offers it."""
        try:
            await aiosmtplib.send(
                message_of(mail, self._sender),
                sender=parseaddr(self._sender)[1],
                recipients=[mail.to],
                hostname=self._host,
                port=self._port,
                username=self._user,
                password=self._password,
                use_tls=self._tls,
                timeout=_SMTP_SECONDS,
            )
        except (aiosmtplib.SMTPException, OSError) as error:
            # The server's words may repeat the recipient.
            raise MailNotSent(f"the mail server did not take it ({type(error).__name__})") from error


class Mailbox:
    """A folder of ``.eml`` files, readable by its owner alone."""

    def __init__(self, folder: Path, sender: str = "Guardian <no-reply@localhost>") -> None:
        self.folder = folder
        self._sender = sender

    async def send(self, mail: Mail) -> None:
        """Write the mail; the same mail again replaces itself."""
        try:
            await asyncio.to_thread(self._write, mail)
        except OSError as error:
            raise MailNotSent(f"the mailbox cannot be written: {error.strerror}") from error

    def _write(self, mail: Mail) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = self.folder / f".{mail.id}.partial"
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(message_of(mail, self._sender).as_bytes())
        partial.replace(self.folder / f"{mail.id}.eml")

    async def newest(self, limit: int = 50) -> list[Received]:
        """The latest mails, newest first."""
        return await asyncio.to_thread(self._newest, limit)

    async def read(self, mail_id: UUID) -> Received | None:
        """One mail, or None."""
        path = self.folder / f"{mail_id}.eml"
        return await asyncio.to_thread(lambda: _parse(path) if path.exists() else None)

    def _newest(self, limit: int) -> list[Received]:
        paths = sorted(self.folder.glob("*.eml"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        return [_parse(path) for path in paths[:limit]]


@dataclass(frozen=True, slots=True)
class Received:
    """A mail read from a mailbox, for people."""

    id: str
    to: str
    subject: str
    at: str
    lines: list[str]


def _parse(path: Path) -> Received:
    message = message_from_bytes(path.read_bytes(), policy=default)
    at = parsedate_to_datetime(message["Date"])
    return Received(
        path.stem, message["To"], message["Subject"], f"{at:%Y-%m-%d %H:%M:%S}", message.get_content().splitlines()
    )


def message_of(mail: Mail, sender: str) -> EmailMessage:
    """The mail as an RFC 5322 message; raises ``ValueError`` for a line break in a header."""
    message = EmailMessage(policy=SMTP)
    message["From"] = sender
    message["To"] = mail.to
    message["Subject"] = mail.subject
    message["Date"] = format_datetime(clock.now())
    message["Message-ID"] = f"<{mail.id}@{parseaddr(sender)[1].rpartition('@')[2] or 'localhost'}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(mail.text)
    return message
