"""The events of limits, on ``guardian.ratelimit.events``.

Additive changes only within a version. Fields that can hold personal data are marked, so that they can
be encrypted for each organisation and erased.
"""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from shared.events import Event, PersonalData, event

PersonalText = Annotated[str, PersonalData]
_POLICY_ID = "0198c5a0-0000-7000-8000-000000000041"
_KEY = "0198c5a0-0000-7000-8000-000000000031"


class Change(BaseModel):
    """A field's value before and after."""

    before: Any = None
    after: Any = None


Changes = Annotated[dict[str, Change], PersonalData]


class PolicyMatch(BaseModel):
    """Which calls a policy is for; an empty list means all."""

    routes: list[str]
    classes: list[str]
    keys: list[UUID]
    users: list[UUID]


_POLICY: dict[str, Any] = {
    "name": "nightly-import", "description": "The import leaves room for people", "quota": 600, "unit": "requests",
    "window": "minute", "timezone": "UTC", "per": ["key"],
    "match": {"routes": ["POST /v1/contacts*"], "classes": [], "keys": [_KEY], "users": []}, "weighted": True,
    "mode": "exact", "on_failure": "share", "shadow": False, "enabled": True, "epoch": 1,
}  # fmt: skip
_OVERRIDE: dict[str, Any] = {
    "policy_id": _POLICY_ID, "policy_name": "nightly-import", "pattern": f"key:{_KEY}", "quota": 6000,
    "note": "While the old system is moved", "expires_at": "2026-03-31T00:00:00Z",
}  # fmt: skip


@event("limit_policy.created", entity="limit_policy", example=_POLICY)
class LimitPolicyCreated(Event):
    """A policy was made: ``quota`` of ``unit`` in a ``window``, counted by ``per``."""

    name: str
    description: PersonalText
    quota: int
    unit: str
    window: str | None
    timezone: str
    per: list[str]
    match: PolicyMatch
    weighted: bool
    mode: str
    on_failure: str
    shadow: bool
    enabled: bool
    epoch: int


@event(
    "limit_policy.updated",
    entity="limit_policy",
    example={"name": "nightly-import", "epoch": 1, "changes": {"quota": {"before": 600, "after": 900}}},
)
class LimitPolicyUpdated(Event):
    """Fields of a policy changed; another ``epoch`` than before means that it counts anew."""

    name: str
    epoch: int
    changes: Changes


@event("limit_policy.deleted", entity="limit_policy", example={"name": "nightly-import"})
class LimitPolicyDeleted(Event):
    """A policy was deleted, its overrides with it."""

    name: str


@event("limit_policy.reset", entity="limit_policy", example={"name": "nightly-import", "epoch": 2})
class LimitPolicyReset(Event):
    """What a policy had counted was forgotten: it counts anew."""

    name: str
    epoch: int


@event("limit_override.created", entity="limit_override", example=_OVERRIDE)
class LimitOverrideCreated(Event):
    """The subjects of a policy that fit a pattern have another quota."""

    policy_id: UUID
    policy_name: str
    pattern: str
    quota: int
    note: PersonalText
    expires_at: datetime | None


@event(
    "limit_override.updated",
    entity="limit_override",
    example={"policy_id": _POLICY_ID, "policy_name": "nightly-import", "pattern": f"key:{_KEY}",
             "changes": {"quota": {"before": 6000, "after": 3000}}},
)  # fmt: skip
class LimitOverrideUpdated(Event):
    """Fields of an override changed."""

    policy_id: UUID
    policy_name: str
    pattern: str
    changes: Changes


@event(
    "limit_override.deleted",
    entity="limit_override",
    example={"policy_id": _POLICY_ID, "policy_name": "nightly-import", "pattern": f"key:{_KEY}"},
)
class LimitOverrideDeleted(Event):
    """The subjects of a policy that fit a pattern have its own quota again."""

    policy_id: UUID
    policy_name: str
    pattern: str


class UsagePart(BaseModel):
    """Usage of one class or route."""

    model_config = ConfigDict(frozen=True)

    name: str
    calls: int
    refused: int
    cost: int
    shadow_refused: int


_NUMBERS = {"calls": 12, "refused": 2, "cost": 48, "shadow_refused": 0}


@event(
    "usage.recorded",
    entity="usage",
    example={"actor_type": "api_key", "actor_id": _KEY, "user_id": "0198c5a0-0000-7000-8000-000000000001",
             "minute": "2026-01-15T12:00:00Z", **_NUMBERS, "classes": [{"name": "write", **_NUMBERS}],
             "routes": [{"name": "POST /v1/contacts", **_NUMBERS}]},
)  # fmt: skip
class UsageRecorded(Event):
    """What an API key, or a user in sessions, called in one minute, once that is over.

    The subject stands for the actor and the minute. What was reported late is in a second event of the same subject,
    with the new totals and a higher sequence: keep the one with the highest. ``routes`` are those with most calls;
    ``cost`` is of the admitted calls, in units of weighted limits. An actor of the type ``merged`` stands for several.
    """

    actor_type: str
    actor_id: str | None
    user_id: str | None
    minute: datetime
    calls: int
    refused: int
    cost: int
    shadow_refused: int
    classes: list[UsagePart]
    routes: list[UsagePart]
