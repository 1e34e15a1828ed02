"""Use cases of accounts. Passwords come in hashed: hashing is slow and happens before the transaction."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from services.identity.accounts import repository
from services.identity.accounts.schemas import MeChange
from services.identity.domain import DataRegion
from services.identity.events import UserEmailVerified, UserPasswordChanged, UserSignedUp, UserUpdated
from services.identity.mails import service as mails
from services.identity.mails import texts
from services.identity.organizations import repository as organizations
from services.identity.organizations import service as organization_service
from services.identity.organizations.schemas import OrganizationCreate
from services.identity.people import as_user, publish_about
from services.identity.sessions import repository as sessions
from services.identity.tokens import digest, new_token
from shared import clock
from shared.auth import Principal
from shared.db import Record, Session
from shared.errors import BadRequest, Conflict, Unauthenticated
from shared.events import publish
from shared.ids import new_id
from shared.settings import Settings

_LIFETIMES = {"email_verification": timedelta(days=3), "password_reset": timedelta(hours=1)}


@dataclass(frozen=True, slots=True)
class SignedUp:
    """What a sign-up made."""

    organization: dict[str, Any]
    user: dict[str, Any]


async def sign_up(
    session: Session,
    principal: Principal,
    settings: Settings,
    *,
    organization: str,
    data_region: DataRegion,
    name: str,
    email: str,
    password_hash: str,
    verified: bool = False,
) -> SignedUp:
    """Make an organisation and its owner. ``verified``: the address is known to be theirs, no mail is sent.

    Raises ``Conflict`` (``email_taken``) when somebody has an account with this address.
    """
    user = await add_user(session, name=name, email=email, password_hash=password_hash, verified=verified)
    body = OrganizationCreate(name=organization, data_region=data_region)
    made = await organization_service.create(session, principal, user["id"], body)
    publish_sign_up(session, principal, user, made["id"])
    if not verified:
        await send_verification(session, settings, user)
    return SignedUp(made, user)


async def add_user(session: Session, *, name: str, email: str, password_hash: str, verified: bool) -> dict[str, Any]:
    """Store a person; raises ``Conflict`` (``email_taken``)."""
    now = clock.now()
    user = {
        "id": new_id(),
        "email": email,
        "name": name,
        "email_verified_at": now if verified else None,
        "version": 1,
        "created_at": now,
        "updated_at": now,
    }
    await repository.add(session, {**user, "password_hash": password_hash, "event_sequence": 1})
    return user


def publish_sign_up(session: Session, principal: Principal, user: dict[str, Any], organization_id: UUID) -> None:
    """Tell the first organisation of a person about them."""
    actor = as_user(principal, user["id"], organization_id)
    event = UserSignedUp(email=user["email"], name=user["name"])
    publish(session, event, subject=user["id"], sequence=1, principal=actor, organization_id=organization_id)


async def send_verification(session: Session, settings: Settings, user: Record) -> None:
    """Mail a link that shows whether the address is the person's; earlier links stop working."""
    token = await make_token(session, user["id"], "email_verification")
    url = texts.link(settings.base_url, "email_verification", token)
    await mails.put_mail(session, settings, user["email"], texts.email_verification(user["name"], url))


async def make_token(session: Session, user_id: UUID, purpose: str) -> str:
    """A one-time token of a person; earlier ones for the same purpose stop working."""
    token, now = new_token(), clock.now()
    await repository.discard_tokens(session, user_id, purpose)
    row = {"id": new_id(), "user_id": user_id, "purpose": purpose, "token_sha256": token.sha256, "created_at": now,
           "expires_at": now + _LIFETIMES[purpose]}  # fmt: skip
    await repository.add_token(session, row)
    return token.text


async def token_is_valid(session: Session, token: str, purpose: str) -> bool:
    """Whether a link still works, without using it up."""
    return await repository.token_owner(session, digest(token), purpose, clock.now()) is not None


async def _use_token(session: Session, token: str, purpose: str) -> Record:
    user_id = await repository.use_token(session, digest(token), purpose, clock.now())
    if user_id is None:
        raise invalid_token()
    return await get_user(session, user_id, lock=True)


def invalid_token() -> BadRequest:
    """The problem of a link that was used, has expired, or never was."""
    return BadRequest(
        "The link has been used or has expired; ask for a new one.",
        code="invalid_token",
        errors=[{"field": "/token", "code": "invalid_token", "message": "is not valid, or not any more"}],
    )


async def resend_verification(session: Session, principal: Principal, settings: Settings) -> None:
    """Mail the signed-in person a new link; raises ``Conflict`` when their address is confirmed."""
    user = await get_me(session, principal, lock=True)
    if user["email_verified_at"] is not None:
        raise Conflict("The e-mail address is confirmed already.", code="already_verified")
    await send_verification(session, settings, user)


async def verify_email(session: Session, principal: Principal, token: str) -> None:
    """Use up a verification token; raises ``BadRequest`` (``invalid_token``)."""
    user = await _use_token(session, token, "email_verification")
    await mark_verified(session, as_user(principal, user["id"], principal.organization_id), user)


async def mark_verified(session: Session, principal: Principal, user: Record) -> None:
    """Note that a locked person reads the mail of their address."""
    if user["email_verified_at"] is None:
        now = clock.now()
        await repository.change(session, user["id"], {"email_verified_at": now, "updated_at": now})
        await publish_about(session, principal, user["id"], UserEmailVerified())


async def reset_password(
    session: Session, principal: Principal, settings: Settings, token: str, password_hash: str
) -> None:
    """Use up a reset token: a new password, no session left; raises ``BadRequest`` (``invalid_token``)."""
    user = await _use_token(session, token, "password_reset")
    actor = as_user(principal, user["id"], principal.organization_id)
    await replace_password(session, actor, settings, user, password_hash, method="reset")
    # The link came by mail, so the address is theirs.
    await mark_verified(session, actor, user)


async def change_password(
    session: Session, principal: Principal, settings: Settings, user: Record, password_hash: str
) -> None:
    """Replace the password of the signed-in person, whose present one was right; their other sessions end."""
    current = await get_me(session, principal, lock=True)
    if current["password_hash"] != user["password_hash"]:
        raise Conflict("The password has been changed in the meantime.", code="password_changed")
    kept = bytes.fromhex(principal.session_id or "")
    await replace_password(session, principal, settings, current, password_hash, method="change", kept_session=kept)


async def replace_password(
    session: Session,
    principal: Principal,
    settings: Settings,
    user: Record,
    password_hash: str,
    *,
    method: str,
    kept_session: bytes = b"",
) -> None:
    """Give a locked person another password and end their sessions, all but the kept one; tell them by mail."""
    await repository.change(session, user["id"], {"password_hash": password_hash, "updated_at": clock.now()})
    await repository.discard_tokens(session, user["id"], "password_reset")
    ended = await sessions.end_all(session, user["id"], kept_session)
    event = UserPasswordChanged(method=method, sessions_ended=ended)
    await publish_about(session, principal, user["id"], event)
    await mails.put_mail(session, settings, user["email"], texts.password_changed(user["name"]))


async def get_me(session: Session, principal: Principal, *, lock: bool = False) -> Record:
    """The signed-in person, with the password's hash."""
    assert principal.user_id is not None, "asked for by the operation"
    return await get_user(session, principal.user_id, lock=lock)


async def get_user(session: Session, user_id: UUID, *, lock: bool = False) -> Record:
    """A person who is known to exist, with the password's hash."""
    user = await repository.by_id(session, user_id, lock=lock)
    if user is None:
        raise Unauthenticated("There is no such account any more; sign in again.", code="session_expired")
    return user


async def describe_me(session: Session, principal: Principal) -> tuple[Record, dict[str, Any]]:
    """The signed-in person, and where they belong and what they may do where they are."""
    user = await get_me(session, principal)
    theirs = await organizations.of_user(session, user["id"], None, 1000)
    return user, {
        "user": shown(user),
        "organizations": [{name: row[name] for name in ("id", "name", "data_region", "role")} for row in theirs],
        "organization_id": next((row["id"] for row in theirs if row["id"] == principal.organization_id), None),
        "scopes": sorted(principal.scopes),
    }


async def change_me(session: Session, principal: Principal, before: Record, body: MeChange) -> Record:
    """Change the signed-in person's locked account."""
    wanted = body.model_dump(exclude_unset=True)
    changed = {name: value for name, value in wanted.items() if before[name] != value}
    if not changed:
        return before
    row = await repository.change(session, before["id"], {**changed, "updated_at": clock.now()})
    changes = {name: {"before": before[name], "after": value} for name, value in changed.items()}
    await publish_about(session, principal, row["id"], UserUpdated.model_validate({"changes": changes}))
    return row


def shown(user: Record) -> dict[str, Any]:
    """A person as they see themselves: without the password's hash."""
    names = ("id", "email", "name", "email_verified_at", "version", "created_at", "updated_at")
    return {name: user[name] for name in names}
