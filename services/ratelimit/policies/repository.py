"""Storage of policies, those of the plan beside an organisation's own, and of their history."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    DateTime,
    Integer,
    Interval,
    Select,
    Text,
    Uuid,
    any_,
    bindparam,
    cast,
    column,
    delete,
    exists,
    func,
    literal_column,
    null,
    or_,
    select,
    table,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from services.ratelimit.models import (
    counters,
    organization_plans,
    overrides,
    plan_policies,
    policies,
    policy_changes,
)
from services.ratelimit.policies.domain import MATCH_FIELDS
from shared.db import Record, Session
from shared.limits.policies import Policy

PURGED_AT_ONCE = 10_000
"""Counters that one call of the purge removes at most."""
_KEPT = timedelta(days=1)

FIELDS = (
    "name", "description", "quota", "unit", "window", "timezone", "per", *MATCH_FIELDS, "weighted", "mode",
    "on_failure", "shadow", "enabled",
)  # fmt: skip
"""What a policy is made of, in the order of its columns."""
_KEPT_FIELDS = ("id", *FIELDS, "epoch", "version", "created_at", "updated_at")
_CHANGE_FIELDS = tuple(each.name for each in policy_changes.c if each.name != "organization_id")

_MINE = policies.c.organization_id == bindparam("organization_id")
_ONE = policies.c.id == bindparam("policy_id")
_ORGANIZATION: Any = bindparam("organization_id", type_=Uuid)
THEIR_PLAN = func.coalesce(
    select(organization_plans.c.plan).where(organization_plans.c.organization_id == _ORGANIZATION).scalar_subquery(),
    bindparam("default_plan", type_=Text),
)
"""The plan of the organisation ``organization_id``, or else ``default_plan``."""

OF_PLANS = (
    *[plan_policies.c[name] for name in ("id", *FIELDS, "epoch")],
    cast(1, BigInteger).label("version"),
    cast(null(), DateTime(timezone=True)).label("created_at"),
    cast(null(), DateTime(timezone=True)).label("updated_at"),
    plan_policies.c.plan,
)
"""A plan's policy with the columns of an organisation's own."""

_PLANS = select(
    *OF_PLANS,
    (literal_column("'0'") + plan_policies.c.name).label("position"),
).where(plan_policies.c.plan == THEIR_PLAN)
_OWN = select(
    *[policies.c[name] for name in _KEPT_FIELDS],
    cast(null(), Text).label("plan"),
    (literal_column("'1'") + policies.c.name).label("position"),
).where(_MINE)
_ALL = union_all(_PLANS, _OWN).subquery("every")
_GET = select(_ALL).where(_ALL.c.id == bindparam("policy_id"))
_HOLD = select(func.pg_advisory_xact_lock(func.hashtextextended(bindparam("name", type_=Text), 0)))
_IS_ZONE = select(exists().where(column("name") == bindparam("timezone")).select_from(table("pg_timezone_names")))
_COUNT = select(func.count()).select_from(policies).where(_MINE)
_TAKEN = select(
    or_(
        exists().where(_MINE, policies.c.name == bindparam("name"), policies.c.id != bindparam("policy_id")),
        exists().where(plan_policies.c.plan == THEIR_PLAN, plan_policies.c.name == bindparam("name")),
    )
)
_INSERT = insert(policies).values({name: bindparam(name) for name in ("organization_id", *_KEPT_FIELDS)})
_DELETE = delete(policies).where(_MINE, _ONE)
_DELETE_OVERRIDES = delete(overrides).where(
    overrides.c.organization_id == bindparam("organization_id"), overrides.c.policy_id == bindparam("policy_id")
)
_INSERT_CHANGE = insert(policy_changes).values({name: bindparam(name) for name in ("organization_id", *_CHANGE_FIELDS)})
_CHANGES = select(*[policy_changes.c[name] for name in _CHANGE_FIELDS]).where(
    policy_changes.c.organization_id == bindparam("organization_id"),
    policy_changes.c.policy_id == bindparam("policy_id"),
)
_PRESENT = (
    func.ratelimit.window_of(bindparam("window", type_=Text), bindparam("timezone", type_=Text), func.clock_timestamp())
    .table_valued(column("starts", DateTime(timezone=True)), name="present")
    .render_derived()
)
_USED = select(counters.c.subject, counters.c.used).where(
    counters.c.organization_id == bindparam("organization_id"),
    counters.c.policy_id == bindparam("policy_id"),
    counters.c.epoch == bindparam("epoch", type_=Integer),
    counters.c.subject == any_(bindparam("subjects", type_=ARRAY(Text))),
    counters.c.window_start == _PRESENT.c.starts,
)
_PURGE = select(func.ratelimit.purge_counters(bindparam("kept", type_=Interval)))


async def hold(session: Session, organization_id: UUID) -> None:
    """Wait for whoever changes this organisation's limits, and be the only one until the transaction ends."""
    await session.fetch_value(_HOLD, name=f"limits:{organization_id}")


async def get(session: Session, organization_id: UUID, policy_id: UUID, default_plan: str) -> Record | None:
    """A policy of the organisation or of its plan."""
    return await session.fetch_one(
        _GET, organization_id=organization_id, policy_id=policy_id, default_plan=default_plan
    )


async def page(
    session: Session, organization_id: UUID, default_plan: str, after: tuple[str, UUID] | None, limit: int
) -> list[Record]:
    """Policies by ``position``: those of the plan, then the organisation's own, each by name."""
    params: dict[str, Any] = {"organization_id": organization_id, "default_plan": default_plan, "limit": limit}
    if after is not None:
        params["after_position"], params["after_id"] = after
    return await session.fetch(_page(after is not None), **params)


@lru_cache(maxsize=2)
def _page(after: bool) -> Select[Any]:
    statement = select(_ALL)
    if after:
        cursor = tuple_(bindparam("after_position", type_=Text), bindparam("after_id", type_=Uuid))
        statement = statement.where(tuple_(_ALL.c.position, _ALL.c.id) > cursor)
    return statement.order_by(_ALL.c.position, _ALL.c.id).limit(bindparam("limit"))


async def is_timezone(session: Session, name: str) -> bool:
    """Whether the database knows a time zone: it is the one that finds the windows."""
    known: bool = await session.fetch_value(_IS_ZONE, timezone=name)
    return known


async def is_taken(session: Session, organization_id: UUID, name: str, policy_id: UUID, default_plan: str) -> bool:
    """Whether a policy of the organisation, other than ``policy_id``, or one of its plan has this name."""
    taken: bool = await session.fetch_value(
        _TAKEN, organization_id=organization_id, name=name, policy_id=policy_id, default_plan=default_plan
    )
    return taken


async def count(session: Session, organization_id: UUID) -> int:
    """How many policies the organisation has of its own."""
    found: int = await session.fetch_value(_COUNT, organization_id=organization_id)
    return found


async def add(session: Session, row: Mapping[str, Any]) -> None:
    """Store a policy."""
    await session.execute(_INSERT, **row)


async def change(session: Session, organization_id: UUID, policy_id: UUID, changed: Mapping[str, Any]) -> None:
    """Change a policy and count its version up."""
    await session.execute(_update(frozenset(changed)), organization_id=organization_id, policy_id=policy_id, **changed)


@lru_cache(maxsize=256)
def _update(names: frozenset[str]) -> Any:
    values: dict[str, Any] = {name: bindparam(name) for name in sorted(names)}
    return update(policies).where(_MINE, _ONE).values(values | {"version": policies.c.version + 1})


async def remove(session: Session, organization_id: UUID, policy_id: UUID) -> None:
    """Delete a policy and its overrides."""
    await session.execute(_DELETE_OVERRIDES, organization_id=organization_id, policy_id=policy_id)
    await session.execute(_DELETE, organization_id=organization_id, policy_id=policy_id)


async def add_change(session: Session, row: Mapping[str, Any]) -> None:
    """Write a change into the history."""
    await session.execute(_INSERT_CHANGE, **row)


async def history(
    session: Session, organization_id: UUID, policy_id: UUID, after: tuple[datetime, UUID] | None, limit: int
) -> list[Record]:
    """Changes of a policy and of its overrides, newest first."""
    params: dict[str, Any] = {"organization_id": organization_id, "policy_id": policy_id, "limit": limit}
    if after is not None:
        params["after_at"], params["after_id"] = after
    return await session.fetch(_history(after is not None), **params)


@lru_cache(maxsize=2)
def _history(after: bool) -> Select[Any]:
    at, identifier = policy_changes.c.occurred_at, policy_changes.c.id
    statement = _CHANGES
    if after:
        cursor = tuple_(bindparam("after_at", type_=at.type), bindparam("after_id", type_=identifier.type))
        statement = statement.where(tuple_(at, identifier) < cursor)
    return statement.order_by(at.desc(), identifier.desc()).limit(bindparam("limit"))


async def used(session: Session, policy: Policy, subjects: Sequence[str]) -> dict[str, int]:
    """What was debited in the present window of a policy, by subject."""
    rows = await session.fetch(
        _USED,
        organization_id=policy.organization_id,
        policy_id=policy.id,
        epoch=policy.epoch,
        subjects=list(subjects),
        window=policy.window,
        timezone=policy.timezone,
    )
    return {row["subject"]: row["used"] for row in rows}


async def purge_counters(session: Session) -> int:
    """Remove a batch of counters of windows that are long over, of every organisation; how many there were."""
    gone: int = await session.fetch_value(_PURGE, kept=_KEPT)
    return gone
