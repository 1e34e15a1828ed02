"""Bodies and answers of the policy operations."""

from collections.abc import Hashable
from datetime import datetime
from typing import Annotated, Any, TypeVar
from uuid import UUID

from pydantic import AfterValidator, BaseModel, Field, StringConstraints

from services.ratelimit.policies.domain import LONGEST_PATTERN, route_pattern
from shared.http import PageParams
from shared.http.fields import Input, omitted
from shared.limits.policies import Mode, OnFailure, Part, RouteClass, Unit, Window

MOST_QUOTA = 10**12
Item = TypeVar("Item", bound=Hashable)


def _different(items: list[Item]) -> list[Item]:
    if len(set(items)) != len(items):
        raise ValueError("must not name anything twice")
    return items


PolicyName = Annotated[
    str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,62}$"), Field(description="lower-case letters, digits, hyphens")
]
Description = Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$")]
Quota = Annotated[int, Field(strict=True, ge=0, le=MOST_QUOTA, description="units that a window has; 0: none at all")]
Timezone = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_+/-]{0,63}$"),
    Field(description="whose midnight begins days and months (IANA name)", examples=["Europe/Berlin"]),
]
Per = Annotated[
    list[Part],
    Field(min_length=1, max_length=5, description="each combination of these has the quota for itself"),
    AfterValidator(_different),
]
RoutePattern = Annotated[
    str,
    StringConstraints(max_length=LONGEST_PATTERN),
    AfterValidator(route_pattern),
    Field(examples=["POST /v1/contacts*"], description="method or *, and path; * is anything"),
]
Routes = Annotated[list[RoutePattern], Field(max_length=50), AfterValidator(_different)]
Classes = Annotated[list[RouteClass], Field(max_length=6), AfterValidator(_different)]
Ids = Annotated[list[UUID], Field(max_length=200), AfterValidator(_different)]
Version = Annotated[int, Field(description="counts the changes; the ETag carries it")]
Force = Annotated[bool, Field(description="save it even when it would refuse your own calls to this API")]

_UNIT = "what is counted: calls in a window, or calls at the same time"
_MODE = (
    "exact: never more than the quota; fast: nobody waits for the database, and a tenth more may pass; strict: the "
    "database decides every call"
)
_ON_FAILURE = "what happens while the database is away: all pass, none does, or each process's last known share"
_WEIGHTED = "whether an operation takes what it costs (x-rate-limit in the contract), or one unit like all others"
_SHADOW = "refuse nothing, only say in metrics and receipts what would have been refused"


class PolicyMatch(Input):
    """Which calls a policy is for; what is empty does not narrow it."""

    routes: Routes = Field([])
    classes: Classes = Field([])
    keys: Ids = Field([], description="API keys")
    users: Ids = Field([], description="people, with their sessions and with the keys they made")


class LimitPolicyCreate(Input):
    """A new policy."""

    name: PolicyName
    description: Description = ""
    quota: Quota
    unit: Unit = Field("requests", description=_UNIT)
    window: Window | None = Field(None, description="needed for requests; none for concurrent-requests")
    timezone: Timezone = "UTC"
    per: Per = Field(["organization"])
    match: PolicyMatch = PolicyMatch()
    weighted: bool = Field(True, description=_WEIGHTED)
    mode: Mode = Field("exact", description=_MODE)
    on_failure: OnFailure = Field("share", description=_ON_FAILURE)
    shadow: bool = Field(False, description=_SHADOW)
    enabled: bool = True
    force: Force = False


class PolicyMatchChange(Input):
    """What to change of a policy's match; a list that is left out stays."""

    routes: Routes = omitted()
    classes: Classes = omitted()
    keys: Ids = omitted()
    users: Ids = omitted()


class LimitPolicyChange(Input):
    """What to change; a field that is left out keeps its value.

    Another unit, window, timezone, per or weighted makes the policy count from zero.
    """

    name: PolicyName = omitted()
    description: Description = omitted()
    quota: Quota = omitted()
    unit: Unit = omitted()
    window: Window | None = omitted()
    timezone: Timezone = omitted()
    per: Per = omitted()
    match: PolicyMatchChange = omitted()
    weighted: bool = omitted()
    mode: Mode = omitted()
    on_failure: OnFailure = omitted()
    shadow: bool = omitted()
    enabled: bool = omitted()
    force: Force = False


class LimitMatch(BaseModel):
    """Which calls a policy is for; an empty list means all."""

    routes: list[str]
    classes: list[RouteClass]
    keys: list[UUID]
    users: list[UUID]


class LimitPolicy(BaseModel):
    """A limit: ``quota`` of ``unit`` in each ``window``, for each subject that ``per`` makes of the calls."""

    id: UUID
    name: str
    description: str
    plan: str | None = Field(
        description="the plan it comes with; null for one of your own. Only your own can be changed"
    )
    quota: int
    unit: Unit = Field(description=_UNIT)
    window: Window | None
    timezone: str
    per: list[Part]
    match: LimitMatch
    weighted: bool = Field(description=_WEIGHTED)
    mode: Mode = Field(description=_MODE)
    on_failure: OnFailure = Field(description=_ON_FAILURE)
    shadow: bool = Field(description=_SHADOW)
    enabled: bool
    epoch: int = Field(description="goes up when it begins to count from zero")
    version: Version
    created_at: datetime | None = Field(description="null for one of the plan")
    updated_at: datetime | None


class LimitPolicyQuery(PageParams):
    """Parameters of the list."""


class ChangeActor(BaseModel):
    """Who changed it."""

    type: str = Field(examples=["user"])
    id: str


class ChangedOverride(BaseModel):
    """The override that a change is about."""

    id: UUID
    pattern: str


class FieldChange(BaseModel):
    """A field's value before and after; null where there was none."""

    before: Any
    after: Any


class LimitPolicyHistoryEntry(BaseModel):
    """One change of a policy or of an override of it."""

    id: UUID
    action: str = Field(
        description="created, updated, deleted, reset, override_created, override_updated or override_deleted"
    )
    policy_id: UUID
    policy_name: str
    override: ChangedOverride | None
    actor: ChangeActor
    request_id: str | None
    changes: dict[str, FieldChange]
    occurred_at: datetime


class LimitPolicyHistoryQuery(PageParams):
    """Parameters of the history."""
