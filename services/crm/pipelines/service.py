"""Use cases of pipelines."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from services.crm.events import PipelineCreated, PipelineDeleted, PipelineUpdated
from services.crm.pipelines import domain, repository
from services.crm.pipelines.schemas import PipelineChange, PipelineCreate, PipelineQuery
from shared import clock
from shared.auth import Principal
from shared.db import Record, Session
from shared.errors import Conflict, FieldError, NotFound, ValidationFailed
from shared.events import Event, publish
from shared.http.pagination import decode_moment_cursor
from shared.http.problems import unknown_reference
from shared.ids import new_id

SORT = "created_at"
Row = Mapping[str, Any]


async def create(session: Session, principal: Principal, body: PipelineCreate) -> Row:
    """Make a pipeline; the organisation's first one is its default."""
    values = body.model_dump()
    return await _create(session, principal, values["name"], values["stages"], is_default=body.is_default)


async def _create(session: Session, principal: Principal, name: str, stages: Any, *, is_default: bool) -> Row:
    row = _new_pipeline(principal, name)
    ordered = domain.numbered(stages)
    if is_default:
        await _dismiss_default(session, principal)
    if not await repository.add_default(session, row):
        row["is_default"] = is_default
        await repository.add(session, row)
    return await _created(session, principal, row, ordered)


def _new_pipeline(principal: Principal, name: str) -> dict[str, Any]:
    now = clock.now()
    return {
        "organization_id": principal.organization_id,
        "id": new_id(),
        "name": name,
        "is_default": True,
        "version": 1,
        "created_at": now,
        "updated_at": now,
    }


async def _created(session: Session, principal: Principal, row: Row, stages: list[dict[str, Any]]) -> Row:
    await repository.put_stages(session, principal.organization_id, row["id"], stages)
    shown = {name: value for name, value in row.items() if name != "organization_id"}
    pipeline = {**shown, "stages": [_shown_stage(stage) for stage in stages]}
    _emit(session, principal, PipelineCreated(**_content(pipeline)), pipeline)
    return pipeline


def _shown_stage(stage: Row) -> dict[str, Any]:
    return {name: stage[name] for name in ("id", "name", "kind", "probability")}


def _content(pipeline: Row) -> dict[str, Any]:
    return {name: pipeline[name] for name in ("name", "is_default", "stages")}


def _emit(session: Session, principal: Principal, event: Event, pipeline: Row) -> None:
    publish(session, event, subject=pipeline["id"], sequence=pipeline["version"], principal=principal)


async def _ensure_default(session: Session, principal: Principal) -> None:
    """Make the default pipeline unless there is one; of those who need it at once, one makes it."""
    row = _new_pipeline(principal, domain.DEFAULT_NAME)
    if await repository.add_default(session, row):
        await _created(session, principal, row, domain.numbered(domain.DEFAULT_STAGES))


async def _dismiss_default(session: Session, principal: Principal) -> None:
    """The default pipeline so far, if any, is one no more."""
    before = await repository.lock_default(session, principal.organization_id)
    if before is not None:
        await _write(session, principal, before, {"is_default": False})


async def get(session: Session, principal: Principal, pipeline_id: UUID, *, lock: bool = False) -> Row:
    """A pipeline, with ``lock`` held until the transaction ends; raises ``NotFound``."""
    pipeline = await repository.get(session, principal.organization_id, pipeline_id, lock=lock)
    if pipeline is None:
        raise NotFound("There is no pipeline with this id.")
    return pipeline


async def change(session: Session, principal: Principal, before: Row, body: PipelineChange) -> Row:
    """Change a locked pipeline; its stages are replaced as a whole, and those whose id is given stay the same stages."""
    wanted = body.model_dump(exclude_unset=True, exclude={"stages"})
    stages = None
    if "stages" in body.model_fields_set:
        stages = domain.numbered([stage.model_dump() for stage in body.stages], before["stages"])
        if [_shown_stage(stage) for stage in stages] == before["stages"]:
            stages = None
    changed = {name: value for name, value in wanted.items() if before[name] != value}
    if stages is None and not changed:
        return before
    if stages is not None:
        await _replace_stages(session, principal, before, stages)
        before = {**before, "stages": [_shown_stage(stage) for stage in stages]}
    if "is_default" in changed:
        await _dismiss_default(session, principal)
    return await _write(session, principal, before, changed)


async def _write(session: Session, principal: Principal, before: Row, changed: Row) -> Row:
    values = {**changed, "updated_at": clock.now()}
    row = await repository.change(session, principal.organization_id, before["id"], values)
    pipeline = {**row, "stages": before["stages"]}
    _emit(session, principal, PipelineUpdated(**_content(pipeline)), pipeline)
    return pipeline


async def _replace_stages(session: Session, principal: Principal, before: Row, stages: list[dict[str, Any]]) -> None:
    touched = domain.touched(before["stages"], stages)
    await _require_unused(session, principal, before, touched)
    kept = {stage["id"] for stage in stages}
    removed = [stage["id"] for stage in before["stages"] if stage["id"] not in kept]
    if removed:
        await repository.remove_stages(session, principal.organization_id, removed)
    await repository.put_stages(session, principal.organization_id, before["id"], stages)


async def _require_unused(session: Session, principal: Principal, pipeline: Row, stage_ids: set[UUID]) -> None:
    used = await repository.stages_in_use(session, principal.organization_id, stage_ids) if stage_ids else set()
    if used:
        names = ", ".join(stage["name"] for stage in pipeline["stages"] if stage["id"] in used)
        raise Conflict(
            f"There are deals in these stages: {names}. Move them to other stages first (deleted deals count).",
            code="stage_in_use",
        )


async def delete(session: Session, principal: Principal, before: Row) -> None:
    """Delete a locked pipeline that has no deals and is not the default one."""
    await _require_unused(session, principal, before, {stage["id"] for stage in before["stages"]})
    if before["is_default"]:
        raise Conflict("This is the default pipeline; make another one the default first.", code="default_pipeline")
    await repository.remove(session, principal.organization_id, before["id"])
    gone = {**before, "version": before["version"] + 1}
    _emit(session, principal, PipelineDeleted(name=before["name"]), gone)


async def stage_for(session: Session, principal: Principal, pipeline_id: UUID | None, stage_id: UUID | None) -> Record:
    """The stage a deal enters: the one named, else the first open one of the pipeline, else of the default pipeline.

    Held until the transaction ends. Raises ``ValidationFailed`` for what does not exist or does not fit.
    """
    organization_id = principal.organization_id
    if stage_id is not None:
        stage = await repository.enter_stage(session, organization_id, stage_id)
        if stage is None:
            raise unknown_reference(["/stage_id"])
        if pipeline_id is not None and stage["pipeline_id"] != pipeline_id:
            message = "is a stage of another pipeline"
            raise ValidationFailed(
                "The stage does not belong to the deal's pipeline; send pipeline_id with it to move to another one.",
                code="stage_not_in_pipeline",
                errors=[FieldError(field="/stage_id", code="stage_not_in_pipeline", message=message)],
            )
        return stage
    stage = await repository.enter_pipeline(session, organization_id, pipeline_id)
    if stage is None and pipeline_id is None:
        await _ensure_default(session, principal)
        stage = await repository.enter_pipeline(session, organization_id, None)
    if stage is None:
        raise unknown_reference(["/pipeline_id"])
    return stage


async def page(session: Session, principal: Principal, query: PipelineQuery) -> list[dict[str, Any]]:
    """One pipeline more than the page holds. Whoever looks for the first time finds the default one."""
    after = decode_moment_cursor(query.cursor, SORT) if query.cursor else None
    rows = await repository.page(session, principal.organization_id, after, query.limit + 1)
    if not rows and after is None:
        await _ensure_default(session, principal)
        rows = await repository.page(session, principal.organization_id, after, query.limit + 1)
    return rows
