"""Use cases of deals: those of every record, and the way through the stages."""

from collections.abc import Mapping, Sequence
from typing import Any

from services.crm.deals.domain import placed
from services.crm.deals.repository import DEALS
from services.crm.deals.schemas import DealBulkItem
from services.crm.events import DealCreated, DealDeleted, DealRestored, DealStageChanged, DealUpdated
from services.crm.models import companies, contacts
from services.crm.pipelines import service as pipelines
from services.crm.records import domain
from services.crm.records import service as records
from services.crm.records.resource import Resource
from shared import clock
from shared.auth import Principal
from shared.db import Record, Session
from shared.errors import Problem

DEAL = Resource(
    DEALS,
    created=DealCreated,
    updated=DealUpdated,
    deleted=DealDeleted,
    restored=DealRestored,
    references={"company_id": companies, "contact_id": contacts},
)
_PLACE = ("pipeline_id", "stage_id")


async def create(session: Session, principal: Principal, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Open a deal at its stage, or at the first open one."""
    return await records.create(session, principal, DEAL, await _with_place(session, principal, values))


async def create_many(
    session: Session, principal: Principal, inputs: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Open several deals, all or none."""
    rows = []
    for position, values in enumerate(inputs):
        try:
            rows.append(await _with_place(session, principal, values))
        except Problem as problem:
            raise domain.at_item(problem, position) from None
    return await records.create_many(session, principal, DEAL, rows)


async def _with_place(session: Session, principal: Principal, values: Mapping[str, Any]) -> dict[str, Any]:
    stage = await pipelines.stage_for(session, principal, values["pipeline_id"], values["stage_id"])
    return {**values, **placed(stage, clock.now())}


async def change(session: Session, principal: Principal, before: Record, wanted: Mapping[str, Any]) -> Record:
    """Change a locked deal. A move to another stage is a version and an event of its own, after the other fields'."""
    rest = {name: value for name, value in wanted.items() if name not in _PLACE}
    row = await records.change(session, principal, DEAL, before, rest)
    pipeline_id = wanted.get("pipeline_id", before["pipeline_id"])
    stage_id = wanted.get("stage_id")
    if stage_id is None and pipeline_id == before["pipeline_id"]:
        return row
    stage = await pipelines.stage_for(session, principal, pipeline_id, stage_id)
    if stage["id"] == before["stage_id"]:
        return row
    moved, _ = await records.apply(session, principal, DEAL, row, placed(stage, clock.now()))
    event = DealStageChanged(
        pipeline_id=moved["pipeline_id"],
        from_pipeline_id=before["pipeline_id"],
        from_stage_id=before["stage_id"],
        to_stage_id=moved["stage_id"],
        from_status=before["status"],
        status=moved["status"],
        closed_at=moved["closed_at"],
        amount_minor=moved["amount_minor"],
        currency=moved["currency"],
    )
    records.emit(session, principal, event, moved)
    return moved


async def change_many(session: Session, principal: Principal, items: Sequence[DealBulkItem]) -> list[Record]:
    """Change several deals, all or none."""

    async def change_one(before: Record, wanted: Mapping[str, Any]) -> Record:
        return await change(session, principal, before, wanted)

    return await records.change_many(session, principal, DEAL, items, change_one)
