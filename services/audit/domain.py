"""How an event becomes an entry of the audit log: pure rules."""

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

RiskLevel = Literal["low", "medium", "high", "critical"]

MONTHS_BACK = 10 * 12 - 3
MONTHS_AHEAD = 2
"""Months around the present that have partitions of their own (the database makes ten years at once at
most); an entry outside them goes to the DEFAULT partition, which is watched."""

_TYPES = {
    "activity": "created updated deleted restored",
    "api_key": "created updated rotated revoked",
    "company": "created updated deleted restored",
    "contact": "created updated deleted restored",
    "custom_field": "created updated deleted",
    "deal": "created updated deleted restored stage_changed",
    "invitation": "created accepted revoked",
    "limit_override": "created updated deleted",
    "limit_policy": "created updated deleted reset",
    "member": "added removed role_changed",
    "organization": "created updated",
    "pipeline": "created updated deleted",
    "signing_key": "created rotated revoked",
    "usage": "recorded",
    "user": "signed_up updated email_verified password_changed signed_in signed_out sign_in_failed",
}
UNDERSTOOD: Mapping[str, int] = {f"{target}.{verb}": 1 for target, verbs in _TYPES.items() for verb in verbs.split()}
"""The newest schema version that is understood of each type of event."""

NOBODYS = frozenset({"usage.recorded"})
"""Events that tell of no act: they are no entries."""

_ACTOR_TYPES = {
    "app_user": "user",
    "api_key": "api_key",
    "service_account": "service",
    "system": "system",
    "unauthenticated": "anonymous",
}
_RISK_OF_TARGET: Mapping[str, RiskLevel] = {
    "api_key": "medium",
    "limit_override": "medium",
    "limit_policy": "medium",
    "signing_key": "medium",
}
_RISK_OF_VERB: Mapping[str, RiskLevel] = {
    "deleted": "medium",
    "removed": "medium",
    "role_changed": "medium",
    "sign_in_failed": "medium",
    "password_changed": "medium",
}


def risk_of(action: str) -> RiskLevel:
    """How closely an action deserves to be looked at, by what it did and to what."""
    target, _, verb = action.partition(".")
    return _RISK_OF_VERB.get(verb) or _RISK_OF_TARGET.get(target) or "low"


def actor_type_of(authtype: str | None) -> str:
    """The kind of actor behind an event's ``authtype``; a kind we do not know keeps its name."""
    return _ACTOR_TYPES.get(authtype or "system") or str(authtype)


class Payload(BaseModel):
    """What the log reads of an event's data, whatever its type; anything else is kept as it is."""

    model_config = ConfigDict(extra="allow", frozen=True)

    changes: dict[str, dict[str, Any]] | None = None


def split(data: Mapping[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The changed fields, where an event has them in the usual form, and the rest of its data."""
    try:
        payload = Payload.model_validate(data)
    except ValidationError:
        return None, dict(data)
    return (None, dict(data)) if payload.changes is None else (payload.changes, payload.model_extra or {})


def month_of(moment: datetime) -> date:
    """The first day of a moment's month."""
    moment = moment.astimezone(UTC)
    return date(moment.year, moment.month, 1)


def month_after(month: date, count: int) -> date:
    """The month ``count`` months later (or earlier)."""
    months = month.year * 12 + month.month - 1 + count
    return date(months // 12, months % 12 + 1, 1)


def missing_months(moments: Iterable[datetime], known: Iterable[date], now: datetime) -> tuple[date, date] | None:
    """The first and last month that entries at ``moments`` need and ``known`` lacks; None when there are all."""
    present = month_of(now)
    earliest, latest = month_after(present, -MONTHS_BACK), month_after(present, MONTHS_AHEAD)
    needed = {month for month in map(month_of, moments) if earliest <= month <= latest} - set(known)
    return (min(needed), max(needed)) if needed else None


def months_between(first: date, last: date) -> list[date]:
    """Every month from ``first`` to ``last``."""
    count = (last.year - first.year) * 12 + last.month - first.month
    return [month_after(first, step) for step in range(count + 1)]
