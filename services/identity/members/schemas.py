"""Bodies of the member operations."""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, Field

from services.identity.domain import Role
from services.identity.schemas import Version
from shared.http.fields import Input


class MemberChange(Input):
    """Another role."""

    role: Role


class Member(BaseModel):
    """A person in the organisation. ``id`` is the membership's; records name their owner by ``user_id``."""

    id: UUID
    user_id: UUID
    name: str
    email: str
    role: Role
    version: Version
    created_at: datetime = Field(description="when they joined")
    updated_at: datetime


class RoleDescription(BaseModel):
    """A role and what it may do."""

    name: Role
    description: str
    scopes: list[str]


class RoleList(BaseModel):
    """Every role, the mightiest first."""

    data: list[RoleDescription]
