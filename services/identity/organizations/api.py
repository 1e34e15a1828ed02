"""``/v1/organization`` (the caller's own) and ``/v1/organizations`` (all of a person's)."""

from typing import Annotated

from fastapi import Query, Request
from starlette.responses import Response

from services.identity.organizations import service
from services.identity.organizations.schemas import (
    Organization,
    OrganizationChange,
    OrganizationCreate,
    OwnOrganization,
)
from shared.auth import Principal
from shared.http import (
    Page,
    PageParams,
    RequestSession,
    SignedInUser,
    check_if_match,
    etag,
    json_response,
    not_modified,
    page_response,
    rated,
    requires,
    service_router,
)

router = service_router("organizations")
Reader = Annotated[Principal, requires("organization:read")]
Writer = Annotated[Principal, requires("organization:write")]


@router.get("/v1/organization", response_model=Organization)
async def get_organization(principal: Reader, session: RequestSession, request: Request) -> Response:
    """The organisation the credential belongs to."""
    row = await service.get(session, principal)
    return not_modified(request, row["version"]) or json_response(row, headers={"ETag": etag(row["version"])})


@router.patch("/v1/organization", response_model=Organization)
@rated(route_class="admin")
async def update_organization(
    principal: Writer, session: RequestSession, request: Request, body: OrganizationChange
) -> Response:
    """Rename the organisation. Its data region cannot be changed yet."""
    before = await service.get(session, principal, lock=True)
    check_if_match(request, before["version"])
    row = await service.change(session, principal, before, body)
    return json_response(row, headers={"ETag": etag(row["version"])})


@router.get("/v1/organizations", response_model=Page[OwnOrganization])
async def list_organizations(
    principal: SignedInUser, session: RequestSession, query: Annotated[PageParams, Query()]
) -> Response:
    """The organisations the signed-in person belongs to, oldest first."""
    return page_response(await service.page(session, principal, query), query.limit, service.SORT, ("created_at", "id"))


@router.post("/v1/organizations", status_code=201, response_model=Organization)
async def create_organization(principal: SignedInUser, session: RequestSession, body: OrganizationCreate) -> Response:
    """Make another organisation, owned by the signed-in person; switch to it to work there."""
    assert principal.user_id is not None, "asked for by SignedInUser"
    row = await service.create(session, principal, principal.user_id, body)
    return json_response(row, 201, {"ETag": etag(1)})
