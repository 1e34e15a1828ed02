"""Storage of usage: read by interval, by policy, and for the events that tell of it."""

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
    Select,
    Text,
    bindparam,
    case,
    cast,
    column,
    func,
    literal_column,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy import Interval as IntervalType

from services.ratelimit.models import usage_events, usage_minutes
from services.ratelimit.usage.domain import Grouping, Interval, Span
from shared.db import Record, Session
from shared.limits.policies import Policy

AT_ONCE = 500
"""Minutes of actors that one transaction publishes."""
ORGANIZATIONS_AT_ONCE = 100

_NUMBERS = ("calls", "refused", "cost", "shadow_refused")
_C = usage_minutes.c
_MINE = _C.organization_id == bindparam("organization_id")
_VALUES: dict[str, Any] = {
    "key": case((_C.actor_type == "api_key", _C.actor_id), else_=""),
    "user": func.coalesce(_C.user_id, ""),
    "route": _C.route,
    "class": _C["class"],
}
_NOW = select(func.clock_timestamp())
_DUE = text("SELECT organization_id FROM ratelimit.usage_due(:grace, :most)").bindparams(
    bindparam("grace", type_=IntervalType), bindparam("most", type_=Integer)
)
_ROLL = select(func.ratelimit.roll_usage())

_E = usage_events.c
_MY_EVENTS = _E.organization_id == bindparam("organization_id")
_ACTORS = ("minute", "actor_type", "actor_id")
_CLOSED = func.statement_timestamp() - timedelta(minutes=1) - bindparam("grace", type_=IntervalType)
_LOCK = (
    select(*[_E[name] for name in (*_ACTORS, "sequence")])
    .where(_MY_EVENTS, _E.dirty, _E.minute <= _CLOSED)
    .order_by(*[_E[name] for name in _ACTORS])
    .limit(bindparam("most", type_=Integer))
    .with_for_update(skip_locked=True)
)


def _wanted() -> Any:
    types: dict[str, Any] = {"minute": DateTime(timezone=True), "actor_type": Text(), "actor_id": Text()}
    arrays: list[Any] = [bindparam(f"{name}s", type_=ARRAY(kind)) for name, kind in types.items()]
    made: list[Any] = [column(name, kind) for name, kind in types.items()]
    return func.unnest(*arrays).table_valued(*made, name="wanted").render_derived()


_WANTED = _wanted()
_TOTALS = select(
    *[_C[name] for name in (*_ACTORS, "route", "class", "user_id", "calls", "refused", "cost", "shadow_refused")]
).where(
    _MINE,
    # Says the same as the third condition, and tells PostgreSQL which days it need not look at.
    _C.minute.between(bindparam("first", type_=_C.minute.type), bindparam("last", type_=_C.minute.type)),
    tuple_(*[_C[name] for name in _ACTORS]) == tuple_(*[_WANTED.c[name] for name in _ACTORS]),
)
_PUBLISHED = (
    update(usage_events)
    .where(_MY_EVENTS, tuple_(*[_E[name] for name in _ACTORS]) == tuple_(*[_WANTED.c[name] for name in _ACTORS]))
    .values(dirty=False, sequence=_E.sequence + 1)
)


async def now(session: Session) -> datetime:
    """The database's time, which minutes are told by."""
    moment: datetime = await session.fetch_value(_NOW)
    return moment


async def roll(session: Session) -> bool:
    """Make the days to come and drop those that are over; False when somebody was in the way."""
    done: bool = await session.fetch_value(_ROLL)
    return done


async def page(
    session: Session,
    organization_id: UUID,
    piece: Span,
    grouping: Grouping,
    interval: Interval,
    filters: Mapping[str, str],
    after: tuple[datetime, str] | None,
    limit: int,
) -> list[Record]:
    """``{start, value, calls, refused, cost, shadow_refused}`` by start and value; ``value`` is '' for none."""
    params: dict[str, Any] = {"organization_id": organization_id, "first": piece.start, "end": piece.end}
    if after is not None:
        params["after_start"], params["after_value"] = after
    statement = _page(grouping, interval, frozenset(filters), after is not None)
    return await session.fetch(statement, **params, **filters, limit=limit)


@lru_cache(maxsize=256)
def _page(grouping: Grouping, interval: Interval, filters: frozenset[str], after: bool) -> Select[Any]:
    start = func.date_trunc(literal_column(f"'{interval}'"), _C.minute, literal_column("'UTC'"))
    value = _VALUES[grouping]
    sums = [cast(func.sum(_C[name]), BigInteger).label(name) for name in _NUMBERS]
    statement = select(start.label("start"), value.label("value"), *sums).where(
        _MINE,
        _C.minute >= bindparam("first", type_=_C.minute.type),
        _C.minute < bindparam("end", type_=_C.minute.type),
        *[_VALUES[name] == bindparam(name, type_=Text()) for name in sorted(filters)],
    )
    if after:
        cursor = tuple_(bindparam("after_start", type_=_C.minute.type), bindparam("after_value", type_=Text()))
        statement = statement.having(tuple_(start, value) > cursor)
    return (
        statement.group_by(literal_column("1"), literal_column("2"))
        .order_by(literal_column("1"), literal_column("2"))
        .limit(bindparam("limit", type_=Integer))
    )


async def due(session: Session, grace: timedelta) -> list[UUID]:
    """Organisations with a minute that closed ``grace`` ago and is not published as it is, the longest waiting first."""
    rows = await session.fetch(_DUE, grace=grace, most=ORGANIZATIONS_AT_ONCE)
    return [row["organization_id"] for row in rows]


async def lock_dirty(session: Session, organization_id: UUID, grace: timedelta) -> list[Record]:
    """Closed minutes of actors that are to be published, held until the transaction ends: ``{…, sequence}``."""
    return await session.fetch(_LOCK, organization_id=organization_id, grace=grace, most=AT_ONCE)


async def totals(session: Session, organization_id: UUID, actors: Sequence[Record]) -> list[Record]:
    """Usage of minutes of actors, by route."""
    minutes = [each["minute"] for each in actors]
    return await session.fetch(
        _TOTALS, organization_id=organization_id, first=min(minutes), last=max(minutes), **_arrays(actors)
    )


async def published(session: Session, organization_id: UUID, actors: Sequence[Record]) -> None:
    """Held minutes of actors have been published, each with the next sequence."""
    await session.execute(_PUBLISHED, organization_id=organization_id, **_arrays(actors))


def _arrays(actors: Sequence[Record]) -> dict[str, list[Any]]:
    return {f"{name}s": [each[name] for each in actors] for name in _ACTORS}


_PARTS = {
    "key": "'key:' || CASE WHEN actor_type = 'api_key' THEN actor_id END",
    "user": "'user:' || user_id",
    "route": "'route:' || nullif(route, '*')",
    "class": "'class:' || nullif(class, 'merged')",
}
COUNTED = """organization_id = :organization_id AND minute >= :first AND minute < :end
    AND (cardinality(CAST(:routes AS text[])) = 0 OR route LIKE ANY (CAST(:routes AS text[])))
    AND (cardinality(CAST(:classes AS text[])) = 0 OR class = ANY (CAST(:classes AS text[])))
    AND (cardinality(CAST(:users AS text[])) = 0 OR user_id = ANY (CAST(:users AS text[])))
    AND (cardinality(CAST(:keys AS text[])) = 0
      OR (actor_type = 'api_key' AND actor_id = ANY (CAST(:keys AS text[]))))"""
"""The condition of usage that a policy is for; ``counted`` gives its parameters."""


def subject_sql(policy: Policy) -> str:
    """What usage is counted under by a policy, as an expression that is NULL where it is not counted."""
    return " || '|' || ".join(_PARTS[part] for part in policy.per if part != "organization") or "'organization'"


def counted(policy: Policy, organization_id: UUID, asked: Span) -> dict[str, Any]:
    """The parameters of ``COUNTED``."""
    return {
        "organization_id": organization_id,
        "first": asked.start,
        "end": asked.end,
        "routes": [like(each) for each in policy.routes],
        "classes": list(policy.classes),
        "users": list(policy.users),
        "keys": list(policy.keys),
    }


def like(pattern: str) -> str:
    """A pattern whose ``*`` is anything, for LIKE."""
    for special in "\\%_":
        pattern = pattern.replace(special, "\\" + special)
    return pattern.replace("*", "%")
