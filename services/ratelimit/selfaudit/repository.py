"""Windows that ended, of one organisation to be shown and of all to be added up."""

from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import Integer, Interval, Select, and_, bindparam, func, select, text, tuple_

from services.ratelimit.models import counters, plan_policies, policies
from shared.db import Record, Session

Position = tuple[datetime, UUID, int, str]
"""Where a window stands in the list: its end, policy, epoch, subject."""

ORDER = ("window_end", "policy_id", "epoch", "subject")
_C = counters.c
_SHOWN = (
    "policy_id", "epoch", "subject", "window_start", "window_end", "quota", "highest_quota", "used", "admitted"
)  # fmt: skip
_ADD_UP = text("SELECT * FROM ratelimit.audit_counters(:grace)").bindparams(bindparam("grace", type_=Interval))


async def add_up(session: Session, grace: timedelta) -> list[Record]:
    """``{mode, windows, overshoot, stranded}`` of windows that ended ``grace`` ago and were not added up before."""
    return await session.fetch(_ADD_UP, grace=grace)


async def page(
    session: Session, organization_id: UUID, policy_id: UUID | None, after: Position | None, limit: int
) -> list[Record]:
    """Windows of an organisation that ended, the latest first."""
    params: dict[str, Any] = {"organization_id": organization_id, "limit": limit}
    if policy_id is not None:
        params["policy_id"] = policy_id
    if after is not None:
        params |= dict(zip((f"after_{name}" for name in ORDER), after, strict=True))
    return await session.fetch(_page(policy_id is not None, after is not None), **params)


@lru_cache(maxsize=4)
def _page(one_policy: bool, after: bool) -> Select[Any]:
    own = and_(policies.c.organization_id == _C.organization_id, policies.c.id == _C.policy_id)
    statement = (
        select(
            *[_C[name] for name in _SHOWN],
            func.coalesce(policies.c.name, plan_policies.c.name).label("policy"),
            func.coalesce(policies.c.mode, plan_policies.c.mode).label("mode"),
            func.greatest(_C.used - _C.admitted, 0).label("stranded"),
            func.greatest(_C.admitted - _C.highest_quota, 0).label("overshoot"),
        )
        .select_from(counters)
        .outerjoin(policies, own)
        .outerjoin(plan_policies, plan_policies.c.id == _C.policy_id)
        .where(_C.organization_id == bindparam("organization_id"), _C.window_end <= func.statement_timestamp())
    )
    if one_policy:
        statement = statement.where(_C.policy_id == bindparam("policy_id"))
    if after:
        cursor = tuple_(*[bindparam(f"after_{name}", type_=_C[name].type) for name in ORDER])
        statement = statement.where(tuple_(*_positions()) < cursor)
    return statement.order_by(*[each.desc() for each in _positions()]).limit(bindparam("limit", type_=Integer))


def _positions() -> list[Any]:
    return [_C[name] for name in ORDER]
