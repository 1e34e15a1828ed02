"""Bodies of the organisation operations."""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, Field

from services.identity.domain import DataRegion, Role
from services.identity.schemas import Version
from shared.http.fields import Input, Name


class OrganizationCreate(Input):
    """A new organisation."""

    name: Name = Field(examples=["Analytical Engines"])
    data_region: DataRegion = Field(description="where its data is kept; cannot be changed yet")


class OrganizationChange(Input):
    """What to change; a field that is left out keeps its value."""

    name: Name = Field("", examples=["Analytical Engines"])
    data_region: DataRegion = Field("eu", description="cannot be changed yet")


class Organization(BaseModel):
    """An organisation."""

    id: UUID
    name: str
    data_region: DataRegion
    version: Version
    created_at: datetime
    updated_at: datetime


class OwnOrganization(Organization):
    """An organisation and what the caller is in it."""

    role: Role
