"""Bodies and list parameters of the company operations."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from services.crm.records.schemas import (
    BulkCreate,
    BulkItem,
    BulkResult,
    BulkUpdate,
    RecordChange,
    RecordInput,
    RecordOutput,
    RecordQuery,
)
from shared.http import Page
from shared.http.fields import Line, Name, omitted

Domain = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True,
        to_lower=True,
        max_length=253,
        pattern=r"^[^\s\x00-\x1f\x7f/@:]+\.[^\s\x00-\x1f\x7f/@:]+$",
    ),
]
Employees = Annotated[int, Field(strict=True, ge=0, le=100_000_000)]


class CompanyCreate(RecordInput):
    """A new company."""

    name: Name
    domain: Domain | None = Field(None, examples=["engines.example"], description="of its web site, without scheme")
    industry: Line | None = None
    phone: Line | None = None
    employee_count: Employees | None = None


class CompanyChange(RecordChange):
    """What to change; a field that is left out keeps its value, null empties it."""

    name: Name = omitted()
    domain: Domain | None = omitted()
    industry: Line | None = omitted()
    phone: Line | None = omitted()
    employee_count: Employees | None = omitted()


class Company(RecordOutput):
    """A company."""

    name: str
    domain: str | None
    industry: str | None
    phone: str | None
    employee_count: int | None


class CompanyQuery(RecordQuery):
    """Filters and order of the company list."""

    domain: Domain | None = None
    industry: Line | None = None
    sort: Literal["created_at", "-created_at", "updated_at", "-updated_at", "name", "-name"] = "-created_at"


class CompanyPage(Page[Company]):
    """A page of companies."""


class CompanyBulkCreate(BulkCreate[CompanyCreate]):
    """Companies to make, all of them or none."""


class CompanyBulkItem(CompanyChange, BulkItem):
    """One change of a bulk update."""


class CompanyBulkUpdate(BulkUpdate[CompanyBulkItem]):
    """Companies to change, all of them or none."""


class CompanyBulkResult(BulkResult[Company]):
    """The companies of a bulk request, in the request's order."""
