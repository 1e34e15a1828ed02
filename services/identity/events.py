"""The events identity publishes on ``guardian.identity.events``. None holds a secret.

What happens to a person is told to each organisation they belong to; a failed sign-in for an address
nobody has belongs to no organisation and is only counted (``guardian_sign_in_failures_total``).
"""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel

from shared.events import Event, PersonalData, event

PersonalText = Annotated[str, PersonalData]
PersonalTextOrNone = Annotated[str | None, PersonalData]
_USER = "0198c5a0-0000-7000-8000-000000000001"
_SESSION = "0198c5a0-0000-7000-8000-000000000021"
_KEY = "0198c5a0-0000-7000-8000-000000000031"
_SIGNING_KEY = "0198c5a0-0000-7000-8000-000000000041"
_AT = "2026-01-15T12:00:00Z"


class Change(BaseModel):
    """A field's value before and after."""

    before: Any = None
    after: Any = None


@event("organization.created", entity="organization", example={"name": "Analytical Engines", "data_region": "eu"})
class OrganizationCreated(Event):
    """An organisation signed up, or a user made another one."""

    name: str
    data_region: str


@event(
    "organization.updated",
    entity="organization",
    example={"changes": {"name": {"before": "Engines", "after": "Analytical Engines"}}},
)
class OrganizationUpdated(Event):
    """Fields of an organisation changed."""

    changes: dict[str, Change]


@event("user.signed_up", entity="user", example={"email": "ada@example.com", "name": "Ada Lovelace"})
class UserSignedUp(Event):
    """A person has an account."""

    email: PersonalText
    name: PersonalText


@event("user.updated", entity="user", example={"changes": {"name": {"before": "Ada", "after": "Ada Lovelace"}}})
class UserUpdated(Event):
    """A person changed their own account."""

    changes: Annotated[dict[str, Change], PersonalData]


@event(
    "user.signed_in",
    entity="user",
    example={"session_id": _SESSION, "method": "password", "client_address": "192.0.2.1", "user_agent": "curl/8"},
)
class UserSignedIn(Event):
    """A session began in this organisation. ``method``: password, sign_up, invitation or switch."""

    session_id: UUID
    method: str
    client_address: PersonalTextOrNone
    user_agent: PersonalTextOrNone


@event("user.sign_in_failed", entity="user", example={"reason": "wrong_password", "client_address": "192.0.2.1"})
class UserSignInFailed(Event):
    """Somebody gave a wrong password for this person's account."""

    reason: str
    client_address: PersonalTextOrNone


@event("user.signed_out", entity="user", example={"session_id": _SESSION})
class UserSignedOut(Event):
    """A session was ended."""

    session_id: UUID


@event("user.email_verified", entity="user", example={})
class UserEmailVerified(Event):
    """A person showed that they read the mail of their address."""


@event("user.password_changed", entity="user", example={"method": "reset", "sessions_ended": 2})
class UserPasswordChanged(Event):
    """A password was replaced: by its owner (``change``), by mail (``reset``) or with an ``invitation``."""

    method: str
    sessions_ended: int


@event("member.added", entity="member", example={"user_id": _USER, "role": "member"})
class MemberAdded(Event):
    """A person joined the organisation."""

    user_id: UUID
    role: str


@event("member.role_changed", entity="member", example={"user_id": _USER, "before": "member", "after": "admin"})
class MemberRoleChanged(Event):
    """A member has another role."""

    user_id: UUID
    before: str
    after: str


@event("member.removed", entity="member", example={"user_id": _USER, "role": "member", "left": False})
class MemberRemoved(Event):
    """A member was removed, or left."""

    user_id: UUID
    role: str
    left: bool


@event(
    "invitation.created", entity="invitation", example={"email": "ada@example.com", "role": "member", "expires_at": _AT}
)
class InvitationCreated(Event):
    """Somebody was invited."""

    email: PersonalText
    role: str
    expires_at: datetime


@event("invitation.accepted", entity="invitation", example={"user_id": _USER, "role": "member"})
class InvitationAccepted(Event):
    """An invitation was accepted."""

    user_id: UUID
    role: str


@event("invitation.revoked", entity="invitation", example={"email": "ada@example.com"})
class InvitationRevoked(Event):
    """An invitation cannot be accepted any more."""

    email: PersonalText


@event(
    "api_key.created",
    entity="api_key",
    example={"public_id": "8fKq2LmZ0a", "name": "Import", "mode": "live", "scopes": ["contacts:write"],
             "expires_at": "2027-01-15T12:00:00Z", "created_by": _USER, "rotated_from": None},
)  # fmt: skip
class ApiKeyCreated(Event):
    """An API key was made; ``rotated_from`` names the one it replaces."""

    public_id: str
    name: str
    mode: str
    scopes: list[str]
    expires_at: datetime | None
    created_by: UUID
    rotated_from: UUID | None


@event(
    "api_key.updated", entity="api_key", example={"changes": {"name": {"before": "Import", "after": "Nightly import"}}}
)
class ApiKeyUpdated(Event):
    """Fields of an API key changed."""

    changes: dict[str, Change]


@event("api_key.revoked", entity="api_key", example={"public_id": "8fKq2LmZ0a", "reason": "revoked"})
class ApiKeyRevoked(Event):
    """An API key does not work any more. ``reason``: revoked, rotated or member_removed."""

    public_id: str
    reason: str


@event(
    "api_key.rotated",
    entity="api_key",
    example={"public_id": "8fKq2LmZ0a", "replaced_by": _KEY, "overlap_ends_at": _AT},
)
class ApiKeyRotated(Event):
    """An API key has a successor and works until ``overlap_ends_at``."""

    public_id: str
    replaced_by: UUID
    overlap_ends_at: datetime


@event(
    "signing_key.created",
    entity="signing_key",
    example={"api_key_id": _KEY, "algorithm": "hmac-sha256", "expires_at": None, "rotated_from": None},
)
class SigningKeyCreated(Event):
    """An API key can be signed for with one key more; ``rotated_from`` names the one it follows or is a copy of."""

    api_key_id: UUID
    algorithm: str
    expires_at: datetime | None
    rotated_from: UUID | None


@event(
    "signing_key.rotated",
    entity="signing_key",
    example={"api_key_id": _KEY, "replaced_by": _SIGNING_KEY, "overlap_ends_at": _AT},
)
class SigningKeyRotated(Event):
    """A signing key has a successor and works until ``overlap_ends_at``."""

    api_key_id: UUID
    replaced_by: UUID
    overlap_ends_at: datetime


@event("signing_key.revoked", entity="signing_key", example={"api_key_id": _KEY, "reason": "revoked"})
class SigningKeyRevoked(Event):
    """A signing key does not work any more. ``reason``: revoked or rotated."""

    api_key_id: UUID
    reason: str
