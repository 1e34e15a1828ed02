"""What is in effect, and what is counted just now."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Integer, Text, TextClause, Uuid, bindparam, column, func, select, text

from services.ratelimit.policies.domain import policy_of
from shared.db import Record, Session
from shared.limits.policies import Override, Policy

_COLUMNS = (
    "id", "name", "quota", "unit", "window", "timezone", "per", "routes", "classes", "keys", "users", "weighted",
    "mode", "on_failure", "shadow", "epoch", "version", "plan", "overrides",
)  # fmt: skip
_RESOLVED = (
    func.ratelimit.resolve_limits(bindparam("organization_id", type_=Uuid), bindparam("default_plan", type_=Text))
    .table_valued(*[column(name) for name in _COLUMNS], name="resolved")
    .render_derived()
)
_EFFECTIVE = select(_RESOLVED)

# A policy without a counter has one row, whose subject is ''. Each policy's counters are found through their primary
# key, in its order, and no more of them than the page can hold.
_COUNTED = """
WITH policy AS (
  SELECT p.place, p.id, p.epoch, w.starts, w.ends
  FROM unnest(:places, :ids, :epochs, :periods, :zones) AS p (place, id, epoch, period, zone)
  LEFT JOIN LATERAL ratelimit.window_of(p.period, p.zone, clock_timestamp()) w ON p.period IS NOT NULL
)
SELECT policy.place, policy.id, coalesce(found.subject, '') AS subject, coalesce(found.used, 0)::bigint AS used,
  CASE WHEN policy.starts IS NOT NULL THEN coalesce(found.admitted, 0) END AS admitted,
  policy.starts AS window_start, policy.ends AS resets_at
FROM policy LEFT JOIN LATERAL (
  (SELECT c.subject, c.used, c.admitted FROM ratelimit.api_rate_limits c
   WHERE c.organization_id = :organization_id AND c.policy_id = policy.id AND c.epoch = policy.epoch
     AND c.window_start = policy.starts {chosen}
     AND (policy.place <> :after_place OR c.subject > :after_subject)
   ORDER BY c.subject LIMIT :limit)
  UNION ALL
  (SELECT c.subject, sum(c.slots), NULL FROM ratelimit.concurrency_slots c
   WHERE policy.starts IS NULL AND c.organization_id = :organization_id AND c.policy_id = policy.id
     AND c.epoch = policy.epoch AND c.expires_at > clock_timestamp() {chosen}
     AND (policy.place <> :after_place OR c.subject > :after_subject)
   GROUP BY c.subject HAVING sum(c.slots) > 0 ORDER BY c.subject LIMIT :limit)
) found ON true
WHERE (policy.place COLLATE "C", coalesce(found.subject, '')) > (:after_place, :after_subject)
ORDER BY policy.place COLLATE "C", coalesce(found.subject, '') LIMIT :limit
"""
_TYPES = [
    bindparam("organization_id", type_=Uuid),
    bindparam("places", type_=ARRAY(Text)),
    bindparam("ids", type_=ARRAY(Uuid)),
    bindparam("epochs", type_=ARRAY(Integer)),
    bindparam("periods", type_=ARRAY(Text)),
    bindparam("zones", type_=ARRAY(Text)),
    bindparam("after_place", type_=Text),
    bindparam("after_subject", type_=Text),
    bindparam("limit", type_=Integer),
]


@lru_cache(maxsize=2)
def _counted(chosen: bool) -> TextClause:
    statement = text(_COUNTED.format(chosen="AND c.subject = :subject" if chosen else ""))
    return statement.bindparams(*_TYPES, *([bindparam("subject", type_=Text)] if chosen else []))


async def effective(session: Session, organization_id: UUID, default_plan: str) -> list[Policy]:
    """The policies in effect, exactly as whoever enforces them sees them."""
    rows = await session.fetch(_EFFECTIVE, organization_id=organization_id, default_plan=default_plan)
    return [
        policy_of(row, organization_id, [Override(each["pattern"], each["quota"]) for each in row["overrides"]])
        for row in rows
    ]


async def counted(
    session: Session,
    organization_id: UUID,
    policies: Sequence[tuple[str, Policy]],
    subject: str | None,
    after: tuple[str, str],
    limit: int,
) -> list[Record]:
    """What was counted in the present windows of policies, each with its place, by place and subject.

    A policy under which nothing was counted has one row with the subject ''.
    """
    params: dict[str, Any] = {
        "organization_id": organization_id,
        "places": [place for place, _ in policies],
        "ids": [policy.id for _, policy in policies],
        "epochs": [policy.epoch for _, policy in policies],
        "periods": [policy.window for _, policy in policies],
        "zones": [policy.timezone for _, policy in policies],
        "after_place": after[0],
        "after_subject": after[1],
        "limit": limit,
    }
    if subject is not None:
        params["subject"] = subject
    return await session.fetch(_counted(subject is not None), **params)
