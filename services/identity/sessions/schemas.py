"""Bodies of the session operations."""

from uuid import UUID

from pydantic import BaseModel, Field

from services.identity.accounts.schemas import OwnSession, User
from services.identity.schemas import GivenPassword
from shared.http.fields import Email, Input


class SignIn(Input):
    """Who signs in."""

    email: Email = Field(examples=["ada@example.com"])
    password: GivenPassword
    organization_id: UUID | None = Field(None, description="which one to work in; the oldest membership when left out")


class SwitchOrganization(Input):
    """Which organisation to work in."""

    organization_id: UUID


class SignedIn(BaseModel):
    """A session just begun; its token is in the cookie alone."""

    user: User
    session: OwnSession
