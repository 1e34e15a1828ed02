"""How an event becomes an entry of the audit log: pure rules."""

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from typing import Any, Literal

RiskLevel = Literal["low", "medium", "high", "critical"]

MONTHS_BACK = 10 * 12 - 3
MONTHS_AHEAD = 2
"""Months around the present that have partitions of their own (the database makes ten years at once at
most); an entry outside them goes to the DEFAULT partition, which is watched."""

_ACTOR_TYPES = {
    "app_user": "user",
    "api_key": "api_key",
    "service_account": "service",
    "system": "system",
    "unauthenticated": "anonymous",
}
_RISK_OF_TARGET: Mapping[str, RiskLevel] = {"api_key": "medium"}
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


def split(payload: Mapping[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The changed fields, where a payload has them in the usual form, and the rest of it."""
    changes = payload.get("changes")
    if not isinstance(changes, dict) or not all(isinstance(change, dict) for change in changes.values()):
        return None, dict(payload)
    return changes, {name: value for name, value in payload.items() if name != "changes"}


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
