"""``/v1/members`` and ``/v1/roles``."""

from typing import Annotated
from uuid import UUID

from fastapi import Query, Request
from starlette.responses import Response

from services.identity.members import service
from services.identity.members.schemas import Member, MemberChange, RoleList
from shared.auth import Principal
from shared.db import Record
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

router = service_router("members")
Reader = Annotated[Principal, requires("members:read")]
Writer = Annotated[Principal, requires("members:write")]


@router.get("/v1/members", response_model=Page[Member])
async def list_members(principal: Reader, session: RequestSession, query: Annotated[PageParams, Query()]) -> Response:
    """Who belongs to the organisation, in the order they joined."""
    rows = [service.shown(row) for row in await service.page(session, principal, query)]
    return page_response(rows, query.limit, service.SORT, ("created_at", "id"))


@router.get("/v1/members/{member_id}", response_model=Member)
async def get_member(principal: Reader, session: RequestSession, request: Request, member_id: UUID) -> Response:
    """One member."""
    row = await service.get(session, principal, member_id)
    return not_modified(request, row["version"]) or _answer(row)


@router.patch("/v1/members/{member_id}", response_model=Member)
@rated(route_class="admin")
async def update_member(
    principal: Writer, session: RequestSession, request: Request, member_id: UUID, body: MemberChange
) -> Response:
    """Give a member another role. Only an owner makes and unmakes owners, and one always remains."""
    before = await service.lock(session, principal, member_id)
    check_if_match(request, before["version"])
    return _answer(await service.change_role(session, principal, before, body.role))


@router.delete("/v1/members/{member_id}", status_code=204)
@rated(route_class="admin")
async def remove_member(principal: Writer, session: RequestSession, request: Request, member_id: UUID) -> Response:
    """Remove a member; the API keys they made are revoked."""
    before = await service.lock(session, principal, member_id)
    check_if_match(request, before["version"])
    await service.remove(session, principal, before)
    return Response(status_code=204)


@router.delete("/v1/me/organizations/{organization_id}", status_code=204)
async def leave_organization(principal: SignedInUser, session: RequestSession, organization_id: UUID) -> Response:
    """Leave an organisation; the last owner cannot. The API keys one made there are revoked."""
    await service.leave(session, principal, organization_id)
    return Response(status_code=204)


@router.get("/v1/roles", response_model=RoleList)
async def list_roles(_principal: Reader) -> Response:
    """The roles there are, and the scopes of each."""
    return json_response({"data": service.roles()})


def _answer(row: Record) -> Response:
    return json_response(service.shown(row), headers={"ETag": etag(row["version"])})
