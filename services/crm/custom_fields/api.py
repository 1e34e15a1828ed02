"""``/v1/custom-fields``."""

from typing import Annotated
from uuid import UUID

from fastapi import Query, Request
from starlette.responses import Response

from services.crm.custom_fields import service
from services.crm.custom_fields.schemas import (
    CustomField,
    CustomFieldChange,
    CustomFieldCreate,
    CustomFieldPage,
    CustomFieldQuery,
)
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

router = service_router("custom-fields", "/v1/custom-fields")
Reader = Annotated[Principal, requires("custom_fields:read")]
Writer = Annotated[Principal, requires("custom_fields:write")]


@router.get("", response_model=CustomFieldPage)
async def list_custom_fields(
    principal: Reader, session: RequestSession, query: Annotated[CustomFieldQuery, Query()]
) -> Response:
    """The organisation's custom fields, oldest first."""
    rows = await service.page(session, principal, query)
    return page_response(rows, query.limit, service.SORT, ("created_at", "id"))


@router.post("", status_code=201, response_model=CustomField)
async def create_custom_field(principal: Writer, session: RequestSession, body: CustomFieldCreate) -> Response:
    """Define a custom field; records may hold it from then on."""
    row = await service.create(session, principal, body)
    return json_response(row, 201, {"ETag": etag(1), "Location": f"/v1/custom-fields/{row['id']}"})


@router.get("/{field_id}", response_model=CustomField)
async def get_custom_field(principal: Reader, session: RequestSession, request: Request, field_id: UUID) -> Response:
    """One custom field."""
    row = await service.get(session, principal, field_id)
    return not_modified(request, row["version"]) or json_response(row, headers={"ETag": etag(row["version"])})


@router.patch("/{field_id}", response_model=CustomField)
async def update_custom_field(
    principal: Writer, session: RequestSession, request: Request, field_id: UUID, body: CustomFieldChange
) -> Response:
    """Change a custom field's label or options."""
    before = await service.get(session, principal, field_id, lock=True)
    check_if_match(request, before["version"])
    row = await service.change(session, principal, before, body)
    return json_response(row, headers={"ETag": etag(row["version"])})


@router.delete("/{field_id}", status_code=204)
async def delete_custom_field(principal: Writer, session: RequestSession, request: Request, field_id: UUID) -> Response:
    """Remove a custom field; values that records already hold stay as they are."""
    before = await service.get(session, principal, field_id, lock=True)
    check_if_match(request, before["version"])
    await service.delete(session, principal, before)
    return Response(status_code=204)
