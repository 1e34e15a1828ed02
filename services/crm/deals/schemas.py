"""Bodies and list parameters of the deal operations."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import Query
from pydantic import Field, StringConstraints

from services.crm.pipelines.domain import StageKind
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
from shared.http.fields import Moment, Name, omitted

MAX_AMOUNT = 10**13

Amount = Annotated[int, Field(strict=True, ge=0, le=MAX_AMOUNT, description="in the currency's minor unit (cents)")]
Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$"), Field(description="ISO 4217 code")]


class DealCreate(RecordInput):
    """A new deal; it begins at the first open stage of the default pipeline unless it says otherwise."""

    name: Name
    pipeline_id: UUID | None = Field(None, description="the stage's, else the default one when left out")
    stage_id: UUID | None = Field(None, description="the pipeline's first open stage when left out")
    amount_minor: Amount = 0
    currency: Currency = "EUR"
    company_id: UUID | None = None
    contact_id: UUID | None = None
    expected_close_at: Moment | None = None


class DealChange(RecordChange):
    """What to change; a field that is left out keeps its value, null empties it.

    A stage of another pipeline needs ``pipeline_id`` beside it; ``pipeline_id`` alone moves the deal to that
    pipeline's first open stage.
    """

    name: Name = omitted()
    pipeline_id: UUID = omitted()
    stage_id: UUID = omitted()
    amount_minor: Amount = omitted()
    currency: Currency = omitted()
    company_id: UUID | None = omitted()
    contact_id: UUID | None = omitted()
    expected_close_at: Moment | None = omitted()


class Deal(RecordOutput):
    """A deal; its status, and when it was closed, follow from its stage."""

    name: str
    pipeline_id: UUID
    stage_id: UUID
    status: StageKind
    amount_minor: int
    currency: str
    company_id: UUID | None
    contact_id: UUID | None
    expected_close_at: datetime | None
    stage_changed_at: datetime
    closed_at: datetime | None


class DealQuery(RecordQuery):
    """Filters and order of the deal list."""

    pipeline_id: UUID | None = None
    stage_id: UUID | None = None
    status: StageKind | None = None
    company_id: UUID | None = None
    contact_id: UUID | None = None
    expected_close_before: Annotated[Moment | None, Query(description="expected to close before this time")] = None
    sort: Literal[
        "created_at", "-created_at", "updated_at", "-updated_at", "name", "-name", "amount_minor", "-amount_minor"
    ] = "-created_at"


class DealPage(Page[Deal]):
    """A page of deals."""


class DealBulkCreate(BulkCreate[DealCreate]):
    """Deals to make, all of them or none."""


class DealBulkItem(DealChange, BulkItem):
    """One change of a bulk update."""


class DealBulkUpdate(BulkUpdate[DealBulkItem]):
    """Deals to change, all of them or none."""


class DealBulkResult(BulkResult[Deal]):
    """The deals of a bulk request, in the request's order."""
