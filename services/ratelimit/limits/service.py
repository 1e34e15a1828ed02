"""Use cases of the limits in effect."""

from collections.abc import Mapping
from typing import Any

from services.ratelimit.limits import repository
from services.ratelimit.limits.schemas import LimitQuery
from services.ratelimit.overrides.domain import can_both_fit, subject_shape
from shared.auth import Principal
from shared.db import Session
from shared.errors import BadRequest
from shared.http.pagination import decode_cursor
from shared.limits.policies import Policy

SORT = "plan,name,subject"


async def page(session: Session, principal: Principal, default_plan: str, query: LimitQuery) -> list[dict[str, Any]]:
    """One row more than the page holds: a subject's present window under a policy, with its ``place`` in the list.

    The policies of the plan come first, then the organisation's own, each by name, and under each its subjects.
    """
    after = _position(query.cursor) if query.cursor else ("", "")
    organization_id = principal.organization_id
    found = await repository.effective(session, organization_id, default_plan)
    placed = {_place(policy): policy for policy in found if _is_asked_for(policy, query)}
    rest = [(place, policy) for place, policy in placed.items() if place >= after[0]]
    rows = await repository.counted(session, organization_id, rest, query.subject, after, query.limit + 1)
    return [_shown(placed[row["place"]], row, query.subject) for row in rows]


def _place(policy: Policy) -> str:
    return f"{'1' if policy.plan is None else '0'}{policy.name}"


def _is_asked_for(policy: Policy, query: LimitQuery) -> bool:
    if query.policy_id is not None and policy.id != query.policy_id:
        return False
    return query.subject is None or can_both_fit(query.subject.replace("*", "?"), subject_shape(policy.per))


def _position(cursor: str) -> tuple[str, str]:
    place, subject = decode_cursor(cursor, SORT, 2)
    if not (isinstance(place, str) and isinstance(subject, str)) or "\x00" in place + subject:
        raise BadRequest(
            "The cursor does not belong to this list; start again without one.",
            code="invalid_cursor",
            errors=[{"field": "cursor", "code": "invalid_cursor", "message": "not a cursor of this list"}],
        )
    return place, subject


def _shown(policy: Policy, row: Mapping[str, Any], asked: str | None) -> dict[str, Any]:
    subject = row["subject"] or asked or ("organization" if policy.per == ("organization",) else None)
    quota = policy.quota if subject is None else policy.quota_of(subject)
    return {
        "policy_id": policy.id,
        "policy": policy.name,
        "plan": policy.plan,
        "unit": policy.unit,
        "window": policy.window,
        "mode": policy.mode,
        "shadow": policy.shadow,
        "subject": subject,
        "quota": quota,
        "used": row["used"],
        "admitted": row["admitted"],
        "remaining": max(quota - row["used"], 0),
        "utilisation": round(row["used"] / quota, 4) if quota else 1.0,
        "window_start": row["window_start"],
        "resets_at": row["resets_at"],
        "place": row["place"],
        "counted": row["subject"],
    }
