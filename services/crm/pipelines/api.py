"""``/v1/pipelines``."""

from typing import Annotated
from uuid import UUID

from fastapi import Query, Request
from starlette.responses import Response

from services.crm.pipelines import service
from services.crm.pipelines.schemas import Pipeline, PipelineChange, PipelineCreate, PipelinePage, PipelineQuery
from shared.auth import Principal
from shared.http import (
    RequestSession,
    check_if_match,
    etag,
    json_response,
    not_modified,
    page_response,
    requires,
    service_router,
)

router = service_router("pipelines", "/v1/pipelines")
Reader = Annotated[Principal, requires("pipelines:read")]
Writer = Annotated[Principal, requires("pipelines:write")]


@router.get("", response_model=PipelinePage)
async def list_pipelines(
    principal: Reader, session: RequestSession, query: Annotated[PipelineQuery, Query()]
) -> Response:
    """The organisation's pipelines, oldest first; there is always at least the default one."""
    rows = await service.page(session, principal, query)
    return page_response(rows, query.limit, service.SORT, ("created_at", "id"))


@router.post("", status_code=201, response_model=Pipeline)
async def create_pipeline(principal: Writer, session: RequestSession, body: PipelineCreate) -> Response:
    """Make a pipeline with its stages."""
    row = await service.create(session, principal, body)
    return json_response(row, 201, {"ETag": etag(row["version"]), "Location": f"/v1/pipelines/{row['id']}"})


@router.get("/{pipeline_id}", response_model=Pipeline)
async def get_pipeline(principal: Reader, session: RequestSession, request: Request, pipeline_id: UUID) -> Response:
    """One pipeline with its stages."""
    row = await service.get(session, principal, pipeline_id)
    return not_modified(request, row["version"]) or json_response(row, headers={"ETag": etag(row["version"])})


@router.patch("/{pipeline_id}", response_model=Pipeline)
async def update_pipeline(
    principal: Writer, session: RequestSession, request: Request, pipeline_id: UUID, body: PipelineChange
) -> Response:
    """Change a pipeline's name or stages, or make it the default; a stage with deals cannot be removed."""
    before = await service.get(session, principal, pipeline_id, lock=True)
    check_if_match(request, before["version"])
    row = await service.change(session, principal, before, body)
    return json_response(row, headers={"ETag": etag(row["version"])})


@router.delete("/{pipeline_id}", status_code=204)
async def delete_pipeline(principal: Writer, session: RequestSession, request: Request, pipeline_id: UUID) -> Response:
    """Delete a pipeline; not one with deals, and not the default one."""
    before = await service.get(session, principal, pipeline_id, lock=True)
    check_if_match(request, before["version"])
    await service.delete(session, principal, before)
    return Response(status_code=204)
