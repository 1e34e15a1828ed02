"""``/v1/invitations``."""

from typing import Annotated
from uuid import UUID

from fastapi import Query
from starlette.responses import Response

from services.identity import passwords
from services.identity.accounts import service as accounts
from services.identity.guard import SIGN_UP
from services.identity.invitations import service
from services.identity.invitations.schemas import AcceptedInvitation, Invitation, InvitationAccept, InvitationCreate
from services.identity.sessions import service as sessions
from services.identity.web import TOO_MANY, EdgeDep
from shared.auth import Principal
from shared.http import (
    BeginSession,
    Page,
    PageParams,
    PrincipalDep,
    RequestSession,
    json_response,
    page_response,
    rated,
    requires,
    service_router,
)
from shared.limits.anonymous import by_address

router = service_router("invitations", "/v1/invitations")
Reader = Annotated[Principal, requires("invitations:read")]
Writer = Annotated[Principal, requires("invitations:write")]


@router.get("", response_model=Page[Invitation])
async def list_invitations(
    principal: Reader, session: RequestSession, query: Annotated[PageParams, Query()]
) -> Response:
    """The organisation's invitations, oldest first."""
    rows = [service.shown(row) for row in await service.page(session, principal, query)]
    return page_response(rows, query.limit, service.SORT, ("created_at", "id"))


@router.post("", status_code=201, response_model=Invitation)
@rated(route_class="admin")
async def create_invitation(
    principal: Writer, session: RequestSession, edge: EdgeDep, body: InvitationCreate
) -> Response:
    """Invite somebody by mail. Nobody gives a role that may more than they may themselves."""
    row = await service.create(session, principal, edge.settings, body, edge.own.invitation_lifetime)
    return json_response(service.shown(row), 201, {"Location": f"/v1/invitations/{row['id']}"})


@router.post("/accept", response_model=AcceptedInvitation, responses=TOO_MANY)
@by_address(SIGN_UP)
async def accept_invitation(
    principal: PrincipalDep, begin: BeginSession, edge: EdgeDep, body: InvitationAccept
) -> Response:
    """Accept an invitation with the token of the mailed link; who is new is signed in by the answer."""
    async with edge.reading() as reading:
        found = await service.offer(reading, body.token)
    service.check_complete(found, body.name, body.password)
    hashed = None
    if found.needs_password and body.password is not None:
        hashed = await passwords.hash_new_password(body.password, email=found.invitation["email"], name=body.name or "")
    session = await begin()
    made = await service.accept(session, principal, edge.settings, body.token, name=body.name, password_hash=hashed)
    content = {"organization": made.organization, "user": accounts.shown(made.user), "session": None}
    if not made.proven:
        return json_response(content)
    started = await sessions.start(
        session,
        principal,
        made.user["id"],
        made.organization["id"],
        method="invitation",
        lifetime=edge.own.session_lifetime,
        user_agent=edge.user_agent,
    )
    return edge.signed_in({**content, "session": started.session}, started.token, 200)


@router.get("/{invitation_id}", response_model=Invitation)
async def get_invitation(principal: Reader, session: RequestSession, invitation_id: UUID) -> Response:
    """One invitation."""
    return json_response(service.shown(await service.get(session, principal, invitation_id)))


@router.delete("/{invitation_id}", status_code=204)
@rated(route_class="admin")
async def revoke_invitation(principal: Writer, session: RequestSession, invitation_id: UUID) -> Response:
    """Revoke an invitation, so that its link stops working."""
    before = await service.get(session, principal, invitation_id, lock=True)
    await service.revoke(session, principal, before)
    return Response(status_code=204)
