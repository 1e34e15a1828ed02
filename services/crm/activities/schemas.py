"""Bodies and list parameters of the activity operations."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import Query
from pydantic import Field

from services.crm.activities.domain import Kind
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
from shared import clock
from shared.http import Page
from shared.http.fields import Line, LongText, Moment, omitted


class ActivityCreate(RecordInput):
    """A new activity: at least a subject or a body; what it is about may be left open."""

    kind: Kind
    subject: Line = Field("", examples=["First call"])
    body: LongText = ""
    occurred_at: Moment = Field(default_factory=clock.now, description="when it happened; now when left out")
    due_at: Moment | None = None
    completed_at: Moment | None = Field(None, description="set when it is done")
    contact_id: UUID | None = None
    company_id: UUID | None = None
    deal_id: UUID | None = None


class ActivityChange(RecordChange):
    """What to change; a field that is left out keeps its value, null empties it."""

    kind: Kind = omitted()
    subject: Line = omitted()
    body: LongText = omitted()
    occurred_at: Moment = omitted()
    due_at: Moment | None = omitted()
    completed_at: Moment | None = omitted()
    contact_id: UUID | None = omitted()
    company_id: UUID | None = omitted()
    deal_id: UUID | None = omitted()


class Activity(RecordOutput):
    """An activity."""

    kind: Kind
    subject: str
    body: str
    occurred_at: datetime
    due_at: datetime | None
    completed_at: datetime | None
    contact_id: UUID | None
    company_id: UUID | None
    deal_id: UUID | None


class ActivityQuery(RecordQuery):
    """Filters and order of the activity list."""

    kind: Kind | None = None
    contact_id: UUID | None = None
    company_id: UUID | None = None
    deal_id: UUID | None = None
    done: Annotated[bool | None, Query(description="whether it is completed")] = None
    occurred_after: Annotated[Moment | None, Query(description="at this time or later")] = None
    occurred_before: Annotated[Moment | None, Query(description="before this time")] = None
    due_before: Annotated[Moment | None, Query(description="due before this time")] = None
    sort: Literal["occurred_at", "-occurred_at", "created_at", "-created_at", "updated_at", "-updated_at"] = (
        "-occurred_at"
    )


class ActivityPage(Page[Activity]):
    """A page of activities."""


class ActivityBulkCreate(BulkCreate[ActivityCreate]):
    """Activities to record, all of them or none."""


class ActivityBulkItem(ActivityChange, BulkItem):
    """One change of a bulk update."""


class ActivityBulkUpdate(BulkUpdate[ActivityBulkItem]):
    """Activities to change, all of them or none."""


class ActivityBulkResult(BulkResult[Activity]):
    """The activities of a bulk request, in the request's order."""
