"""Storage of pipelines and their stages."""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Select, Uuid, any_, bindparam, delete, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert

from services.crm.models import deals, pipelines, stages
from services.crm.pipelines.schemas import Stage
from shared.db import Record, Session, columns

_PIPELINE_FIELDS = ("id", "name", "is_default", "version", "created_at", "updated_at")
_COLUMNS = columns(pipelines, _PIPELINE_FIELDS)
_STAGE_COLUMNS = [*columns(stages, Stage), stages.c.pipeline_id]
_MINE = pipelines.c.organization_id == bindparam("organization_id")
_MY_STAGES = stages.c.organization_id == bindparam("organization_id")
_IDS = any_(bindparam("ids", type_=ARRAY(Uuid)))

_GET = select(*_COLUMNS).where(_MINE, pipelines.c.id == bindparam("pipeline_id"))
_LOCK = _GET.with_for_update()
_LOCK_DEFAULT = select(*_COLUMNS).where(_MINE, pipelines.c.is_default).with_for_update()
_STAGES = select(*_STAGE_COLUMNS).where(_MY_STAGES, stages.c.pipeline_id == _IDS).order_by(stages.c.position)
_LOCK_STAGES = _STAGES.with_for_update()
_DELETE = delete(pipelines).where(_MINE, pipelines.c.id == bindparam("pipeline_id"))
_DELETE_STAGES = delete(stages).where(_MY_STAGES, stages.c.id == _IDS)
_USED = (
    select(deals.c.stage_id).distinct().where(
        deals.c.organization_id == bindparam("organization_id"), deals.c.stage_id == _IDS
    )
)  # fmt: skip

# Shared locks: a deal that enters a stage waits for a change of the stage, and a change for the deal.
_ENTERED = select(*_STAGE_COLUMNS).where(_MY_STAGES).with_for_update(read=True, of=stages)
_STAGE = _ENTERED.where(stages.c.id == bindparam("stage_id"))
_FIRST_OPEN = _ENTERED.where(stages.c.kind == "open").order_by(stages.c.position).limit(1)
_FIRST_OF_PIPELINE = _FIRST_OPEN.where(stages.c.pipeline_id == bindparam("pipeline_id"))
_FIRST_OF_DEFAULT = _FIRST_OPEN.join(
    pipelines, (pipelines.c.organization_id == stages.c.organization_id) & (pipelines.c.id == stages.c.pipeline_id)
).where(_MINE, pipelines.c.is_default)

_INSERT = insert(pipelines).values({name: bindparam(name) for name in ("organization_id", *_PIPELINE_FIELDS)})
_INSERT_AS_DEFAULT = _INSERT.on_conflict_do_nothing(
    index_elements=[pipelines.c.organization_id], index_where=pipelines.c.is_default
)
_STAGE_VALUES = ("name", "position", "probability", "kind")
_INSERT_STAGE = insert(stages).values(
    {name: bindparam(name) for name in ("organization_id", "id", "pipeline_id", *_STAGE_VALUES)}
)
_PUT_STAGE = _INSERT_STAGE.on_conflict_do_update(
    index_elements=[stages.c.organization_id, stages.c.id],
    set_={name: _INSERT_STAGE.excluded[name] for name in _STAGE_VALUES},
)


async def add_default(session: Session, row: Mapping[str, Any]) -> bool:
    """Store a pipeline as the organisation's default; False, with nothing stored, where there is one.

    Waits for a transaction that is making one just now.
    """
    return await session.execute(_INSERT_AS_DEFAULT, **row) == 1


async def add(session: Session, row: Mapping[str, Any]) -> None:
    """Store a pipeline."""
    await session.execute(_INSERT, **row)


async def put_stages(
    session: Session, organization_id: UUID, pipeline_id: UUID, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Store stages, new ones and changed ones."""
    keys = {"organization_id": organization_id, "pipeline_id": pipeline_id}
    await session.execute_many(_PUT_STAGE, [{**row, **keys} for row in rows])


async def remove_stages(session: Session, organization_id: UUID, stage_ids: Collection[UUID]) -> None:
    """Delete stages that no deal is in."""
    await session.execute(_DELETE_STAGES, organization_id=organization_id, ids=list(stage_ids))


async def get(session: Session, organization_id: UUID, pipeline_id: UUID, *, lock: bool) -> dict[str, Any] | None:
    """A pipeline with its stages; ``lock`` holds all of it until the transaction ends."""
    row = await session.fetch_one(_LOCK if lock else _GET, organization_id=organization_id, pipeline_id=pipeline_id)
    if row is None:
        return None
    (pipeline,) = await _with_stages(session, organization_id, [row], lock=lock)
    return pipeline


async def lock_default(session: Session, organization_id: UUID) -> dict[str, Any] | None:
    """The default pipeline with its stages, held until the transaction ends."""
    row = await session.fetch_one(_LOCK_DEFAULT, organization_id=organization_id)
    if row is None:
        return None
    (pipeline,) = await _with_stages(session, organization_id, [row], lock=True)
    return pipeline


async def _with_stages(
    session: Session, organization_id: UUID, rows: Sequence[Record], *, lock: bool = False
) -> list[dict[str, Any]]:
    found = await session.fetch(
        _LOCK_STAGES if lock else _STAGES, organization_id=organization_id, ids=[row["id"] for row in rows]
    )
    by_pipeline: dict[UUID, list[dict[str, Any]]] = {row["id"]: [] for row in rows}
    for stage in found:
        shown = {name: stage[name] for name in Stage.model_fields}
        by_pipeline[stage["pipeline_id"]].append(shown)
    return [{**row, "stages": by_pipeline[row["id"]]} for row in rows]


async def change(session: Session, organization_id: UUID, pipeline_id: UUID, changed: Mapping[str, Any]) -> Record:
    """Change a locked pipeline's own fields and count its version up."""
    row = await session.fetch_one(
        _update(frozenset(changed)), organization_id=organization_id, pipeline_id=pipeline_id, **changed
    )
    assert row is not None, "the caller holds the row's lock"
    return row


@lru_cache(maxsize=16)
def _update(names: frozenset[str]) -> Any:
    values: dict[str, Any] = {name: bindparam(name) for name in sorted(names)}
    return (
        update(pipelines)
        .where(_MINE, pipelines.c.id == bindparam("pipeline_id"))
        .values(values | {"version": pipelines.c.version + 1})
        .returning(*_COLUMNS)
    )


async def remove(session: Session, organization_id: UUID, pipeline_id: UUID) -> None:
    """Delete a pipeline, its stages with it."""
    await session.execute(_DELETE, organization_id=organization_id, pipeline_id=pipeline_id)


async def stages_in_use(session: Session, organization_id: UUID, stage_ids: Collection[UUID]) -> set[UUID]:
    """Those of the stages that deals are in, deleted deals too: they can be restored."""
    rows = await session.fetch(_USED, organization_id=organization_id, ids=list(stage_ids))
    return {row["stage_id"] for row in rows}


async def enter_stage(session: Session, organization_id: UUID, stage_id: UUID) -> Record | None:
    """A stage that a deal is about to enter."""
    return await session.fetch_one(_STAGE, organization_id=organization_id, stage_id=stage_id)


async def enter_pipeline(session: Session, organization_id: UUID, pipeline_id: UUID | None) -> Record | None:
    """The first open stage of a pipeline, or of the default one, that a deal is about to enter."""
    if pipeline_id is None:
        return await session.fetch_one(_FIRST_OF_DEFAULT, organization_id=organization_id)
    return await session.fetch_one(_FIRST_OF_PIPELINE, organization_id=organization_id, pipeline_id=pipeline_id)


@lru_cache(maxsize=2)
def _page(after: bool) -> Select[Any]:
    statement = select(*_COLUMNS).where(_MINE)
    if after:
        cursor = tuple_(
            bindparam("after_at", type_=pipelines.c.created_at.type), bindparam("after_id", type_=pipelines.c.id.type)
        )
        statement = statement.where(tuple_(pipelines.c.created_at, pipelines.c.id) > cursor)
    return statement.order_by(pipelines.c.created_at, pipelines.c.id).limit(bindparam("limit"))


async def page(
    session: Session, organization_id: UUID, after: tuple[Any, UUID] | None, limit: int
) -> list[dict[str, Any]]:
    """Pipelines with their stages, in the order they were made."""
    params: dict[str, Any] = {"organization_id": organization_id, "limit": limit}
    if after:
        params["after_at"], params["after_id"] = after
    rows = await session.fetch(_page(after is not None), **params)
    return await _with_stages(session, organization_id, rows)
