"""Bodies and list parameters of the contact operations."""

from typing import Literal
from uuid import UUID

from pydantic import Field

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
from shared.http.fields import Email, Line, omitted


class ContactCreate(RecordInput):
    """A new contact: at least a name or an e-mail address."""

    first_name: Line = ""
    last_name: Line = ""
    email: Email | None = Field(None, examples=["ada@example.com"])
    phone: Line | None = None
    job_title: Line | None = None
    company_id: UUID | None = Field(None, description="the company the contact works for")


class ContactChange(RecordChange):
    """What to change; a field that is left out keeps its value, null empties it."""

    first_name: Line = omitted()
    last_name: Line = omitted()
    email: Email | None = omitted()
    phone: Line | None = omitted()
    job_title: Line | None = omitted()
    company_id: UUID | None = omitted()


class Contact(RecordOutput):
    """A contact."""

    first_name: str
    last_name: str
    email: str | None
    phone: str | None
    job_title: str | None
    company_id: UUID | None


class ContactQuery(RecordQuery):
    """Filters and order of the contact list."""

    email: Email | None = None
    company_id: UUID | None = None
    sort: Literal["created_at", "-created_at", "updated_at", "-updated_at", "name", "-name"] = "-created_at"


class ContactPage(Page[Contact]):
    """A page of contacts."""


class ContactBulkCreate(BulkCreate[ContactCreate]):
    """Contacts to make, all of them or none."""


class ContactBulkItem(ContactChange, BulkItem):
    """One change of a bulk update."""


class ContactBulkUpdate(BulkUpdate[ContactBulkItem]):
    """Contacts to change, all of them or none."""


class ContactBulkResult(BulkResult[Contact]):
    """The contacts of a bulk request, in the request's order."""
