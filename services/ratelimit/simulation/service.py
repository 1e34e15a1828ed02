"""The use case of the simulation."""

from datetime import timedelta
from typing import Any

from services.ratelimit.policies import domain as policy_rules
from services.ratelimit.policies import repository as policies
from services.ratelimit.simulation import domain, repository
from services.ratelimit.simulation.schemas import LimitSimulationRequest
from services.ratelimit.usage import domain as usage_rules
from services.ratelimit.usage import repository as usage
from shared.auth import Principal
from shared.db import Record, Session
from shared.errors import FieldError, ValidationFailed
from shared.ids import NIL
from shared.limits.policies import Override, Policy

_LAST_DAY = timedelta(days=1)
_NUMBERS = ("quota", "calls", "cost", "refused", "refused_cost", "windows_hit", "peak")
_MOMENTS = ("first_refused_at", "last_refused_at")


async def simulate(session: Session, principal: Principal, body: LimitSimulationRequest) -> dict[str, Any]:
    """What the policy would have refused; raises ``ValidationFailed`` for one, or a span, that cannot be replayed."""
    policy = await _policy(session, principal, body)
    asked = usage_rules.span(body.begin, body.end, await usage.now(session), _LAST_DAY, prefix="/")
    width = domain.width_of(asked)
    rows = await repository.replay(session, principal.organization_id, policy, asked, width)
    (total,) = [row for row in rows if row["kind"] == "total"]
    buckets = sorted([row for row in rows if row["kind"] == "bucket"], key=lambda bucket: bucket["first_refused_at"])
    return {
        "start": asked.start,
        "end": asked.end,
        "totals": {
            **{name: total[name] for name in ("calls", "cost", "refused", "refused_cost")},
            "subjects": total["quota"],
            "refused_subjects": total["windows_hit"],
        },
        "subjects": [_subject(row) for row in rows if row["kind"] == "subject"],
        "series": [
            {"start": each["first_refused_at"], "calls": each["calls"], "refused": each["refused"]} for each in buckets
        ],
        "bucket_seconds": int(width.total_seconds()),
        "resolution": "minute",
        "estimate": domain.is_estimate(policy),
        "notes": domain.notes(policy),
    }


async def _policy(session: Session, principal: Principal, body: LimitSimulationRequest) -> Policy:
    values = body.policy.model_dump(exclude={"force"})
    row = {"id": NIL, **values, **values.pop("match")}
    errors = policy_rules.problems(row)
    if row["unit"] == "concurrent-requests":
        message = "usage does not tell which calls ran at the same time: only policies of requests can be simulated"
        errors.append(FieldError(field="/unit", code="cannot_be_simulated", message=message))
    if row["timezone"] != "UTC" and not await policies.is_timezone(session, row["timezone"]):
        message = "there is no such time zone; name one as in 'Europe/Berlin'"
        errors.append(FieldError(field="/timezone", code="unknown_timezone", message=message))
    if errors:
        found = [FieldError(**{**each, "field": f"/policy{each['field']}"}) for each in errors]
        raise ValidationFailed("See 'errors' for each offending field.", errors=found)
    overrides = [Override(each.pattern, each.quota) for each in body.overrides]
    return policy_rules.policy_of(row, principal.organization_id, overrides)


def _subject(row: Record) -> dict[str, Any]:
    parts = dict(part.split(":", 1) for part in row["subject"].split("|") if part.startswith(("key:", "user:")))
    return {
        "subject": row["subject"],
        "key": parts.get("key"),
        "user": parts.get("user"),
        **{name: row[name] for name in (*_NUMBERS, *_MOMENTS)},
        "suggested_quota": row["peak"],
    }
