"""Storage of the audit log. There is no statement here that changes or removes an entry.

The organisation's predicate stands beside row-level security, and every condition is one that an index
can answer behind it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Date,
    Select,
    Text,
    bindparam,
    cast,
    column,
    func,
    literal_column,
    select,
    table,
    tuple_,
)
from sqlalchemy.dialects.postgresql import JSONB, insert

from services.audit.models import entries
from services.audit.search import prefix_query, words_of
from shared.db import Record, Session

RECENT_WINDOW = 2000
"""How many of the newest entries a search looks through before it asks the full-text index."""

Position = tuple[datetime, int, UUID]
"""Where an entry stands in the log: its time, its target's version, its id."""

SHOWN = tuple(each.name for each in entries.c if each.name not in ("organization_id", "search"))
_VIEW = table("audit_logs_enhanced_search", *[column(each.name, each.type) for each in entries.c], schema="audit")
_SIMPLE: Any = literal_column("'simple'")
_MINE = entries.c.organization_id == bindparam("organization_id")


def _rows() -> Any:
    """The arrays of a batch as rows. JSON travels as text: asyncpg has no arrays of custom codecs."""
    arrays, made = [], []
    for each in (entries.c[name] for name in SHOWN):
        travels = Text() if isinstance(each.type, JSONB) else each.type
        arrays.append(bindparam(each.name, type_=ARRAY(travels)))
        made.append(column(each.name, travels))
    arrays.append(bindparam("words", type_=ARRAY(Text())))
    made.append(column("words", Text()))
    return func.unnest(*arrays).table_valued(*made, name="entry").render_derived()


def _insert() -> Any:
    rows = _rows()
    values = [cast(rows.c[name], JSONB) if isinstance(entries.c[name].type, JSONB) else rows.c[name] for name in SHOWN]
    organization = bindparam("organization_id", type_=entries.c.organization_id.type)
    found_by = func.to_tsvector(_SIMPLE, rows.c.words)
    return (
        insert(entries)
        .from_select(
            ["organization_id", *SHOWN, "search"], select(organization, *values, found_by), include_defaults=False
        )
        # A replay of events that the inbox has forgotten by now finds their entries here.
        .on_conflict_do_nothing()
    )


_INSERT = _insert()
_ENSURE_PARTITIONS = select(func.audit.ensure_partitions(bindparam("first", type_=Date), bindparam("last", type_=Date)))
_UNPARTITIONED = select(func.audit.unpartitioned_entries())
_ONE = select(*[entries.c[name] for name in SHOWN]).where(_MINE, entries.c.id == bindparam("entry_id"))


async def add(session: Session, organization_id: UUID, rows: Sequence[Mapping[str, Any]]) -> int:
    """Store entries of one organisation with one statement; how many were new."""
    arrays: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in SHOWN}
    for name in ("changes", "data"):
        arrays[name] = [None if value is None else orjson.dumps(value).decode() for value in arrays[name]]
    arrays["words"] = [words_of(row) for row in rows]
    return await session.execute(_INSERT, organization_id=organization_id, **arrays)


async def ensure_partitions(session: Session, first: date, last: date) -> int:
    """Make the partitions of the months from ``first`` to ``last`` that do not exist; how many were made."""
    made: int = await session.fetch_value(_ENSURE_PARTITIONS, first=first, last=last)
    return made


async def unpartitioned(session: Session) -> int:
    """How many entries lie in the DEFAULT partition, of all organisations together."""
    count: int = await session.fetch_value(_UNPARTITIONED)
    return count


async def get(session: Session, organization_id: UUID, entry_id: UUID) -> Record | None:
    """One entry."""
    return await session.fetch_one(_ONE, organization_id=organization_id, entry_id=entry_id)


@dataclass(frozen=True)
class Shape:
    """What makes one list statement different from another."""

    filters: frozenset[str]
    after: bool
    source: str
    """``table``; ``recent`` and ``index`` are the two ways to search."""


async def page(
    session: Session, organization_id: UUID, filters: Mapping[str, Any], after: Position | None, limit: int
) -> list[Record]:
    """Up to ``limit`` entries behind the position ``after``, newest first."""
    params = {**_parameters(filters), "organization_id": organization_id, "limit": limit}
    if after is not None:
        params["after_at"], params["after_sequence"], params["after_id"] = after
    names = frozenset(name for name in params if name in _CONDITIONS)
    if "q" not in names:
        return await session.fetch(_page_statement(Shape(names, after is not None, "table")), **params)
    recent = Shape(names, after is not None, "recent")
    found = await session.fetch(_page_statement(recent), **params, window=RECENT_WINDOW)
    if len(found) >= limit:
        return found
    return await session.fetch(_page_statement(Shape(names, after is not None, "index")), **params)


def _parameters(filters: Mapping[str, Any]) -> dict[str, Any]:
    params = dict(filters)
    action: str | None = params.get("action")
    if action is not None and action.endswith(".*"):
        del params["action"]
        stem = action.removesuffix(".*")
        params["action_from"], params["action_below"] = f"{stem}.", f"{stem}/"  # '/' follows '.' in ASCII
    if "q" in params:
        params["q"] = prefix_query(params["q"])
    return params


_CONDITIONS: Mapping[str, tuple[str, str]] = {
    "action": ("action", "="),
    "action_from": ("action", ">="),
    "action_below": ("action", "<"),
    "actor_type": ("actor_type", "="),
    "actor_id": ("actor_id", "="),
    "target_type": ("target_type", "="),
    "target_id": ("target_id", "="),
    "risk_level": ("risk_level", "="),
    "occurred_after": ("occurred_at", ">="),
    "occurred_before": ("occurred_at", "<"),
    "q": ("search", "@@"),
}
"""Each condition's column and operator, by the name of its parameter."""


@lru_cache(maxsize=512)
def _page_statement(shape: Shape) -> Select[Any]:
    columns: Any = entries.c if shape.source == "table" else _VIEW.c
    scope = [columns.organization_id == bindparam("organization_id", type_=columns.organization_id.type)]
    if shape.after:
        scope.append(_behind_cursor(columns))
    times = [name for name in sorted(shape.filters) if _CONDITIONS[name][0] == "occurred_at"]
    others = sorted(shape.filters.difference(times))
    scope += [_condition(columns, name) for name in times]
    if shape.source == "recent":
        newest = select(_VIEW).where(*scope).order_by(*_order(columns)).limit(bindparam("window")).subquery()
        chosen = select(*_shown(newest.c)).where(*[_condition(newest.c, name) for name in others])
        return chosen.order_by(*_order(newest.c)).limit(bindparam("limit"))
    conditions = [_condition(columns, name) for name in others]
    if shape.source == "index":
        # Materialised: otherwise the planner walks the log's order, hoping for early matches.
        hits = select(_VIEW).where(*scope, *conditions).cte("hits").prefix_with("MATERIALIZED", dialect="postgresql")
        return select(*_shown(hits.c)).order_by(*_order(hits.c)).limit(bindparam("limit"))
    return select(*_shown(columns)).where(*scope, *conditions).order_by(*_order(columns)).limit(bindparam("limit"))


def _shown(columns: Any) -> list[ColumnElement[Any]]:
    return [columns[name] for name in SHOWN]


def _order(columns: Any) -> list[ColumnElement[Any]]:
    return [columns.occurred_at.desc(), columns.sequence.desc(), columns.id.desc()]


def _behind_cursor(columns: Any) -> ColumnElement[bool]:
    cursor = tuple_(
        bindparam("after_at", type_=columns.occurred_at.type),
        bindparam("after_sequence", type_=columns.sequence.type),
        bindparam("after_id", type_=columns.id.type),
    )
    return tuple_(columns.occurred_at, columns.sequence, columns.id) < cursor


def _condition(columns: Any, name: str) -> Any:
    target, operator = _CONDITIONS[name]
    value: Any = bindparam(name, type_=columns[target].type)
    if name == "q":
        value = func.to_tsquery(_SIMPLE, bindparam("q", type_=Text()))
    return columns[target].op(operator, is_comparison=True)(value)
