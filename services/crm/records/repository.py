"""Storage of records: every statement is built once for each shape and carries the organisation.

The organisation's predicate stands beside row-level security because the planner prunes partitions by it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Select,
    Table,
    TableClause,
    Text,
    Update,
    Uuid,
    any_,
    bindparam,
    column,
    func,
    insert,
    literal_column,
    select,
    table,
    tuple_,
    update,
)

from shared.db import Record, Session

RECENT_WINDOW = 2000
"""How many of the newest rows a search looks through before it asks the full-text index.

A frequent word is among them and the answer costs a few milliseconds; a rare one is cheap in the index.
The planner cannot tell the two apart, because it has no statistics for the beginnings of words."""

_OPERATORS = {"after": ">=", "before": "<"}
_INDEXED_BY_SEARCH = {"q", "tag", "custom_field"}
_BETWEEN_WORDS = str.maketrans("@._-+/:", "       ")
Condition = Callable[[Any], ColumnElement[bool]]


@dataclass(frozen=True, eq=False)
class RecordTable:
    """A table of records and the columns an answer shows."""

    name: str
    table: Table
    shown: tuple[str, ...]
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    """Filters of this table alone: from its columns to a condition with a parameter of the filter's name."""

    @cached_property
    def view(self) -> TableClause:
        """The same rows, where full-text search has an index (see ``shared.db.ddl.search_view``)."""
        bare = [column(each.name, each.type) for each in self.table.c]
        return table(f"{self.table.name}_search", *bare, schema=self.table.schema)


@dataclass(frozen=True)
class Shape:
    """What makes one list statement different from another."""

    sort: str
    descending: bool
    filters: frozenset[str]
    after: bool
    deleted: bool
    source: str
    """``table``; ``recent`` and ``index`` are the two ways to search."""


async def insert_records(session: Session, records: RecordTable, rows: Sequence[Mapping[str, Any]]) -> None:
    """Store new records, all with the same fields."""
    statement = _insert_statement(records, tuple(rows[0]))
    if len(rows) == 1:
        await session.execute(statement, **rows[0])
    else:
        await session.execute_many(statement, rows)


@lru_cache(maxsize=64)
def _insert_statement(records: RecordTable, names: tuple[str, ...]) -> Any:
    return insert(records.table).values({name: bindparam(name) for name in names})


async def get_record(
    session: Session,
    records: RecordTable,
    organization_id: UUID,
    record_id: UUID,
    *,
    deleted: bool = False,
    lock: bool = False,
) -> Record | None:
    """One record, alive or (``deleted``) deleted; ``lock`` holds it until the transaction ends."""
    statement = _get_statement(records, deleted, lock)
    return await session.fetch_one(statement, organization_id=organization_id, id=record_id)


@lru_cache(maxsize=64)
def _get_statement(records: RecordTable, deleted: bool, lock: bool) -> Select[Any]:
    columns = records.table.c
    alive = columns.deleted_at.is_not(None) if deleted else columns.deleted_at.is_(None)
    statement = select(*[columns[name] for name in records.shown]).where(
        columns.organization_id == bindparam("organization_id"), columns.id == bindparam("id"), alive
    )
    return statement.with_for_update() if lock else statement


async def lock_records(
    session: Session, records: RecordTable, organization_id: UUID, record_ids: Collection[UUID]
) -> dict[UUID, Record]:
    """Those of the records that are alive, by id, held until the transaction ends; locked in the order of their ids."""
    rows = await session.fetch(_lock_statement(records), organization_id=organization_id, ids=list(record_ids))
    return {row["id"]: row for row in rows}


@lru_cache(maxsize=8)
def _lock_statement(records: RecordTable) -> Select[Any]:
    columns = records.table.c
    return (
        select(*[columns[name] for name in records.shown])
        .where(
            columns.organization_id == bindparam("organization_id"),
            columns.id == any_(bindparam("ids", type_=ARRAY(Uuid))),
            columns.deleted_at.is_(None),
        )
        .order_by(columns.id)
        .with_for_update()
    )


async def alive(session: Session, table: Table, organization_id: UUID, record_ids: Collection[UUID]) -> set[UUID]:
    """Those of the ids that a record has which is not deleted. A foreign key would also take a deleted one."""
    rows = await session.fetch(_alive_statement(table), organization_id=organization_id, ids=list(record_ids))
    return {row["id"] for row in rows}


@lru_cache(maxsize=8)
def _alive_statement(table: Table) -> Select[Any]:
    return select(table.c.id).where(
        table.c.organization_id == bindparam("organization_id"),
        table.c.id == any_(bindparam("ids", type_=ARRAY(Uuid))),
        table.c.deleted_at.is_(None),
    )


async def update_record(
    session: Session, records: RecordTable, organization_id: UUID, record_id: UUID, changed: Mapping[str, Any]
) -> Record:
    """Change a locked record and count its version up; the record afterwards."""
    statement = _update_statement(records, frozenset(changed))
    row = await session.fetch_one(statement, organization_id=organization_id, record_id=record_id, **changed)
    assert row is not None, "the caller holds the row's lock"
    return row


@lru_cache(maxsize=256)
def _update_statement(records: RecordTable, names: frozenset[str]) -> Update:
    columns = records.table.c
    return (
        update(records.table)
        .where(columns.organization_id == bindparam("organization_id"), columns.id == bindparam("record_id"))
        .values({name: bindparam(name) for name in sorted(names)} | {"version": columns.version + 1})
        .returning(*[columns[name] for name in records.shown])
    )


async def list_records(
    session: Session,
    records: RecordTable,
    organization_id: UUID,
    *,
    sort: str,
    filters: Mapping[str, Any],
    after: Sequence[Any] | None,
    deleted: bool,
    limit: int,
) -> list[Record]:
    """Up to ``limit`` records behind the cursor ``after``, in the order ``sort`` (``-`` for descending)."""
    params = {**_parameters(filters), "organization_id": organization_id, "limit": limit}
    if after is not None:
        params["after_value"], params["after_id"] = after
    key, descending, names = sort.lstrip("-"), sort.startswith("-"), frozenset(filters)
    if not names & _INDEXED_BY_SEARCH:
        shape = Shape(key, descending, names, after is not None, deleted, "table")
        return await session.fetch(_list_statement(records, shape), **params)
    shape = Shape(key, descending, names, after is not None, deleted, "recent")
    found = await session.fetch(_list_statement(records, shape), **params, window=RECENT_WINDOW)
    if len(found) >= limit:
        return found
    shape = Shape(key, descending, names, after is not None, deleted, "index")
    return await session.fetch(_list_statement(records, shape), **params)


def _parameters(filters: Mapping[str, Any]) -> dict[str, Any]:
    params = dict(filters)
    if "q" in params:
        params["q"] = prefix_query(params["q"])
    if "tag" in params:
        params["tag"] = [params["tag"]]
    if "custom_field" in params:
        params["custom_key"], _, params["custom_value"] = params.pop("custom_field").partition(":")
    return params


def words(text: str) -> list[str]:
    """The words of a search text, taken apart as the search documents are (see the migration).

    Addresses, domains and telephone numbers are found by any of their parts.
    """
    parts = text.translate(_BETWEEN_WORDS).split()
    return [part for part in parts if any(character.isalnum() for character in part)]


def prefix_query(text: str) -> str:
    """A tsquery in which every word must begin a word of the record (``simple`` configuration)."""
    quoted = [word.replace("'", "''").replace("\\", "\\\\") for word in words(text)]
    return " & ".join(f"'{word}':*" for word in quoted)


@lru_cache(maxsize=1024)
def _list_statement(records: RecordTable, shape: Shape) -> Select[Any]:
    source = records.table if shape.source == "table" else records.view
    columns = source.c
    scope = [columns.organization_id == bindparam("organization_id")]
    scope.append(columns.deleted_at.is_not(None) if shape.deleted else columns.deleted_at.is_(None))
    if shape.after:
        scope.append(_behind_cursor(columns, shape))
    conditions = [_condition(records, columns, name) for name in sorted(shape.filters)]
    if shape.source == "recent":
        window = select(source).where(*scope).order_by(*_order(columns, shape)).limit(bindparam("window")).subquery()
        matching = select(*_listed(window.c, records, shape)).where(
            *[_condition(records, window.c, name) for name in sorted(shape.filters)]
        )
        return matching.order_by(*_order(window.c, shape)).limit(bindparam("limit"))
    if shape.source == "index":
        # Materialised: otherwise the planner walks the sort order's index, hoping for early matches.
        hits = select(source).where(*scope, *conditions).cte("hits").prefix_with("MATERIALIZED", dialect="postgresql")
        return select(*_listed(hits.c, records, shape)).order_by(*_order(hits.c, shape)).limit(bindparam("limit"))
    chosen = select(*_listed(columns, records, shape)).where(*scope, *conditions)
    return chosen.order_by(*_order(columns, shape)).limit(bindparam("limit"))


def _listed(columns: Any, records: RecordTable, shape: Shape) -> list[ColumnElement[Any]]:
    # A cursor needs the value the list is sorted by, also where no answer shows it.
    names = records.shown if shape.sort in records.shown else (*records.shown, shape.sort)
    return [columns[name] for name in names]


def _order(columns: Any, shape: Shape) -> list[ColumnElement[Any]]:
    keys = [columns[shape.sort], columns.id]
    return [key.desc() for key in keys] if shape.descending else keys


def _behind_cursor(columns: Any, shape: Shape) -> ColumnElement[bool]:
    row = tuple_(columns[shape.sort], columns.id)
    cursor = tuple_(
        bindparam("after_value", type_=columns[shape.sort].type), bindparam("after_id", type_=columns.id.type)
    )
    return row < cursor if shape.descending else row > cursor


def _condition(records: RecordTable, columns: Any, name: str) -> Any:
    if name in records.conditions:
        return records.conditions[name](columns)
    if name == "q":
        return columns.search.op("@@", is_comparison=True)(func.to_tsquery(literal_column("'simple'"), bindparam("q")))
    if name == "tag":
        return columns.tags.contains(bindparam("tag", type_=columns.tags.type))
    if name == "custom_field":
        value = columns.custom_fields.op("->>", return_type=Text())(bindparam("custom_key", type_=Text()))
        return value == bindparam("custom_value", type_=Text())
    stem, _, bound = name.rpartition("_")
    if bound in _OPERATORS:
        moment = columns[f"{stem}_at"]
        return moment.op(_OPERATORS[bound], is_comparison=True)(bindparam(name, type_=moment.type))
    return columns[name] == bindparam(name, type_=columns[name].type)
