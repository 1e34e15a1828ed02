"""Bodies of the account operations."""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, Field

from services.identity.domain import DataRegion, Role
from services.identity.organizations.schemas import Organization
from services.identity.schemas import AccountEmail, GivenPassword, GivenToken, NewPassword, Version
from shared.http.fields import Input, Name


class SignUp(Input):
    """A new organisation and its owner."""

    organization: Name = Field(examples=["Analytical Engines"], description="the organisation's name")
    data_region: DataRegion = Field(description="where the organisation's data is kept; cannot be changed yet")
    name: Name = Field(examples=["Ada Lovelace"])
    email: AccountEmail = Field(examples=["ada@example.com"])
    password: NewPassword


class User(BaseModel):
    """A person."""

    id: UUID
    email: str
    name: str
    email_verified_at: datetime | None
    version: Version
    created_at: datetime
    updated_at: datetime


class OwnSession(BaseModel):
    """One of the caller's sessions. ``last_seen_at`` is some minutes coarse."""

    id: UUID
    current: bool
    organization_id: UUID | None
    user_agent: str | None
    client_address: str | None
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime


class SignedUp(BaseModel):
    """What a sign-up made; the session's token is in the cookie alone."""

    organization: Organization
    user: User
    session: OwnSession


class OwnMembership(BaseModel):
    """An organisation the caller belongs to."""

    id: UUID
    name: str
    data_region: DataRegion
    role: Role


class Me(BaseModel):
    """The caller: who they are, where they belong, what they may do where they are."""

    user: User
    organizations: list[OwnMembership]
    organization_id: UUID | None = Field(description="the organisation this session works in")
    scopes: list[str]


class MeChange(Input):
    """What to change about oneself."""

    name: Name = Field("", examples=["Ada King"])


class PasswordChange(Input):
    """A new password, and the present one to show who is asking."""

    current_password: GivenPassword
    new_password: NewPassword


class TokenGiven(Input):
    """The token of a mailed link."""

    token: GivenToken


class PasswordResetRequest(Input):
    """Whose password was forgotten."""

    email: AccountEmail


class PasswordReset(Input):
    """The token of the mailed link, and a new password."""

    token: GivenToken
    password: NewPassword
