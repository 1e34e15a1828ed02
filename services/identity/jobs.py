"""What identity does besides answering: sends mails, and forgets what has expired."""

import structlog
from cryptography.exceptions import InvalidTag

from services.identity.accounts import repository as accounts
from services.identity.accounts import service as account_service
from services.identity.mails import service as mails
from services.identity.mails import texts
from services.identity.sessions import repository as sessions
from services.identity.signing_keys import repository as signing_keys
from shared import clock
from shared.db import Database, Record
from shared.http import idempotency
from shared.mail import Mail, Mailer, MailNotSent
from shared.settings import Settings

# A batch that waits for a slow server's every timeout ends before its mails are somebody else's to try.
_BATCH = 5
_log = structlog.get_logger(__name__)


class MailJob:
    """Sends mails that are due, at least once each: one that was sent just before a crash is sent again."""

    def __init__(self, database: Database, settings: Settings, mailer: Mailer) -> None:
        self._database = database
        self._settings = settings
        self._mailer = mailer

    async def run(self) -> None:
        """Send until nothing is due."""
        while await self._run_batch() == _BATCH:
            pass

    async def _run_batch(self) -> int:
        async with self._database.transaction() as session:
            rows = await mails.claim(session, _BATCH)
        for row in rows:
            await self._deal_with(row)
        return len(rows)

    async def _deal_with(self, row: Record) -> None:
        try:
            mail = await self._prepare(row)
            if mail is not None:
                await self._mailer.send(mail)
        except (MailNotSent, InvalidTag, ValueError) as error:
            reason = str(error) if isinstance(error, MailNotSent) else type(error).__name__
            async with self._database.transaction() as session:
                alive = await mails.postpone(session, row, reason)
            log = _log.warning if alive else _log.error
            log("mail_not_sent", mail_id=str(row["id"]), attempt=row["attempts"], reason=reason, given_up=not alive)
            return
        async with self._database.transaction() as session:
            await mails.remove(session, row["id"])

    async def _prepare(self, row: Record) -> Mail | None:
        """The mail of a row; an order becomes one first, or nothing when nobody has the address."""
        if row["kind"] == "mail":
            return mails.mail_of(self._settings, row)
        async with self._database.transaction() as session:
            user = await accounts.by_email(session, mails.ordered_address(self._settings, row))
            if user is None:
                return None
            token = await account_service.make_token(session, user["id"], "password_reset")
            url = texts.link(self._settings.base_url, "password_reset", token)
            text = texts.password_reset(user["name"], url)
            return await mails.become_mail(session, self._settings, row["id"], user["email"], text)


async def purge(database: Database) -> None:
    """Forget expired sessions, tokens, answers kept for idempotency, and mails that were given up."""
    now = clock.now()
    async with database.transaction() as session:
        await sessions.purge(session, now)
        await accounts.purge_tokens(session, now)
        await mails.purge(session)
    await idempotency.purge(database)


async def forget_nonces(database: Database) -> None:
    """Forget the nonces of signatures that have expired: a repetition is refused for its age from then on."""
    async with database.transaction() as session:
        await signing_keys.forget_nonces(session)
