"""Bodies of the invitation operations."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, Field

from services.identity.accounts.schemas import OwnSession, User
from services.identity.domain import Role
from services.identity.organizations.schemas import Organization
from services.identity.schemas import AccountEmail, GivenToken, NewPassword
from shared.http.fields import Input, Name


class InvitationCreate(Input):
    """Whom to invite, and as what."""

    email: AccountEmail = Field(examples=["grace@example.com"])
    role: Role = "member"


class Invitation(BaseModel):
    """An invitation. Its token is in the mail alone."""

    id: UUID
    email: str
    role: Role
    status: Literal["open", "accepted", "revoked", "expired"]
    invited_by: UUID | None
    created_at: datetime
    expires_at: datetime
    accepted_at: datetime | None
    revoked_at: datetime | None


class InvitationAccept(Input):
    """The token of the mailed link. Who has no confirmed account yet chooses a name and a password too."""

    token: GivenToken
    name: Name | None = Field(None, examples=["Grace Hopper"])
    password: NewPassword | None = None


class AcceptedInvitation(BaseModel):
    """Where the person belongs now. ``session`` is null for somebody who had an account: they sign in as ever."""

    organization: Organization
    user: User
    session: OwnSession | None
