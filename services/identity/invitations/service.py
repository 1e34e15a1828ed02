"""Use cases of invitations."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from services.identity.accounts import repository as accounts
from services.identity.accounts import service as account_service
from services.identity.events import InvitationAccepted, InvitationCreated, InvitationRevoked
from services.identity.invitations import repository
from services.identity.invitations.schemas import InvitationCreate
from services.identity.mails import service as mails
from services.identity.mails import texts
from services.identity.members import repository as members
from services.identity.members import service as member_service
from services.identity.organizations import repository as organizations
from services.identity.organizations import service as organization_service
from services.identity.people import as_user
from services.identity.tokens import digest, new_token
from shared import clock
from shared.auth import Principal
from shared.db import Record, Session
from shared.errors import Conflict, NotFound, ValidationFailed
from shared.events import publish
from shared.http.pagination import PageParams, decode_moment_cursor
from shared.ids import new_id
from shared.settings import Settings

SORT = "created_at"


@dataclass(frozen=True, slots=True)
class Offer:
    """What a token invites to, and what its owner must still give."""

    invitation: Record
    organization: Record
    user: Record | None

    @property
    def needs_password(self) -> bool:
        """Whether the mailed token must set a password.

        An account whose address was never confirmed may have been made by somebody else in advance: it is
        handed over only together with a new password, which locks that somebody out.
        """
        return self.user is None or self.user["email_verified_at"] is None


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Who belongs where now; ``proven``: they chose a password just now and may be signed in."""

    organization: Record
    user: Record
    proven: bool


async def create(
    session: Session, principal: Principal, settings: Settings, body: InvitationCreate, lifetime: timedelta
) -> dict[str, Any]:
    """Invite an address by mail; raises ``Conflict`` for a member and for an open invitation."""
    await member_service.check_may_give(session, principal, body.role)
    organization = await organization_service.get(session, principal, lock=True)
    user = await accounts.by_email(session, body.email)
    if user is not None and await members.role_of(session, organization["id"], user["id"]):
        raise Conflict("They are a member already.", code="already_member")
    await _make_room(session, principal, body.email)
    token, now = new_token(), clock.now()
    inviter = principal.user_id or (UUID(principal.on_behalf_of) if principal.on_behalf_of else None)
    row = {
        "id": new_id(),
        "organization_id": organization["id"],
        "email": body.email,
        "role": body.role,
        "token_sha256": token.sha256,
        "invited_by": inviter,
        "created_at": now,
        "expires_at": now + lifetime,
        "accepted_at": None,
        "revoked_at": None,
    }
    await repository.add(session, row)
    event = InvitationCreated(email=body.email, role=body.role, expires_at=row["expires_at"])
    publish(session, event, subject=row["id"], sequence=1, principal=principal)
    sender = await accounts.by_id(session, inviter) if inviter else None
    url = texts.link(settings.base_url, "invitation", token.text)
    name = sender["name"] if sender else organization["name"]
    await mails.put_mail(
        session, settings, body.email, texts.invitation(organization["name"], name, body.role, url, lifetime.days)
    )
    return row


async def _make_room(session: Session, principal: Principal, email: str) -> None:
    earlier = await repository.open_for(session, principal.organization_id, email)
    if earlier is None:
        return
    if earlier["expires_at"] > clock.now():
        raise Conflict(
            "This address has an open invitation; revoke it to send another one.",
            code="already_invited",
            invitation_id=str(earlier["id"]),
        )
    await repository.revoke(session, principal.organization_id, earlier["id"], clock.now())


async def get(session: Session, principal: Principal, invitation_id: UUID, *, lock: bool = False) -> Record:
    """An invitation of the caller's organisation; raises ``NotFound``."""
    row = await repository.get(session, principal.organization_id, invitation_id, lock=lock)
    if row is None:
        raise NotFound("There is no invitation with this id.")
    return row


async def revoke(session: Session, principal: Principal, before: Record) -> None:
    """Make a locked invitation worthless; raises ``Conflict`` for one that was accepted."""
    if before["accepted_at"] is not None:
        raise Conflict("The invitation was accepted; remove the member instead.", code="already_accepted")
    if before["revoked_at"] is None:
        await repository.revoke(session, principal.organization_id, before["id"], clock.now())
        event = InvitationRevoked(email=before["email"])
        publish(session, event, subject=before["id"], sequence=2, principal=principal)


async def offer(session: Session, token: str, *, lock: bool = False) -> Offer:
    """What a token invites to; raises ``BadRequest`` (``invalid_token``)."""
    invitation = await repository.by_token(session, digest(token), clock.now(), lock=lock)
    if invitation is None:
        raise account_service.invalid_token()
    organization = await organizations.get(session, invitation["organization_id"])
    assert organization is not None, "invitations refer to organisations"
    user = await accounts.by_email(session, invitation["email"], lock=lock)
    return Offer(invitation, organization, user)


def check_complete(found: Offer, name: str | None, password: str | None) -> None:
    """Raise ``ValidationFailed`` when the token's owner must give more."""
    missing = []
    if found.needs_password and password is None:
        missing.append(("password", "choose a password"))
    if found.user is None and name is None:
        missing.append(("name", "say your name"))
    if missing:
        raise ValidationFailed(
            "There is no confirmed account with this address yet; see 'errors' for what it needs.",
            code="account_incomplete",
            errors=[{"field": f"/{field}", "code": "missing", "message": text} for field, text in missing],
        )


async def accept(
    session: Session,
    principal: Principal,
    settings: Settings,
    token: str,
    *,
    name: str | None = None,
    password_hash: str | None = None,
) -> Acceptance:
    """Let the token's owner belong to the organisation; raises as ``offer`` and ``check_complete``."""
    found = await offer(session, token, lock=True)
    check_complete(found, name, password_hash)
    organization_id = found.organization["id"]
    user = await _person(session, principal, settings, found, name, password_hash)
    actor = as_user(principal, user["id"], organization_id)
    if await members.role_of(session, organization_id, user["id"]):
        raise Conflict("They are a member already.", code="already_member")
    role = found.invitation["role"]
    await organization_service.add_member(session, actor, organization_id, user["id"], role)
    await repository.accept(session, organization_id, found.invitation["id"], clock.now(), user["id"])
    event = InvitationAccepted(user_id=user["id"], role=role)
    publish(
        session, event, subject=found.invitation["id"], sequence=2, principal=actor, organization_id=organization_id
    )
    return Acceptance(found.organization, user, found.needs_password)


async def _person(
    session: Session,
    principal: Principal,
    settings: Settings,
    found: Offer,
    name: str | None,
    password_hash: str | None,
) -> Record:
    if found.user is None:
        assert name is not None, "checked to be complete"
        assert password_hash is not None, "checked to be complete"
        user = await account_service.add_user(
            session, name=name, email=found.invitation["email"], password_hash=password_hash, verified=True
        )
        account_service.publish_sign_up(session, principal, user, found.organization["id"])
        return user
    if found.needs_password:
        assert password_hash is not None, "checked to be complete"
        actor = as_user(principal, found.user["id"], principal.organization_id)
        await account_service.replace_password(session, actor, settings, found.user, password_hash, method="invitation")
        await account_service.mark_verified(session, actor, found.user)
    return await account_service.get_user(session, found.user["id"])


async def page(session: Session, principal: Principal, query: PageParams) -> list[Record]:
    """One invitation more than the page holds."""
    after = decode_moment_cursor(query.cursor, SORT) if query.cursor else None
    return await repository.page(session, principal.organization_id, after, query.limit + 1)


def shown(row: Record) -> dict[str, Any]:
    """An invitation as the organisation sees it."""
    names = ("id", "email", "role", "invited_by", "created_at", "expires_at", "accepted_at", "revoked_at")
    return {"status": _status(row), **{name: row[name] for name in names}}


def _status(row: Record) -> str:
    if row["accepted_at"] is not None:
        return "accepted"
    if row["revoked_at"] is not None:
        return "revoked"
    return "open" if row["expires_at"] > clock.now() else "expired"
