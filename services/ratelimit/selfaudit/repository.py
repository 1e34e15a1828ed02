"""Windows that ended, of one organisation to be shown and of all to be added up."""

from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import Boolean, Integer, Interval, Select, bindparam, case, column, func, select, text, tuple_

from services.ratelimit.models import counters
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
    found = select(_C.organization_id, *[_C[name] for name in _SHOWN]).where(
        _C.organization_id == bindparam("organization_id"), _C.window_end <= func.statement_timestamp()
    )
    if one_policy:
        found = found.where(_C.policy_id == bindparam("policy_id"))
    if after:
        cursor = tuple_(*[bindparam(f"after_{name}", type_=_C[name].type) for name in ORDER])
        found = found.where(tuple_(*[_C[name] for name in ORDER]) < cursor)
    latest = [_C[name].desc() for name in ORDER]
    window = found.order_by(*latest).limit(bindparam("limit", type_=Integer)).subquery("ended").c
    policy = (
        func.ratelimit.policy_in_window(
            window.organization_id, window.policy_id, window.window_start, window.window_end
        )
        .table_valued("name", "mode", column("shadow", Boolean), name="policy")
        .lateral()
        .c
    )
    return select(
        *[window[name] for name in _SHOWN],
        policy.name.label("policy"),
        policy.mode,
        policy.shadow,
        func.greatest(window.used - window.admitted, 0).label("stranded"),
        case((policy.shadow, 0), else_=func.greatest(window.admitted - window.highest_quota, 0)).label("overshoot"),
    ).order_by(*[window[name].desc() for name in ORDER])
