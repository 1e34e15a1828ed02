"""Composition root of identity."""

from fastapi import FastAPI

from services.identity.accounts.api import router as accounts
from services.identity.api_keys.api import router as api_keys
from services.identity.guard import KEY_PURPOSE, Guard, address_policies
from services.identity.invitations.api import router as invitations
from services.identity.jobs import MailJob, forget_nonces, purge
from services.identity.members.api import router as members
from services.identity.organizations.api import router as organizations
from services.identity.pages.links import router as links
from services.identity.pages.mailbox import router as mailbox
from services.identity.sessions.api import router as sessions
from services.identity.settings import IdentitySettings
from services.identity.signatures.api import router as signatures
from services.identity.signing_keys.api import router as signing_keys
from shared.db import Database
from shared.events import Job, Relay, Worker
from shared.events.connect import connect_bus
from shared.http import create_service
from shared.limits.anonymous import AddressLimits
from shared.mail import mailer_for
from shared.settings import Settings
from shared.vault import SIGNING_KEYS, Vault

_HOUR = 3600.0
_MINUTE = 60.0
_SECOND = 1.0


def create_app(settings: Settings) -> FastAPI:
    """Identity's HTTP application."""
    routers = (
        accounts, sessions, organizations, members, invitations, api_keys, signing_keys, signatures, links, mailbox,
    )  # fmt: skip
    app = create_service(
        name="identity",
        title="Identity",
        description="Organisations, people, sessions, members, invitations, roles, API keys and what they sign with.",
        settings=settings,
        callers=("gateway", "health"),
        routers=routers,
        limits_schema="ratelimit",
    )
    own = app.state.identity_settings = IdentitySettings.of(settings)
    app.state.address_limits = AddressLimits(app.state.limits, address_policies(own))
    app.state.guard = Guard(app.state.limits, own, settings.derive_key(KEY_PURPOSE))
    app.state.vault = Vault(settings.derive_key(SIGNING_KEYS))
    return app


def worker(settings: Settings) -> Worker:
    """Identity's background half: its relay, the mails, and the purge of what has expired, nonces soonest."""
    database = Database.for_service(settings, "identity")
    bus = connect_bus(settings, database)

    async def purge_expired() -> None:
        await purge(database)

    async def forget_expired_nonces() -> None:
        await forget_nonces(database)

    return Worker(
        database,
        bus=bus,
        relay=Relay(database, bus),
        jobs=[
            Job("mail", _SECOND, MailJob(database, settings, mailer_for(settings)).run),
            Job("purge", _HOUR, purge_expired),
            Job("nonces", _MINUTE, forget_expired_nonces),
        ],
    )
