"""The events the CRM publishes on ``guardian.crm.events``; each carries what changed.

Additive changes only within a version. Fields that can hold personal data are marked, so that they can
be encrypted for each organisation and erased.
"""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from shared.events import Event, PersonalData, event

PersonalText = Annotated[str | None, PersonalData]
_AT = "2026-01-15T12:00:00Z"


def _id(number: int) -> str:
    return f"0198c5a0-0000-7000-8000-{number:012d}"


_USER, _CONTACT_ID, _COMPANY_ID, _DEAL_ID, _ACTIVITY_ID, _PIPELINE_ID = map(_id, range(1, 7))
_NEW, _QUALIFIED, _WON = map(_id, range(11, 14))


class Change(BaseModel):
    """A field's value before and after."""

    before: Any = None
    after: Any = None


Changes = Annotated[dict[str, Change], PersonalData]


class _Snapshot(BaseModel):
    """A whole record, as far as consumers may rely on it."""

    model_config = ConfigDict(extra="ignore")

    id: UUID
    owner_id: UUID | None = None
    tags: list[str] = []
    custom_fields: Annotated[dict[str, Any], PersonalData] = {}
    version: int
    created_at: datetime
    updated_at: datetime


class ContactSnapshot(_Snapshot):
    """A contact."""

    first_name: PersonalText
    last_name: PersonalText
    email: PersonalText
    phone: PersonalText
    job_title: PersonalText
    company_id: UUID | None


class CompanySnapshot(_Snapshot):
    """A company."""

    name: str
    domain: str | None
    industry: str | None
    phone: PersonalText
    employee_count: int | None


class DealSnapshot(_Snapshot):
    """A deal; ``amount_minor`` counts the currency's minor unit (cents)."""

    name: str
    pipeline_id: UUID
    stage_id: UUID
    status: str
    amount_minor: int
    currency: str
    company_id: UUID | None
    contact_id: UUID | None
    expected_close_at: datetime | None
    stage_changed_at: datetime
    closed_at: datetime | None


class ActivitySnapshot(_Snapshot):
    """An activity."""

    kind: str
    subject: PersonalText
    body: PersonalText
    occurred_at: datetime
    due_at: datetime | None
    completed_at: datetime | None
    contact_id: UUID | None
    company_id: UUID | None
    deal_id: UUID | None


_RECORD: dict[str, Any] = {"owner_id": _USER, "tags": ["vip"], "custom_fields": {"segment": "enterprise"},
           "version": 1, "created_at": _AT, "updated_at": _AT}  # fmt: skip
_CONTACT = _RECORD | {"id": _CONTACT_ID, "first_name": "Ada", "last_name": "Lovelace", "email": "ada@example.com",
                      "phone": None, "job_title": "Countess", "company_id": _COMPANY_ID}  # fmt: skip
_COMPANY = _RECORD | {"id": _COMPANY_ID, "name": "Analytical Engines", "domain": "engines.example", "industry": "Computing",
                      "phone": None, "employee_count": 12}  # fmt: skip
_DEAL = _RECORD | {"id": _DEAL_ID, "name": "First engine", "pipeline_id": _PIPELINE_ID, "stage_id": _NEW,
                   "status": "open", "amount_minor": 1_700_000, "currency": "EUR", "company_id": _COMPANY_ID,
                   "contact_id": _CONTACT_ID, "expected_close_at": "2026-03-31T00:00:00Z", "stage_changed_at": _AT,
                   "closed_at": None}  # fmt: skip
_ACTIVITY = _RECORD | {"id": _ACTIVITY_ID, "kind": "call", "subject": "First call", "body": "Wants a quote.",
                       "occurred_at": _AT, "due_at": None, "completed_at": None, "contact_id": _CONTACT_ID,
                       "company_id": _COMPANY_ID, "deal_id": _DEAL_ID}  # fmt: skip
_CHANGED = {"changes": {"phone": {"before": None, "after": "+44 20 7946 0000"}}}


@event("contact.created", entity="contact", example={"contact": _CONTACT})
class ContactCreated(Event):
    """A contact was made."""

    contact: ContactSnapshot


@event("contact.updated", entity="contact", example=_CHANGED)
class ContactUpdated(Event):
    """Fields of a contact changed."""

    changes: Changes


@event("contact.deleted", entity="contact", example={})
class ContactDeleted(Event):
    """A contact was deleted; it can be restored."""


@event("contact.restored", entity="contact", example={"contact": _CONTACT})
class ContactRestored(Event):
    """A deleted contact is back."""

    contact: ContactSnapshot


@event("company.created", entity="company", example={"company": _COMPANY})
class CompanyCreated(Event):
    """A company was made."""

    company: CompanySnapshot


@event("company.updated", entity="company", example={"changes": {"employee_count": {"before": 12, "after": 15}}})
class CompanyUpdated(Event):
    """Fields of a company changed."""

    changes: Changes


@event("company.deleted", entity="company", example={})
class CompanyDeleted(Event):
    """A company was deleted; it can be restored."""


@event("company.restored", entity="company", example={"company": _COMPANY})
class CompanyRestored(Event):
    """A deleted company is back."""

    company: CompanySnapshot


@event("deal.created", entity="deal", example={"deal": _DEAL})
class DealCreated(Event):
    """A deal was opened."""

    deal: DealSnapshot


@event("deal.updated", entity="deal", example={"changes": {"amount_minor": {"before": 1_700_000, "after": 1_800_000}}})
class DealUpdated(Event):
    """Fields of a deal changed, its stage not among them."""

    changes: Changes


@event(
    "deal.stage_changed",
    entity="deal",
    example={"pipeline_id": _PIPELINE_ID, "from_pipeline_id": _PIPELINE_ID, "from_stage_id": _QUALIFIED,
             "to_stage_id": _WON, "from_status": "open", "status": "won", "closed_at": _AT, "amount_minor": 1_700_000, "currency": "EUR"},
)  # fmt: skip
class DealStageChanged(Event):
    """A deal moved to another stage, perhaps of another pipeline; ``status`` says whether that won or lost it."""

    pipeline_id: UUID
    from_pipeline_id: UUID
    from_stage_id: UUID
    to_stage_id: UUID
    from_status: str
    status: str
    closed_at: datetime | None
    amount_minor: int
    currency: str


@event("deal.deleted", entity="deal", example={})
class DealDeleted(Event):
    """A deal was deleted; it can be restored."""


@event("deal.restored", entity="deal", example={"deal": _DEAL})
class DealRestored(Event):
    """A deleted deal is back."""

    deal: DealSnapshot


@event("activity.created", entity="activity", example={"activity": _ACTIVITY})
class ActivityCreated(Event):
    """A call, mail, meeting, note or task was recorded."""

    activity: ActivitySnapshot


@event("activity.updated", entity="activity", example={"changes": {"completed_at": {"before": None, "after": _AT}}})
class ActivityUpdated(Event):
    """Fields of an activity changed."""

    changes: Changes


@event("activity.deleted", entity="activity", example={})
class ActivityDeleted(Event):
    """An activity was deleted; it can be restored."""


@event("activity.restored", entity="activity", example={"activity": _ACTIVITY})
class ActivityRestored(Event):
    """A deleted activity is back."""

    activity: ActivitySnapshot


class StageSnapshot(BaseModel):
    """A stage of a pipeline, in order."""

    id: UUID
    name: str
    probability: int
    kind: str


_STAGES = [
    {"id": _NEW, "name": "New", "probability": 10, "kind": "open"},
    {"id": _QUALIFIED, "name": "Qualified", "probability": 40, "kind": "open"},
    {"id": _WON, "name": "Won", "probability": 100, "kind": "won"},
]
_PIPELINE = {"name": "Sales", "is_default": True, "stages": _STAGES}


@event("pipeline.created", entity="pipeline", example=_PIPELINE)
class PipelineCreated(Event):
    """A pipeline was made."""

    name: str
    is_default: bool
    stages: list[StageSnapshot]


@event("pipeline.updated", entity="pipeline", example=_PIPELINE)
class PipelineUpdated(Event):
    """A pipeline's name or stages changed, or whether it is the default; this is how they are now."""

    name: str
    is_default: bool
    stages: list[StageSnapshot]


@event("pipeline.deleted", entity="pipeline", example={"name": "Sales"})
class PipelineDeleted(Event):
    """A pipeline without deals was deleted."""

    name: str


@event(
    "custom_field.created",
    entity="custom_field",
    example={"record_type": "contact", "key": "segment", "label": "Segment", "type": "select"},
)
class CustomFieldCreated(Event):
    """A custom field was defined."""

    record_type: str
    key: str
    label: str
    type: str


@event(
    "custom_field.updated",
    entity="custom_field",
    example={"record_type": "contact", "key": "segment", "label": "Segment", "options": ["enterprise", "small"]},
)
class CustomFieldUpdated(Event):
    """A custom field's label or options changed; this is how they are now."""

    record_type: str
    key: str
    label: str
    options: list[str]


@event("custom_field.deleted", entity="custom_field", example={"record_type": "contact", "key": "segment"})
class CustomFieldDeleted(Event):
    """A custom field is no longer defined."""

    record_type: str
    key: str
