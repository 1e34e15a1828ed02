"""The demonstration's organisations and their history, made through the services' own use cases.

``organizations`` takes part of a second and may be called at every start; ``history`` takes longer the
first time, may be stopped at any moment, and goes on from there.
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

import structlog

from cli.demo import content
from cli.demo.content import HANDFUL, TEAM, YEAR, Size
from cli.demo.schedule import YEAR as ONE_YEAR
from cli.demo.schedule import Schedule
from cli.demo.teller import Teller
from cli.home import write_private
from cli.progress import step
from services.identity.accounts import repository as accounts
from services.identity.accounts import service as account_service
from services.identity.api_keys import service as api_keys
from services.identity.api_keys.schemas import ApiKeyCreate
from services.identity.domain import ALL_SCOPES, DataRegion
from services.identity.organizations import service as organization_service
from services.identity.passwords import hash_password
from services.identity.signing_keys import service as signing_keys
from services.identity.signing_keys.schemas import SigningKeyCreate
from shared import clock
from shared.auth import Principal
from shared.auth.principal import ANONYMOUS
from shared.clock import FixedClock, use_clock
from shared.db import Database, Session
from shared.http import PageParams
from shared.settings import Settings
from shared.vault import SIGNING_KEYS, Vault

CREDENTIALS_FILE = "demo-credentials.json"
"""Beside ``demo.json``: what the platform shows once and a restart must show again."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Plan:
    name: str
    region: DataRegion
    domain: str
    team: tuple[str, ...]
    """Its owner comes first."""

    def email(self, member: str) -> str:
        return f"{member.split(maxsplit=1)[0].lower()}@{self.domain}"


_FIRST = _Plan("Quillmoor Instruments", "eu", "quillmoor.example", TEAM)
_SECOND = _Plan("Tinderbrook Studio", "us", "tinderbrook.example", ("Theo Marlow",))


class _Keys(NamedTuple):
    api_key: str
    signing_key_id: str
    signing_secret: str


@dataclass(frozen=True, slots=True)
class DemoOrganization:
    """One organisation of the demonstration, with what it takes to use it."""

    id: UUID
    owner_id: UUID
    name: str
    email: str
    password: str
    api_key: str
    founded: datetime
    """Its history begins then and ends a year later, which is when it was loaded."""
    signing_key_id: str
    signing_secret: str
    """The API key may sign with it, and need not."""


async def organizations(settings: Settings) -> list[DemoOrganization]:
    """The two organisations; made on the first call, found again on later ones. The second has its few records."""
    known = _read_credentials(settings)
    made = []
    async with _opened(settings, "identity") as database:
        for plan in (_FIRST, _SECOND):
            organization = await _find(database, settings, plan, known) or await _sign_up(database, settings, plan)
            known[organization.email] = _remembered(organization)
            write_private(settings.home / CREDENTIALS_FILE, json.dumps(known, indent=2) + "\n")
            made.append(organization)
    async with _opened(settings, "crm") as database:
        second = made[1]
        teller = Teller(database, second.id, [second.owner_id], Schedule(second.founded + ONE_YEAR))
        if not await teller.is_told():
            await teller.tell(content.history(HANDFUL, seed=_SECOND.name))
    return made


async def history(settings: Settings, organization: DemoOrganization, size: Size = YEAR) -> None:
    """A year of history for the first organisation, as far as it is not there yet, with progress shown."""
    async with _opened(settings, "crm") as crm:
        schedule = Schedule(organization.founded + ONE_YEAR)
        if await Teller(crm, organization.id, [organization.owner_id], schedule).is_told():
            return
        with step("Loading a year of demo history; the API answers meanwhile") as progress:
            async with _opened(settings, "identity") as identity:
                team = await _team(identity, settings, organization)
            # In a thread, because it is a third of a second of computing and nothing else.
            operations = await asyncio.to_thread(content.history, size)
            teller = Teller(crm, organization.id, team, schedule)
            await teller.tell(
                operations, lambda done, total, moment: progress.update(done, total, note=f"{moment:%B %Y}")
            )
    if teller.skipped:
        _log.info("demo_history_changed_meanwhile", operations_left_out=teller.skipped)


def describe(base_url: str, pid: int, organizations: Sequence[DemoOrganization]) -> str:
    """The text of ``demo.json``."""
    shown = ("id", "name", "email", "password", *_Keys._fields)
    described = [{name: getattr(each, name) for name in shown} for each in organizations]
    return json.dumps({"base_url": base_url, "pid": pid, "organizations": described}, default=str, indent=2) + "\n"


@asynccontextmanager
async def _opened(settings: Settings, service: str) -> AsyncIterator[Database]:
    database = Database.for_service(settings, service)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


def _read_credentials(settings: Settings) -> dict[str, dict[str, str]]:
    path = settings.home / CREDENTIALS_FILE
    known: dict[str, dict[str, str]] = json.loads(path.read_text()) if path.exists() else {}
    return known


def _remembered(organization: DemoOrganization) -> dict[str, str]:
    return {
        "organization_id": str(organization.id),
        "password": organization.password,
        **{name: getattr(organization, name) for name in _Keys._fields},
    }


async def _find(
    database: Database, settings: Settings, plan: _Plan, known: dict[str, dict[str, str]]
) -> DemoOrganization | None:
    email = plan.email(plan.team[0])
    async with database.transaction() as session:
        owner = await accounts.by_email(session, email)
        if owner is None:
            return None
        anywhere = _acting(owner["id"], ANONYMOUS.organization_id)
        first = (await organization_service.page(session, anywhere, PageParams(limit=1)))[0]
    remembered = known.get(email, {})
    if remembered.get("organization_id") == str(first["id"]) and remembered.keys() >= set(_Keys._fields):
        password, keys = remembered["password"], _Keys(*(remembered[name] for name in _Keys._fields))
    else:
        # The process ended between the sign-up and writing the keys down, or the home is another one, or older.
        password, keys = _password(settings, email), await _new_keys(database, settings, owner["id"], first["id"])
    return DemoOrganization(
        first["id"], owner["id"], first["name"], email, password, founded=first["created_at"], **keys._asdict()
    )


async def _sign_up(database: Database, settings: Settings, plan: _Plan) -> DemoOrganization:
    email = plan.email(plan.team[0])
    password = _password(settings, email)
    password_hash = await hash_password(password)
    founded = clock.now() - ONE_YEAR
    with use_clock(FixedClock(founded)):
        async with database.transaction() as session:
            signed_up = await account_service.sign_up(
                session, _acting(None, ANONYMOUS.organization_id), settings, organization=plan.name,
                data_region=plan.region, name=plan.team[0], email=email, password_hash=password_hash, verified=True,
            )  # fmt: skip
            organization_id, owner_id = signed_up.organization["id"], signed_up.user["id"]
        keys = await _new_keys(database, settings, owner_id, organization_id)
    return DemoOrganization(
        organization_id, owner_id, plan.name, email, password, founded=founded, **keys._asdict()
    )  # fmt: skip


async def _new_keys(database: Database, settings: Settings, owner_id: UUID, organization_id: UUID) -> _Keys:
    owner, body = _acting(owner_id, organization_id), ApiKeyCreate(name="Demo", scopes=sorted(ALL_SCOPES))
    vault = Vault(settings.derive_key(SIGNING_KEYS))
    async with database.transaction(organization_id) as session:
        row, text = await api_keys.create(session, owner, body)
        signing, secret = await signing_keys.create(session, vault, owner, row, SigningKeyCreate())
    if secret is None:
        raise RuntimeError("a shared secret was not shown when it was made")
    return _Keys(text, str(signing["id"]), secret)


async def _team(database: Database, settings: Settings, organization: DemoOrganization) -> list[UUID]:
    """The users who act in the history, its owner first; those who are missing join now, a year ago."""
    team = [organization.owner_id]
    for number, name in enumerate(_FIRST.team[1:], 1):
        email = _FIRST.email(name)
        password_hash = await hash_password(_password(settings, email))
        with use_clock(FixedClock(organization.founded + timedelta(minutes=number))):
            async with database.transaction(organization.id) as session:
                user = await accounts.by_email(session, email)
                if user is None:
                    user = await _join(session, organization, name, email, password_hash)
                team.append(user["id"])
    return team


async def _join(
    session: Session, organization: DemoOrganization, name: str, email: str, password_hash: str
) -> dict[str, Any]:
    owner = _acting(organization.owner_id, organization.id)
    user = await account_service.add_user(session, name=name, email=email, password_hash=password_hash, verified=True)
    await organization_service.add_member(session, owner, organization.id, user["id"], "member")
    account_service.publish_sign_up(session, owner, user, organization.id)
    return user


def _acting(user_id: UUID | None, organization_id: UUID) -> Principal:
    """Somebody at work in the demonstration; nobody in particular before the sign-up."""
    who = partial(Principal, organization_id, request_id="demo")
    if user_id is None:
        return who("anonymous", ANONYMOUS.actor_id)
    return who("user", str(user_id), scopes=ALL_SCOPES, auth_method="session")


def _password(settings: Settings, email: str) -> str:
    """Derived from the home's secret, so that a process that ends before it is written down loses nothing."""
    letters = base64.b32encode(settings.derive_key(f"demo-password:{email}")).decode().lower()
    return "-".join(letters[start : start + 4] for start in range(0, 16, 4))
